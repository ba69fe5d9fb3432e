"""Explain the difference: from the formula of Pope et al. 2022 to the simulated step, one effect at a time.

Every model is the one before with one effect more. Up to the closed form of the scenario's layout on an ideal machine
(data sheet rates, nothing to wait for, nothing overlapping) they are formulas; from there on simulations. There both
must agree: what is simulated is then what the formulas mean.
"""

from sim.studies.explain.explain import explain

__all__ = ["explain"]
