"""`sim collective dispatch` and `combine`: the exchange of tokens with their experts by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import typer

from sim.cli.errors import within_limits
from sim.cli.options import completed, one_of
from sim.cli.progress import progress
from sim.errors import InputError
from sim.terminal import echo

WAYS = ("dispatch", "combine")

Tokens = Annotated[str, typer.Option(help="Of dispatch and combine: tokens of a chip, 128, or a sweep, 1:2048.")]
ModelName = Annotated[
    str, typer.Option("--model", help="Model with experts; default: deepseek_v3.", autocompletion=completed("model"))
]
ExchangeKernelName = Annotated[
    str,
    typer.Option(
        "--kernel",
        help="Kernels of the stack: normal, low_latency or one_sided; default: normal.",
        autocompletion=one_of(lambda: ("normal", "low_latency", "one_sided")),
    ),
]
SchemeName = Annotated[
    str,
    typer.Option(
        "--scheme",
        help="Messages of a token: per_expert, per_rank, per_box or all_gather; default: the kernel's.",
        autocompletion=one_of(lambda: ("per_expert", "per_rank", "per_box", "all_gather")),
    ),
]
RowFormat = Annotated[str, typer.Option("--dtype", help="Number format of rows, such as fp8; default: bf16.")]
LoadName = Annotated[str, typer.Option("--load", help="Shape of the experts' load, such as zipf; default: uniform.")]


MOST_TOKENS = 10**6
"""Largest number of tokens of a chip."""


def parse_tokens(text: str, factor: int) -> list[int]:
    """Parses tokens of a chip, `128`, or `1:2048` in steps of a factor. Raises InputError."""
    low, colon, high = text.partition(":")
    numbers = [low, high] if colon else [low]
    if not all(number.isdecimal() and 1 <= int(number) <= MOST_TOKENS for number in numbers):
        rule = f"must be a number from 1 to {MOST_TOKENS:,}, or two with a colon between"
        raise InputError(rule, where="--tokens", got=text, hint="such as --tokens 128 or --tokens 1:2048")
    if colon and int(low) > int(high):
        raise InputError("must go up", where="--tokens", got=text)
    result = [int(low)]
    while colon and result[-1] * factor <= int(high):
        result.append(result[-1] * factor)
    return result


def settings_of(way: str, options: Mapping[str, str]) -> list[str]:
    """Returns options of an exchange, by name, as settings; those that are not given are left out."""
    fields = {
        "--model": "model",
        "--kernel": "layout.experts.kernel",
        "--scheme": "layout.experts.dispatch",
        "--dtype": f"workload.{way}",
        "--load": "workload.routing.load",
    }
    given = {"--model": "deepseek_v3", **{name: text for name, text in options.items() if text}}
    return [f"{fields[name]}={text}" for name, text in given.items()]


def run(way: str, topology: str, tokens: Sequence[int], settings: list[str], algorithm: str, as_json: bool) -> None:
    """Simulates a dispatch or a combine for each number of tokens of a chip, and prints the table."""
    from sim.lowering.exchange import Way
    from sim.specs import load
    from sim.studies.bench import exchange

    with progress(f"simulating {way} on {topology}") as report, within_limits(load.place("topology", topology)):
        rows = exchange.run_tokens(topology, cast(Way, way), tokens, settings, algorithm or None, report)
    echo(json.dumps([row.to_dict() for row in rows]) if as_json else exchange.format_table(rows))
