"""A residual scheme between standard and Ladder: only the attention reads the stream one sublayer earlier.

    a = AR(A(r));  r += m + a;  m = AR(M(r))

The all-reduce of the FFN overlaps the next layer's attention; that of the attention stays exposed.
"""

from typing import Any

from sim.plugins import Layer, Stream, residual_scheme


@residual_scheme
def half_ladder(layer: Layer[Any], stream: Stream[Any]) -> Stream[Any]:
    """a = AR(A(r));  r += m + a;  m = AR(M(r)): the attention reads the stream one sublayer earlier."""
    attention = layer.attention(layer.norm(stream.x, (), "norm")[1])
    x = stream.x if stream.mlp is None else layer.flow.add(stream.x, stream.mlp, "residual mlp")
    x, y = layer.norm(x, (attention,), "ffn_norm")
    return Stream(x, mlp=layer.mlp(y))
