"""Present: a report, a comparison or an explanation as text and tables. Imports: report."""
