"""Simulate: a scenario in, its passes, their traces and the report of all steps out.

`forward_pass` lowers and runs one pass, `decode_steps` the steps of a generation, `run` everything a scenario asks for,
`predict` the closed forms beside it. A step's time needs no report: only `run` and `result` import it. Imports:
everything up to report.
"""
