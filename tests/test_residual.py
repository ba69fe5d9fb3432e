"""Every residual scheme computes its own recurrence: the NumPy executor against plain loops over ranks."""

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import transformer
from machines import switch

from sim.errors import LayoutError
from sim.execute import Execution
from sim.layouts import residual, tensor_parallel_pass
from sim.layouts.residual import SCHEMES
from sim.layouts.tensor_parallel import TensorParallel
from sim.placement import tensor_parallel
from sim.specs import Residual

LAYERS = 5
PASSES = (3, 1, 1)
"""New positions of a prefill and two decode steps."""


class Ranks:
    """Tensor-parallel ranks written plainly: each with its heads, its part of d_ff and its own cache and residual."""

    def __init__(self, layers, ends, tp: int, kv_heads: int) -> None:
        self.layers, self.ends, self.tp, self.kv_heads = layers, ends, tp, kv_heads
        self.cache: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def A(self, layer: int, rank: int, r: np.ndarray) -> np.ndarray:  # noqa: N802
        """Rank's part of the attention, its norm included: the sum over ranks is the whole."""
        w = self.layers[layer]
        y = transformer.rms_norm(r, w["norm"])
        own = w["w_q"].shape[1] // self.tp
        heads = range(rank * own, (rank + 1) * own)
        k, v = np.tensordot(y, w["w_k"], 1), np.tensordot(y, w["w_v"], 1)
        if (layer, rank) in self.cache:
            k, v = (np.concatenate(pair, 1) for pair in zip(self.cache[layer, rank], (k, v), strict=True))
        self.cache[layer, rank] = (k, v)
        out = np.zeros_like(r)
        group = w["w_q"].shape[1] // self.kv_heads
        for h in heads:
            q, keys, values = y @ w["w_q"][:, h], k[:, :, h // group], v[:, :, h // group]
            scores = np.einsum("blq,bcq->blc", q, keys) / np.sqrt(q.shape[-1])
            new, length = q.shape[1], keys.shape[1]
            for i in range(new):
                scores[:, i, length - new + i + 1 :] = -np.inf
            p = np.exp(scores - scores.max(-1, keepdims=True))
            out += np.einsum("blc,bcq->blq", p / p.sum(-1, keepdims=True), values) @ w["w_o"][h]
        return out

    def M(self, layer: int, rank: int, r: np.ndarray, norm: str = "ffn_norm") -> np.ndarray:  # noqa: N802
        w = self.layers[layer]
        f = w["w_up"].shape[1] // self.tp
        own = slice(rank * f, (rank + 1) * f)
        part = {"w_up": w["w_up"][:, own], "w_down": w["w_down"][own]}
        if "w_gate" in w:
            part["w_gate"] = w["w_gate"][:, own]
        return transformer.ffn(transformer.rms_norm(r, w[norm]), part)

    def logits(self, tokens: np.ndarray, scheme: str, ladder_layers: int = 0, cuts: tuple = ()) -> list[np.ndarray]:
        """[ranks] logits of the last position, by the recurrences of the paper.

        Between stages, before the layers `cuts`, ladder adds what it would have added later.
        """
        ranks = range(self.tp)
        r = [self.ends["embedding"][tokens] for _ in ranks]

        def all_reduce(part, residual):
            total = sum(part(rank, residual[rank]) for rank in ranks)
            return [total for _ in ranks]

        a = m = [np.zeros_like(r[0]) for _ in ranks]
        count = len(self.layers)
        for i in range(count):
            if i in cuts:
                r = plus(plus(r, a), m)
                a = m = [np.zeros_like(r[0]) for _ in ranks]

            def A(rank, x, i=i):  # noqa: N802
                return self.A(i, rank, x)

            def M(rank, x, i=i):  # noqa: N802
                return self.M(i, rank, x)

            if scheme == "ladder" or (scheme == "hybrid" and i >= count - ladder_layers):
                r = plus(r, a)
                a = all_reduce(A, r)
                r = plus(r, m)
                m = all_reduce(M, r)
            elif scheme == "hybrid":  # standard, but the last m is added only where ladder adds it
                r = plus(r, m)
                r = plus(r, all_reduce(A, r))
                m = all_reduce(M, r)
            elif scheme == "standard":
                r = plus(r, all_reduce(A, r))
                r = plus(r, all_reduce(M, r))
            elif scheme == "parallel":
                r = plus(r, all_reduce(lambda rank, x, i=i: self.A(i, rank, x) + self.M(i, rank, x, "norm"), r))
            else:
                every = {"desync2": 1, "desync4": 2, "no_communication": 0}[scheme]
                r = [r[rank] + A(rank, r[rank]) for rank in ranks]
                if every and ((i + 1) % every == 0 or i + 1 == count):
                    total = sum(r[rank] / self.tp + M(rank, r[rank]) for rank in ranks)
                    r = [total for _ in ranks]
                else:
                    r = [r[rank] + M(rank, r[rank]) for rank in ranks]
        r = plus(plus(r, a), m)
        table = self.ends["lm_head"]
        return [transformer.rms_norm(x[:, -1:], self.ends["final_norm"]) @ table.T for x in r]


def plus(x, y):
    return [a + b for a, b in zip(x, y, strict=True)]


def passes(scheme, *, tp=4, kv=2, heads=8, ffn="swiglu", layers=LAYERS, ladder_layers=2, **options):
    """(executor's logits on each rank, the recurrence's on each rank) of every pass."""
    size = transformer.sizes(batch=4, positions=0, heads=heads, kv_heads=kv, e=16, f=8 * tp)
    size["V"] = 24 * tp
    rng = np.random.default_rng(1)
    weights = [transformer.weights(rng, size, ffn) for _ in range(layers)]
    ends = transformer.ends(rng, size) | {"lm_head": rng.normal(size=[size["V"], size["E"]])}
    machine = tensor_parallel(switch(tp), kv)
    flow = Execution(machine, size)
    model = SimpleNamespace(ffn=ffn, heads=heads, kv_heads=kv)
    axes = tuple(axis.name for axis in machine.mesh)
    ranks = Ranks(weights, ends, tp, kv)
    for positions in PASSES:
        size["L"] = positions
        tokens = ""  # of sequence parallelism
        if options.get("sequence_parallel"):
            tokens = "L" if positions % tp == 0 else "B"
        whole = tensor_parallel_pass.Pass(
            layers=tensor_parallel_pass.parts(
                TensorParallel(flow, model, axes, tokens, chunks=options.get("chunks", 1)),
                options.get("parts", 1),
            ),
            kinds=SCHEMES[scheme](layers, ladder_layers),
            head_split=options.get("head_split", ""),
            every_position=options.get("every_position", False),
            tied=False,
        )
        cuts = options.get("cuts", ())
        flow.tokens, flow.weights = rng.integers(size["V"], size=(4, positions)), ends
        streams = whole.begin()
        for i, kind in enumerate(whole.kinds):
            if i in cuts:
                whole.leave(streams, options.get("scattered", False))
                streams = whole.resume(options.get("scattered", False), whole.kinds[i - 1])
            flow.layer, flow.weights = i, weights[i]
            streams = whole.layer(kind, streams)
        flow.weights = ends
        logits, token = whole.end(streams)
        got = [flow.whole(logits)] * tp if options.get("head_split") else [each[:, -1:] for each in logits.shards]
        want = ranks.logits(flow.tokens, scheme, ladder_layers, cuts)
        if scheme != "no_communication":
            np.testing.assert_array_equal(flow.whole(token), got[0].argmax(-1))
        yield got, want


def assert_equal(found):
    for got, want in found:
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kv", [1, 2, 4, 8], ids=lambda kv: f"kv{kv}")
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_computes_its_recurrence(scheme, tp, kv):
    """Also with fewer key-value heads than chips: copies along axis r."""
    assert_equal(passes(scheme, tp=tp, kv=kv))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_last_layer_is_not_special(scheme, layers):
    assert_equal(passes(scheme, layers=layers, ladder_layers=min(2, layers)))


@pytest.mark.parametrize("scheme", ["standard", "parallel", "ladder", "hybrid"])
def test_the_stream_may_be_split_over_tokens(scheme):
    assert_equal(passes(scheme, sequence_parallel=True))


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "no_communication"])
def test_the_head_may_be_split_over_the_vocabulary(scheme):
    assert_equal(passes(scheme, head_split="_tr", every_position=False))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_logits_of_every_position_end_with_the_same(scheme):
    assert_equal(passes(scheme, every_position=True))


