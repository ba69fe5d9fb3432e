"""From dataflow to tasks: streams, operations as tasks, looped matmuls, and the interpreter that ties them together."""
