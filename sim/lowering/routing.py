"""Routing of tokens to experts: how many rows each chip sends to each, and how many each expert gets.

A uniform load is the expectation of a choice of which all experts are as likely: every expert gets the same, and
copies share it. A perfect router spreads the experts of each token over as many chips and boxes as it can, and rows
over places. Any other load is drawn, token by token: the logarithm of an expert's popularity plus Gumbel noise is its
score, of which a token takes the top_k highest, in the groups with the highest sum of their two best scores where
groups are limited (DeepSeek-V3 2024, section 2.1.2). This is a draw without replacement in proportion to popularity.

Loads by name: log_normal and zipf of the experts, in an order drawn by the seed; hot_expert: the first expert,
hot_experts: the first top_k, hot_rank
and rotating_hotspot: the experts of the first chip, and of one drawn by the seed; spread_hot: one expert of every chip;
idle_rank: all but the experts of the last chip; ragged_sources: uniform experts, log-normal tokens per chip; burst:
every token of half of the chips chooses the same top_k experts. What is hot gets `spread` of the choices.
"""

from __future__ import annotations

import csv
import functools
from math import exp, lgamma
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from sim.errors import InputError
from sim.lowering.expert_placement import place_experts
from sim.specs.expert_choice import share_of_counts
from sim.specs.experts import ExpertsLayout, ExpertsSpec, RoutingSpec

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_CHUNK = 4096
"""Tokens that are drawn at once."""


class Split(Struct, frozen=True):
    """Chips that exchange tokens for their experts."""

    sources: int
    """Chips with different tokens."""
    holders: int
    """Chips with different experts."""
    tokens: int
    """Tokens of a source."""
    box: tuple[int, ...] | None = None
    """[holders] number of the box of each; None if all are in one."""
    before: int = 0
    """Tokens of a source in the parts of the batch before this one."""
    whole: int = 0
    """Tokens of a source in the whole batch, which choose their experts together; 0 if it has one part."""


class Routing(Struct, frozen=True, eq=False):
    """Rows of one layer's dispatch. A row is a token's vector of d_model."""

    pairs: Floats
    """[sources, holders] rows with one for each (token, expert)."""
    tokens: Floats
    """[sources, holders] rows with each token once, however many experts it has there."""
    boxed: Floats | None
    """[sources, boxes] rows with each token once per box; None in one box."""
    rows: Floats
    """[holders, slots] rows of each expert that a chip holds."""
    hit: Floats
    """[holders] experts of a chip that have a row, of expected rows as expected."""
    even: bool
    """True if all chips do the same."""

    @property
    def balance(self) -> float:
        """Rows of the mean chip over those of the fullest (EPLB's balancedness)."""
        per_holder = self.rows.sum(axis=1)
        return float(per_holder.mean() / per_holder.max()) if per_holder.max() else 1.0


@functools.lru_cache(maxsize=64)
def route(experts: ExpertsSpec, spec: RoutingSpec, layout: ExpertsLayout, split: Split) -> Routing:
    """Returns the rows that a layer's tokens make.

    Raises:
        InputError: copies of experts that the chips do not divide, or a trace of something else than experts.
    """
    slots, left = divmod(experts.count + layout.replicas, split.holders)
    if left:
        total, near = experts.count + layout.replicas, (slots + 1) * split.holders - experts.count
        rule = f"must make a number of experts that {split.holders} chips divide, not {total}"
        raise InputError(rule, where="layout.experts.replicas", got=layout.replicas, hint=f"such as {near}")
    if spec.is_drawn:
        whole = replace(split, tokens=split.whole or split.tokens, before=0, whole=0)
        routing = _counted(_choices(experts, spec, whole), experts, layout, split, slots)
    elif spec.load == "uniform":
        routing = _expected(experts, layout, split, slots)
    else:
        routing = _spread_out(experts, split, slots)
    return _limited(routing, layout, experts, split)


def _limited(routing: Routing, layout: ExpertsLayout, experts: ExpertsSpec, split: Split) -> Routing:
    """Returns the routing without the rows that are beyond an expert's capacity."""
    if layout.capacity is None:
        return routing
    most = layout.capacity * split.sources * split.tokens * experts.top_k / routing.rows.size
    kept = np.minimum(routing.rows, most)
    share = np.divide(kept.sum(1), routing.rows.sum(1), out=np.ones(len(kept)), where=routing.rows.sum(1) > 0)
    return replace(routing, pairs=routing.pairs * share, tokens=routing.tokens * share, rows=kept)


# --- an even load ----------------------------------------------------------------------------------------------------


def _spread_out(experts: ExpertsSpec, split: Split, slots: int) -> Routing:
    """Returns rows that are alike on all chips, of tokens whose experts are on as many chips and boxes as can be."""

    def share(parts: int) -> float:
        in_groups = (experts.top_groups or experts.groups) * max(1.0, parts / experts.groups)
        return min(parts, experts.top_k, in_groups) / parts

    shape, boxes = (split.sources, split.holders), max(split.box or (0,)) + 1
    rows = split.sources * split.tokens * experts.top_k / (split.holders * slots)
    unused = (1 - experts.top_k / experts.count) ** (split.sources * split.tokens)
    return Routing(
        np.full(shape, split.tokens * experts.top_k / split.holders),
        np.full(shape, split.tokens * share(split.holders)),
        None if split.box is None else np.full((split.sources, boxes), split.tokens * share(boxes)),
        np.full((split.holders, slots), rows),
        np.full(split.holders, slots * (1 - unused)),
        even=True,
    )


