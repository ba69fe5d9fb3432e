"""Suites of published measurements: their rows simulated (`validate`) or fitted to (`calibrate`)."""
