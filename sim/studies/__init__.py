"""Studies: many runs for one question. Measured collectives, suites, explanations, sweeps and searches.

Scenarios or suites go in, tables and figures come out. Imports: everything below; of each other, `bench` comes first,
then `validate`, `explain`, `sweep`, `search`.
"""
