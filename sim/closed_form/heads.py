"""Key-value heads that the query heads of one chip read.

H query heads are computed in K groups of g = H/K; a chip has h consecutive ones, the first of them a multiple of h. Its
first query head lies r h mod g heads behind the begin of a group, which over all chips takes every multiple of
d = gcd(h, g) below g. From the last of these, g - d, the chip's heads reach (g - d + h)/g groups, rounded up.
"""

from __future__ import annotations

from math import gcd


def key_value_heads_read(heads: float, group: float) -> int:
    """ceil((g - d + h)/g): most key-value heads of any chip, h a multiple or a part of g or neither.

    Args:
        heads: h, query heads of a chip.
        group: g, query heads that share a key-value head.
    """
    h, g = round(heads), round(group)
    return -(-(g - gcd(h, g) + h) // g)
