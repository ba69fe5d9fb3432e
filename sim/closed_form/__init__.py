"""Closed forms: a scenario in, times by formulas out that share no code with the simulation. Imports: specs."""
