"""Counts by a third, plain implementation that goes through every rank, every tensor and every head.

Lowering and closed forms count by the algebra of shards; a wrong rule in both would go unnoticed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from math import gcd, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.selection import pairwise, release

from sim.closed_form.heads import key_value_heads_read
from sim.closed_form.prediction import PAPER_LAYOUTS
from sim.layouts import sharding
from sim.layouts.sharding import Dim, Sharded
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.specs import Model, Scenario, load

Tensor = tuple[tuple[str, int], ...]
"""Dimensions as letters of `SPLITS`, and their sizes."""
MODELS = ("palm_540b", "llama3_70b", "gpt_20b")
"""One with multi-query attention, one with grouped queries, one with multi-head attention."""
OTHER_MODELS = [name for name in load.shipped("model") if name not in MODELS and not load.model(name).experts]
ATTENTION = ("heads", "batch")
MESHES = ((2, 2, 1), (2, 2, 2), (4, 4, 4), (8, 4, 4), (4, 16))
GPUS = (1, 2, 4, 6, 8, 12, 16)


def tensors(model: Model, block: str, size: Mapping[str, int]) -> Iterator[Tensor]:
    """Weights of the model as its definition has them, of the sizes that the machine computes."""

    def of(letters: str) -> Tensor:
        return tuple((letter, size[letter]) for letter in letters)

    inputs = 2 if model.ffn == "swiglu" else 1
    attention = ["EHQ", "EKQ", "EKQ", "HQE"]
    if model.latent:
        attention = ["EA", "EC", "ER", "AHN", "AHR", "CHN", "CHU", "HUE", "A", "C"]
    for layer in range(model.layers):
        ffn = [*["EF"] * inputs, "FE"]
        if model.experts and model.experts.in_layer(layer):
            ffn = ["EX", *["XED"] * inputs, "XDE", *(["ES"] * inputs + ["SE"] if model.experts.shared else [])]
        yield from map(of, (*attention, *ffn))
        yield from [of("E")] * (1 if block == "parallel" else 2)
    yield of("E")
    yield from [of("VE")] * (1 if model.tied else 2)


def more_sizes(model: Model) -> dict[str, int]:
    """Sizes of dimensions that models with experts or latent attention have."""
    experts, latent = model.experts, model.latent
    size = {"X": experts.count, "D": experts.d_ff, "S": experts.shared * experts.d_ff} if experts else {}
    if latent:
        size |= {"A": latent.q_rank, "C": latent.kv_rank, "R": latent.rope}
        size |= {"N": model.d_head - latent.rope, "U": latent.d_value}
    return size


def least(size: int, *ways: int) -> int:
    """The next size that all of these numbers of chips divide."""
    return next(n for n in itertools.count(size) if all(n % each == 0 for each in ways))


def held(tensor: Tensor, split: Mapping[str, int], ranks: int) -> list[int]:
    """Elements of the tensor on every rank; the ranks together hold all of it."""
    blocks = [[range(size // split[d] * i, size // split[d] * (i + 1)) for i in range(split[d])] for d, size in tensor]
    for (_, size), own in zip(tensor, blocks, strict=True):
        assert sorted(itertools.chain(*own)) == list(range(size))
    parts = list(itertools.product(*blocks))
    assert ranks % len(parts) == 0
    return [prod(len(block) for block in parts[rank % len(parts)]) for rank in range(ranks)]


LAYERS = 5
"""More than the dense layers at the start of any shipped model with experts."""


def of_fullest(scenario: Scenario, size: Mapping[str, int], splits: list[Mapping[str, int]], ranks: int) -> int:
    """Bytes of weights on the fullest rank."""
    item = {"bf16": 2, "fp16": 2, "int8": 1}[scenario.workload.weights]
    found = [0] * ranks
    known: dict[tuple[Tensor, int], list[int]] = {}
    for tensor, split in zip(tensors(scenario.model, scenario.block, size), splits, strict=True):
        key = tensor, id(split)
        if key not in known:
            known[key] = held(tensor, split, ranks)
        for rank, elements in enumerate(known[key]):
            found[rank] += elements * item
    return max(found)


def on_a_torus(scenario: Scenario) -> int:
    """Weights stored E_x F_zy V_xyz; the one-dimensional layout stores E whole and F over all (Pope et al. 3.2).

    Few key-value heads are never gathered: whole on every chip, or over the outermost axes in use that divide them.
    """
    model, layout = scenario.model, scenario.layout.ffn
    lengths = [axis.size for axis in scenario.topology.axes.values()]
    ranks, gathered = prod(lengths), len(layout.rpartition("_")[2]) if "gathered" in layout else 0
    one = layout == "weight_stationary_1d"
    e, f = (1, ranks) if one else (lengths[0], ranks // lengths[0])
    stream = lengths[0] if one else prod(lengths[gathered:])
    in_use = lengths[::-1] if one else lengths[max(1, gathered) :][::-1]
    multi_head, kept = model.kv_heads == model.heads, 1
    for length in in_use if scenario.layout.attention == "heads" else []:
        if model.kv_heads % (kept * length):
            break
        kept *= length
    heads = least(model.computed_heads, f)
    size = {
        "E": least(model.d_model, stream, e),
        "H": heads,
        "K": heads if multi_head else model.kv_heads,
        "Q": model.d_head,
        "F": model.d_ff,
        "V": least(model.vocabulary, ranks),
    }
    own = {"E": e, "H": f, "Q": 1, "F": f}
    keys = own | ({"K": f} if multi_head else {"E": 1 if gathered else e, "K": kept})
    layer = [own, keys, keys, own, *[own] * (2 if model.ffn == "swiglu" else 1), own]
    gain = {"E": 1 if gathered else stream if one else e}  # of one dimension, before the stream is gathered
    layer += [gain] * (1 if scenario.block == "parallel" else 2)
    ends = [{"E": 1}, *[{"V": ranks, "E": 1}] * (1 if model.tied else 2)]
    return of_fullest(scenario, size, [*layer * model.layers, *ends], ranks)


def on_gpus(scenario: Scenario, ranks: int) -> int:
    """Columns, then rows over all ranks; few key-value heads over as many ranks as divide them."""
    model, n = scenario.model, ranks
    heads = least(model.computed_heads, n)
    multi_head = model.kv_heads == model.heads
    size = {
        "E": model.d_model,
        "H": heads,
        "K": heads if multi_head else model.kv_heads,
        "Q": model.d_head,
        "F": model.d_ff,
        "V": least(model.vocabulary, n),
    } | more_sizes(model)
    own = dict.fromkeys("EQXACRNU", 1) | {"H": n, "F": n, "D": n, "S": n}
    own |= {"K": n if multi_head else gcd(model.kv_heads, n)}
    ends = [{"E": 1}, *[{"V": n if scenario.layout.head == "sharded" else 1, "E": 1}] * (1 if model.tied else 2)]
    layers = len(list(tensors(model, scenario.block, size))) - len(ends)
    return of_fullest(scenario, size, [*[own] * layers, *ends], ranks)


def torus_scenario(model: str, layout: str, attention: str, mesh: tuple[int, ...]) -> Scenario:
    axes = ", ".join(f"{name}: {{size: {size}, wrap: true}}" for name, size in zip("xyz", mesh, strict=False))
    return load.scenario(
        "palm540b_decode_ws2d",
        [
            f"model={model}",
            "model.layers=2",
            f"topology.axes={{{axes}}}",
            f"layout={{ffn: {layout}, attention: {attention}}}",
            "workload={phase: decode, batch: 1024, context: 100, generate: 1, weights: int8}",
        ],
    )


def gpu_scenario(model: str, ranks: int, *settings: str) -> Scenario:
    chips = [f"topology.chips={ranks}", f"layout.mesh.tensor={ranks}", "layout.residual=null"]
    fields = [
        f"model={model}",
        f"model.layers={LAYERS}",
        *chips,
        "layout.logits=last",
        "stack.attention=unfused",
        *settings,
    ]
    return load.scenario("llama3_70b_tp8_standard", fields)


@pytest.mark.parametrize(
    ("model", "layout", "attention", "mesh"),
    [
        *pairwise(itertools.product(MODELS, PAPER_LAYOUTS, ATTENTION, MESHES)),
        *release(
            itertools.product(
                [name for name in load.shipped("model") if name not in MODELS and not load.model(name).experts],
                PAPER_LAYOUTS,
                ATTENTION,
                MESHES,
            )
        ),
    ],
)
def test_weights_of_a_chip_of_a_torus_are_those_of_all_its_tensors(model, layout, attention, mesh):
    scenario = torus_scenario(model, layout, attention, mesh)
    assert lower(scenario, mesh_of(scenario), keep=2).weights_bytes == on_a_torus(scenario)


def fits(model: str, ranks: int) -> bool:
    """Whether this many ranks can share the model's heads and d_ff."""
    own = load.model(model)
    heads = least(own.computed_heads, ranks)
    if own.experts and own.experts.d_ff % ranks:
        return False
    return own.d_ff % ranks == 0 and (own.kv_heads == own.heads or heads % own.kv_heads == 0)


