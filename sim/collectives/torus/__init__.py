"""Algorithms between neighbours on the lines and rings of a torus."""