def _expected(experts: ExpertsSpec, layout: ExpertsLayout, split: Split, slots: int) -> Routing:
    """Returns the expected rows of a choice of which all experts are as likely."""
    tokens, share = split.sources * split.tokens, experts.top_k / experts.count
    placed = place_experts(np.ones(experts.count), experts, layout, split.holders, split.box)
    expert = np.empty(split.holders * slots, dtype=np.int64)
    expert[placed.places] = np.repeat(np.arange(experts.count), placed.copies)
    part = (1 / placed.copies[expert]).reshape(split.holders, slots)
    held = np.zeros((split.holders, experts.count))
    np.add.at(held, (np.arange(split.holders)[:, None], expert.reshape(split.holders, slots)), part)

    def touched(held: Floats) -> Floats:
        of_groups = -np.sort(-held.reshape(len(held), experts.choice_groups, -1).sum(axis=2), axis=1)
        return np.array([1 - miss_probability(experts, tuple(groups)) for groups in of_groups.round(9).tolist()])

    boxed = None
    if split.box is not None:
        in_box = np.array(split.box) == np.arange(max(split.box) + 1)[:, None]
        boxed = np.tile(split.tokens * touched(in_box @ held), (split.sources, 1))
    reached = np.tile(split.tokens * touched(held), (split.sources, 1))
    unlike = [np.ptp(part, axis=0), np.ptp(reached, axis=1), np.zeros(1) if boxed is None else np.ptp(boxed, axis=1)]
    return Routing(
        np.tile(split.tokens * share * part.sum(axis=1), (split.sources, 1)),
        reached,
        boxed,
        tokens * share * part,
        (1 - (1 - share) ** (tokens * part)).sum(axis=1),
        even=not np.concatenate(unlike).any(),
    )


@functools.lru_cache(maxsize=4096)
def miss_probability(experts: ExpertsSpec, held: tuple[float, ...]) -> float:
    """Returns the probability that a token has no expert among some.

    Which of a group's experts a token has is a uniform choice, and all groups are alike: any numbers of experts in them
    (`share_of_counts`) are as likely in any order.

    Args:
        held: how many experts of each group (`choice_groups`) these are, the most first; a copy of an expert counts as
            its share of the expert's rows.
    """
    size = experts.count // experts.choice_groups

    @functools.cache
    def missed(group: int, counts: tuple[int, ...]) -> float:
        if group == len(held) or not held[group]:
            return 1.0
        result = 0.0
        for place, count in enumerate(counts):
            rest = counts[:place] + counts[place + 1 :]
            result += _none(size, held[group], count) * missed(group + 1, rest) / len(counts)
        return result

    groups = experts.choice_groups
    return sum(
        share * missed(0, counts + (0,) * (groups - len(counts))) for counts, share in share_of_counts(experts).items()
    )


def _none(candidates: float, part: float, chosen: int) -> float:
    """Returns C(candidates - part, chosen) / C(candidates, chosen): the probability of no expert in a part."""
    if candidates - part < chosen:
        return 0.0
    return exp(
        lgamma(candidates - part + 1)
        - lgamma(candidates - part - chosen + 1)
        - lgamma(candidates + 1)
        + lgamma(candidates - chosen + 1)
    )


# --- a drawn load ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _choices(experts: ExpertsSpec, spec: RoutingSpec, split: Split) -> list[Ints]:
    """Returns [sources] arrays [tokens, top_k] of the experts that each token chooses."""
    if spec.trace is not None:
        trace = _read(spec.trace, experts)
        needed = np.arange(split.sources * split.tokens) % len(trace)
        return np.split(trace[needed], split.sources)
    random = np.random.default_rng(spec.seed)
    tokens = np.full(split.sources, split.tokens)
    if spec.load == "ragged_sources":
        weight = np.exp(random.normal(0, spec.resolved_spread, split.sources))
        tokens = np.diff(np.round(np.concatenate([[0.0], np.cumsum(weight) / weight.sum()]) * tokens.sum()).astype(int))
    popularity = _popularity(experts, spec, split, random)
    return [
        draw_choices(np.log(popularity[source]), int(count), experts, random)
        for source, count in enumerate(tokens.tolist())
    ]


