"""Many runs from one scenario file: the points of its sweep, one row per point, a table and a figure of the rows."""