def test_two_parts_of_the_batch_compute_the_same():
    assert_equal(passes("standard", parts=2))


@pytest.mark.parametrize("chunks", [2, 3])
@pytest.mark.parametrize("scheme", ["standard", "ladder"])
def test_a_matmul_summed_in_pieces_computes_the_same(scheme, chunks):
    assert_equal(passes(scheme, chunks=chunks))


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2, 3)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_computes_its_recurrence_over_stages(scheme, cuts):
    """Every rank sends its own residual stream, also where those of desync differ."""
    assert_equal(passes(scheme, cuts=cuts))


@pytest.mark.parametrize("scheme", ["standard", "parallel", "ladder", "hybrid", "desync2"])
def test_stages_may_send_a_share_from_each_rank(scheme):
    assert_equal(passes(scheme, cuts=(1, 2, 3), scattered=True))


def test_shares_of_streams_that_differ_are_refused():
    """After an odd layer of desync4 every rank has its own stream: shares of them are not shares of one."""
    with pytest.raises(LayoutError, match="differs tr"):
        differs("desync4", cuts=(1,), scattered=True)
    assert not differs("desync4", cuts=(2,), scattered=True)


def test_chips_of_desync_differ_between_the_sums():
    got, _ = next(passes("no_communication"))
    assert not np.allclose(got[0], got[1])


