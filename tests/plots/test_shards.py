"""Who holds which shard: chips of one number hold the same shards, and all shards of a tensor are held."""

from __future__ import annotations

import numpy as np
import pytest
from support.shipped import phases

from sim.plots import shards
from sim.plots.shards import number_shards
from sim.results.figures import draw_figure


def test_the_first_axis_of_a_torus_splits_it_into_slabs() -> None:
    ((_, part, _),) = phases(("palm540b_decode_ws2d",))
    machine = part.topology.unfold()
    none = np.zeros(machine.chips, dtype=np.int64)
    assert number_shards(("x",), none, machine).tolist() == [chip // 16 for chip in range(64)]
    assert number_shards(("x", "y", "z"), none, machine).tolist() == list(range(64))
    assert not number_shards((), none, machine).any()
    first_half = np.arange(64) // 32  # two stages
    assert len(set(number_shards(("x",), first_half, machine).tolist())) == 4  # of each stage two slabs


@pytest.mark.parametrize(
    "name", ["palm540b_decode_ws2d", "llama3_70b_tp8_ladder", "llama3_70b_attention_data_parallel"]
)
def test_every_tensor_stands_in_one_panel_with_as_many_shards_as_its_axes_make(name: str) -> None:
    ((_, part, _),) = phases((name,))
    texts = [" ".join(text.get_text().split()) for text in draw_figure("shards", part, "title").texts]
    for tensor_name, tensor in {**part.lowered.stored_weights, **part.lowered.caches}.items():
        place = next(i for i, text in enumerate(texts) if f"{tensor_name} {tensor}" in text)
        count = int(np.prod([tensor.group_size(dim.axes) for dim in tensor.dims]))
        assert (f"{count} shards" in texts[place - 1]) if count > 1 else texts[place - 1] == "whole on every chip"


def test_colours_of_all_shards_differ() -> None:
    ((_, part, _),) = phases(("palm540b_decode_ws2d",))
    drawing = shards.color_chips(shards.drawing_of(part.topology.unfold()), np.arange(64) // 16)
    assert len({(node.label, node.fill) for node in drawing.nodes}) == len({node.fill for node in drawing.nodes}) == 4
