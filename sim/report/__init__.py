"""Report: traces and programs in, figures out beside their closed forms. `metrics` measures a trace, `report` is the
record of a run, `present` shows it. Imports: everything up to shortcuts, but not how programs were lowered."""
