"""Results: the folder of a run, written whole and read back, its figures and its page.

A run goes in, files come out; `saved` reads them again. Imports: simulate, report, plots, export.
"""
