"""Layouts: uses of the mesh axes in, a forward pass as dataflow on sharded tensors out.

`sharding` is the algebra of sharded tensors, `layer`, `attention` and `residual` write a layer, `forward` the pass
around it, `numpy_executor` runs it on real shards. Imports: everything up to collectives.
"""
