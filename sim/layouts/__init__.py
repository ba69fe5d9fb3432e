"""One transformer layer as dataflow for any partition of the mesh axes, and what comes before and after the layers."""
