"""Figures of topologies, traces and reports: the only place that imports matplotlib."""
