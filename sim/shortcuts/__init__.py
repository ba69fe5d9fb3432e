"""Shortcuts that replace engine runs and give equal times, as tests prove: fewer layers, fewer chips, no queues.

The trace of a simulated part goes in; the times of the full program come out. Imports: program, engine, topology.
"""