RANKED = [(name, n) for name in load.shipped("model") for n in GPUS if fits(name, n)]


@pytest.mark.parametrize(
    ("model", "ranks", "head"), pairwise((*case, head) for case in RANKED for head in ("sharded", "replicated"))
)
def test_weights_of_a_tensor_parallel_rank_are_those_of_all_its_tensors(model: str, ranks: int, head: str):
    scenario = gpu_scenario(model, ranks, f"layout.head={head}")
    assert lower(scenario, mesh_of(scenario), keep=2).weights_bytes == on_gpus(scenario, ranks)


@pytest.mark.parametrize("name", load.shipped("model"))
def test_parameters_are_those_of_all_tensors_without_norms(name: str):
    model = load.model(name)
    size = {"E": model.d_model, "H": model.heads, "K": model.kv_heads, "Q": model.d_head, "F": model.d_ff}
    size |= more_sizes(model)
    found = sum(
        prod(length for _, length in tensor)
        for tensor in tensors(model, model.block, size | {"V": model.vocabulary})
        if len(tensor) > 1
    )
    assert model.counted_parameters == found


# --- key-value heads -------------------------------------------------------------------------------------------------


def most_read(heads: int, kv_heads: int, ranks: int) -> int:
    """Most key-value heads that the query heads of a rank share, by going through the heads of every rank."""
    own = heads // ranks
    return max(
        len({head // (heads // kv_heads) for head in range(rank * own, (rank + 1) * own)}) for rank in range(ranks)
    )


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 8), st.integers(1, 8))
def test_key_value_heads_read_are_those_that_the_heads_of_a_rank_share(kv_heads: int, group: int, t: int, r: int):
    """Both rules, of formulas and of shards, against all ranks; t axes split the key-value heads, r hold copies."""
    t = gcd(t, kv_heads)
    heads = kv_heads * group * t * r
    want = most_read(heads, kv_heads, t * r)
    mesh = (("t", t), ("r", r))
    query = Sharded((Dim("H", heads, ("t", "r")),), mesh)
    key = Sharded((Dim("K", kv_heads, ("t",)),), mesh)
    assert sharding.key_value_heads_used(query, key) == want
    assert key_value_heads_read(heads / (t * r), heads / kv_heads) == want


