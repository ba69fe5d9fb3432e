"""Shortcuts around the engine, each exact and proven equal to it: fewer layers, fewer chips, no queues.

A simulated part goes in, the times of the whole come out. Imports: program, engine, topology.
"""
