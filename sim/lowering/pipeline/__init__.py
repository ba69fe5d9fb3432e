"""Pipelines: stages as machines of their own, and schedules that say which pass of a stage comes after which."""