def test_heads_that_straddle_two_groups_read_two():
    """48 heads in groups of 6 on 12 ranks, 4 each: those of rank 1, heads 4 to 7, are of groups 0 and 1."""
    assert most_read(48, 8, 12) == 2
    assert key_value_heads_read(4, 6) == 2


def of_attention(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> tuple[Sharded, Sharded, int]:
    """(query, keys, key-value heads read) of the scenario's attention."""
    seen: list[tuple[Sharded, Sharded]] = []
    real = sharding.attention

    def spy(q: Sharded, k: Sharded, v: Sharded) -> Sharded:
        seen.append((q, k))
        return real(q, k, v)

    monkeypatch.setattr(sharding, "attention", spy)
    work = lower(scenario, mesh_of(scenario), keep=2).attentions["attention"]
    query, key = seen[0]
    per_head = 2 * key.local_shape[0] * key.local_shape[3] * sharding.ITEM_BYTES[scenario.workload.kv_cache]
    assert work.read % per_head == 0
    return query, key, work.read // per_head


def block_of(tensor: Sharded, dim: str, rank: Mapping[str, int]) -> range:
    """What a rank holds of a dimension."""
    own, block = tensor.dim(dim), 0
    for axis in own.axes:
        block = block * dict(tensor.mesh)[axis] + rank[axis]
    length = own.size // tensor.group_size(own.axes)
    return range(block * length, (block + 1) * length)


def check_attention(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank holds what its query heads read, the fullest reads as many as are counted, together they have all."""
    query, key, counted = of_attention(scenario, monkeypatch)
    group = query.dim("H").size // key.dim("K").size
    read, cached = 0, set()
    for at in itertools.product(*(range(size) for _, size in query.mesh)):
        rank = dict(zip(dict(query.mesh), at, strict=True))
        heads = {head // group for head in block_of(query, "H", rank)}
        assert heads <= set(block_of(key, "K", rank))
        assert block_of(query, "B", rank) == block_of(key, "B", rank)
        read = max(read, len(heads))
        cached |= set(itertools.product(block_of(key, "B", rank), block_of(key, "K", rank)))
    assert counted == read
    assert len(cached) == key.dim("B").size * key.dim("K").size


@pytest.mark.parametrize(
    ("kv_heads", "layout", "attention", "mesh"),
    pairwise(itertools.product((1, 2, 3, 6, 12, 48), PAPER_LAYOUTS, ATTENTION, ((2, 2, 2), (2, 3, 2), (4, 4), (3, 4)))),
)
def test_attention_reads_the_key_value_heads_of_each_chip_of_a_torus(kv_heads, layout, attention, mesh, monkeypatch):
    scenario = torus_scenario("gpt_20b", layout, attention, mesh)
    model = scenario.model.model_copy(update={"kv_heads": kv_heads, "d_ff": 24 * 1024})
    work = scenario.workload.model_copy(update={"batch": 48})
    check_attention(scenario.model_copy(update={"model": model, "workload": work}), monkeypatch)


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 4, 6, 8, 12, 16, 24, 48])
def test_attention_reads_the_key_value_heads_of_each_tensor_parallel_rank(kv_heads, monkeypatch):
    for ranks in (1, 2, 3, 4, 6, 8, 12, 16, 24, 48):
        if 48 % ranks == 0:
            settings = [f"model.kv_heads={kv_heads}", "model.d_ff=24576", "model.heads=48"]
            check_attention(gpu_scenario("gpt_20b", ranks, *settings), monkeypatch)


# --- FLOPs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "ranks", "phase"),
    pairwise((*case, phase) for case in RANKED if not load.model(case[0]).latent for phase in ("prefill", "decode")),
)
def test_flops_of_a_rank_are_two_for_each_weight_and_token(model, ranks, phase):
    """And 4 L C Q a head for scores and values; logits of the last position of each of the 3 sequences. Of experts
    those that a token uses, and the router, which every rank runs."""
    tokens, length = {"prefill": (8, 8), "decode": (1, 101)}[phase]
    settings = {"prefill": "prompt: 8", "decode": "context: 100, generate: 1"}[phase]
    scenario = gpu_scenario(
        model, ranks, f"workload={{phase: {phase}, batch: 3, {settings}, weights: bf16}}", "layout.head=sharded"
    )
    own = scenario.model
    heads = least(own.computed_heads, ranks) // ranks
    keys = heads if own.kv_heads == own.heads else own.kv_heads // gcd(own.kv_heads, ranks)
    matrices, experts, layers = 3 if own.ffn == "swiglu" else 2, own.experts, 0
    for number in range(own.layers):
        width = matrices * own.d_ff // ranks
        if experts and experts.in_layer(number):
            width = matrices * (experts.top_k + experts.shared) * experts.d_ff // ranks + experts.count
        weights = own.d_model * (2 * (heads + keys) * own.d_head + width)
        layers += 2 * 3 * tokens * weights + 4 * 3 * tokens * length * heads * own.d_head
    logits = 2 * 3 * own.d_model * least(own.vocabulary, ranks) // ranks
    program = lower(scenario, mesh_of(scenario)).program
    mine = (program.chip == 0) & (program.kind == Kind.COMPUTE)
    assert program.flops[mine].sum() == pytest.approx(layers + logits, rel=1e-12)
