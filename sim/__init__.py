"""Discrete-event simulator of multi-device collectives for Transformer inference."""

__version__ = "0.1.0"
