"""Random scenario files, valid or broken, run through the command line: each must succeed or be refused in one line.

`PYTHONPATH=tests python -m support.fuzz --count 10000 --seed 1 --jobs 2` runs many and prints how often each outcome
occurred.
"""