def test_the_names_of_schemes_are_those_of_a_scenario():
    assert get_args(Residual) == tuple(SCHEMES)


# --- the proof can fail: schemes with one thing wrong are refused, or compute something else --------------------------


def differs(scheme, **options):
    pairs = [pair for got, want in passes(scheme, **options) for pair in zip(got, want, strict=True)]
    return any(not np.allclose(mine, theirs) for mine, theirs in pairs)


def test_a_ladder_that_waits_for_the_last_half_is_standard(monkeypatch):
    """Adding the newest output instead of the one before turns Ladder into Standard, and the test of Ladder says so."""
    monkeypatch.setitem(residual.LAYERS, "ladder", residual.LAYERS["standard"])
    assert differs("ladder")


def test_a_ladder_that_drops_the_last_outputs_is_caught(monkeypatch):
    norm = TensorParallel.norm
    monkeypatch.setattr(
        TensorParallel, "norm", lambda self, x, plus, name: norm(self, x, () if name == "final_norm" else plus, name)
    )
    assert differs("ladder")


def test_a_desync_without_its_share_of_the_residual_is_caught(monkeypatch):
    def without(layer, x, y, half, keep, name):
        if not keep:
            return x, (layer.flow.own_part(half(y)),)
        return layer.total(half(y), name), ()

    monkeypatch.setattr(residual, "_summed_or_own", without)
    assert differs("desync2")


def test_a_desync_that_takes_the_whole_residual_from_every_chip_is_caught(monkeypatch):
    share = Execution.share

    def whole(self, x, axes):
        value = share(self, x, axes)
        return replace(value, shards=x.shards)

    monkeypatch.setattr(Execution, "share", whole)
    assert differs("desync4")


def test_a_missing_sum_is_refused(monkeypatch):
    monkeypatch.setattr(TensorParallel, "total", lambda self, out, name: out)
    with pytest.raises(LayoutError, match=r"add of BLE and BLE \(partial tr\): both must be sharded alike"):
        next(passes("standard"))


def test_chips_that_differ_cannot_split_the_stream_over_tokens():
    with pytest.raises(LayoutError, match=r"add of B_tr LE and BLE \(differs tr\): both must be sharded alike"):
        assert_equal(passes("no_communication", sequence_parallel=True))
