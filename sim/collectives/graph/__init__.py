"""Algorithms over routes: each message goes from rank to rank by the machine's own ways, on switches and graphs."""
