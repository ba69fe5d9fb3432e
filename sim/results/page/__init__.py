"""Runs as a page: one HTML file with everything in it, that opens without a network."""

from sim.results.page.page import write

__all__ = ["write"]
