"""Chakra execution traces on the machines of this project: files of every rank in, a program and its report out.

A computation takes the time the trace says, or else the roofline of its FLOPs and bytes; a message goes over the
machine's links; a collective is done by the machine's own algorithm within its communicator group. Nodes of traces that
this program wrote hold the very links they say. What a trace leaves open, and what of it is not simulated, is said in
the notes of the result.
"""

from sim.export.chakra_replay.communicators import read_groups
from sim.export.chakra_replay.program import Replayed, TracedProgram, build_program, load, simulate_traces

__all__ = ["Replayed", "TracedProgram", "build_program", "load", "read_groups", "simulate_traces"]
