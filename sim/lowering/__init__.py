"""Lowering: a scenario and its machine in, the tasks of one forward pass or of a pipeline's requests out. `placement`
chooses the mesh, `dataflow` turns the operations of a layout into tasks on `streams`, `costs` gives their times.
Imports: everything up to layouts."""