def _popularity(experts: ExpertsSpec, spec: RoutingSpec, split: Split, random: np.random.Generator) -> Floats:
    """Returns [sources, experts] relative frequencies of choice."""
    count, load = experts.count, spec.load
    spread = spec.resolved_spread
    if load == "log_normal":
        result = np.exp(random.normal(0, spread, count))
    elif load == "zipf":
        result = random.permutation(1 / np.arange(1, count + 1) ** spread)
    else:
        share = min(spread, 1 - 1e-9)
        per_holder = max(1, count // split.holders)
        first = int(random.integers(split.holders)) * per_holder if load == "rotating_hotspot" else 0
        hot = {
            "hot_expert": np.arange(1),
            "hot_experts": np.arange(experts.top_k),
            "burst": np.arange(experts.top_k),
            "hot_rank": np.arange(per_holder),
            "rotating_hotspot": np.arange(first, first + per_holder),
            "spread_hot": np.arange(split.holders) * per_holder,
            "idle_rank": np.arange(count - per_holder),
            "ragged_sources": np.arange(count),
        }[load]
        if load in ("idle_rank", "ragged_sources") or len(hot) == count:
            result = np.full(count, 1e-12)
            result[hot] = 1.0
        else:
            result = np.full(count, (1 - share) / (count - len(hot)))
            result[hot] = share / len(hot)
    everywhere = np.tile(result, (split.sources, 1))
    if load == "burst":
        everywhere[split.sources // 2 :] = 1.0
        everywhere[: split.sources // 2] = np.where(np.arange(count) < experts.top_k, 1.0, 1e-12)
    return everywhere


def draw_choices(logarithms: Floats, tokens: int, experts: ExpertsSpec, random: np.random.Generator) -> Ints:
    """Returns [tokens, top_k] experts, drawn without replacement in proportion to their popularity."""
    parts = [np.empty((0, experts.top_k), dtype=np.int64)]
    for first in range(0, tokens, _CHUNK):
        count = min(_CHUNK, tokens - first)
        scores = logarithms + random.gumbel(size=(count, experts.count))
        if experts.top_groups is not None and experts.top_groups < experts.groups:
            grouped = scores.reshape(count, experts.groups, -1)
            best = np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2)
            left_out = np.argsort(-best, axis=1)[:, experts.top_groups :]
            np.put_along_axis(grouped, left_out[:, :, None], -np.inf, axis=1)
        parts.append(np.argpartition(-scores, experts.top_k - 1, axis=1)[:, : experts.top_k].astype(np.int64))
    return np.concatenate(parts)


def _read(path: str, experts: ExpertsSpec) -> Ints:
    """Reads the experts that tokens chose, a token per line. Raises InputError."""
    where = f"workload.routing.trace {path}"
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file)
            cells = [(lines.line_num, row) for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            "must be a CSV file of numbers of experts", where=where, got=getattr(error, "strerror", None) or str(error)
        ) from None
    rows = []
    for number, row in cells:
        chosen = {int(cell) for cell in row if cell.strip().isdecimal()}
        if len(row) != experts.top_k or len(chosen) != len(row) or max(chosen) >= experts.count:
            rule = f"must have {experts.top_k} different experts from 0 to {experts.count - 1}"
            hint = "a token per line, without a header; the trace is of a layer, and every layer has these choices"
            raise InputError(rule, where=f"{where}: line {number}", got=",".join(row), hint=hint)
        rows.append([int(cell) for cell in row])
    if not rows:
        raise InputError("must have a line per token", where=where, got="none")
    return np.array(rows, dtype=np.int64)


def _counted(chosen: list[Ints], experts: ExpertsSpec, layout: ExpertsLayout, split: Split, slots: int) -> Routing:
    """Returns the rows of the choices of a part's tokens, with experts and their copies placed on chips by the load of
    the whole batch.

    Args:
        chosen: experts of the tokens of the whole batch.
    """
    load = np.bincount(np.concatenate(chosen).ravel(), minlength=experts.count).astype(np.float64)
    placed = place_experts(load, experts, layout, split.holders, split.box)
    copies, place = placed.copies, placed.places
    first = np.cumsum(copies) - copies
    box = None if split.box is None else np.array(split.box)
    pairs, tokens, boxed = [], [], []
    rows, of = np.zeros(split.holders * slots), split.whole or split.tokens
    for source, whole in enumerate(chosen):
        start, stop = (len(whole) * end // of for end in (split.before, split.before + split.tokens))
        experts_of = whole[start:stop]
        turn = np.arange(start, stop)[:, None] + source
        at = place[first[experts_of] + turn % copies[experts_of]]
        holder = at // slots
        rows += np.bincount(at.ravel(), minlength=len(rows))
        pairs.append(np.bincount(holder.ravel(), minlength=split.holders))
        tokens.append(_distinct(holder, split.holders))
        if box is not None:
            boxed.append(_distinct(box[holder], int(box.max()) + 1))
    return Routing(
        np.array(pairs, dtype=np.float64),
        np.array(tokens, dtype=np.float64),
        None if box is None else np.array(boxed, dtype=np.float64),
        rows.reshape(split.holders, slots),
        (rows.reshape(split.holders, slots) > 0).sum(axis=1).astype(np.float64),
        even=False,
    )


def _distinct(parts: Ints, count: int) -> Ints:
    """Returns [count] the number of tokens that have each part, given [tokens, top_k] parts."""
    ordered = np.sort(parts, axis=1)
    new = np.ones(ordered.shape, dtype=np.bool_)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return np.bincount(ordered[new], minlength=count)
