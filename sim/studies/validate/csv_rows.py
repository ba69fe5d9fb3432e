"""CSV files of measurements: columns of each kind of suite, a row as text and numbers, errors that name the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from math import inf, nan
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from sim.errors import InputError, suggest

C = TypeVar("C")


def read_rows(source: Path, case: Callable[[Row], C | None]) -> tuple[C, ...]:
    """Returns a case per row; a row for which `case` returns None is left out. Raises InputError."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            made = [case(Row(row, f"{source}:{table.line_num}")) for row in table]
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(source)) from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError("must be a CSV file in UTF-8", where=str(source)) from None
    cases = tuple(each for each in made if each is not None)
    if not cases:
        raise InputError("must hold a row", where=str(source))
    return cases


class Row(Struct, frozen=True):
    """One line of a CSV file; whatever is wrong with a value is an InputError that names the line."""

    values: Mapping[str, str]
    where: str

    def get(self, name: str) -> str:
        """Returns a text, empty if the row has none."""
        return self.values.get(name) or ""

    def cell(self, name: str) -> str:
        """Returns a text that must be there. Raises InputError."""
        if not self.get(name):
            raise InputError(f"a row needs a value in column '{name}'", where=self.where)
        return self.get(name)

    def number(self, name: str) -> int:
        """Returns a whole number. Raises InputError."""
        try:
            return int(self.cell(name))
        except ValueError:
            rule = f"column '{name}' must be a whole number"
            raise InputError(rule, where=self.where, got=self.cell(name)) from None

    def real(self, name: str, *, zero: bool = False) -> float:
        """Returns a number above 0, or 0 if `zero` allows it. Raises InputError."""
        try:
            value = float(self.cell(name))
        except ValueError:
            value = nan
        if not (0 < value < inf or (zero and value == 0)):
            rule = f"column '{name}' must be a number {'of at least' if zero else 'above'} 0"
            raise InputError(rule, where=self.where, got=self.cell(name))
        return value

    def one_of(self, name: str, allowed: Iterable[str]) -> str:
        """Returns a text that is one of `allowed`. Raises InputError."""
        if (got := self.cell(name)) not in allowed:
            raise InputError(f"unknown {name}", where=self.where, got=got, hint=suggest(got, allowed))
        return got


_COMMON = {
    "case_id": ("name of the row", "my_case_1"),
    "source": ("where the value is from (optional)", "own measurement"),
}
TRAINING = "training_tokens_per_s"
"""Metric of a step of training: tokens per second and GPU."""
NOT_AN_INPUT = ("case_id", "source", "value", "unit", "notes", "reading_error_pct", "run_to_run_pct", "time_us")
"""Columns that do not say what was run."""
_UNCERTAINTY = {
    "reading_error_pct": ("how exact the value is, % (optional)", "1"),
    "notes": ("for the reader (optional)", ""),
}
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "scenarios": {
        **_COMMON,
        "system": ("machine, as in the suite's 'systems' (optional)", ""),
        "model": ("as in the suite's 'models'", "PaLM 540B"),
        "chips": ("chips of the mesh", "64"),
        "mesh": ("length of each axis, x first; the base's machine as its file says, or a slice of it", "4x4x4"),
        "phase": ("prefill; decode_step: one step; decode_total: all steps; total: prefill and steps", "decode_total"),
        "batch": ("sequences", "64"),
        "input_tokens": ("tokens of each prompt; of a prefill and a total", "0"),
        "context_tokens": ("tokens in the cache before the first step", "2048"),
        "generated_tokens": ("steps", "64"),
        "ffn_layout": ("layout.ffn", "weight_stationary_2d"),
        "attention_layout": ("layout.attention", "batch"),
        "weight_dtype": ("bfloat16, float16, int8, ...", "int8"),
        "activation_dtype": ("bfloat16, float16, ...", "bfloat16"),
        "metric": ("latency_s or mfu (a share)", "latency_s"),
        "value": ("in the unit of the metric", "1.82"),
        **_UNCERTAINTY,
    },
    "generations": {
        **_COMMON,
        "system": ("machine, as in the suite's 'systems' with ' p2p=P2P tp=TP' after it", "8xH100 NVSwitch"),
        "model": ("as in the suite's 'models'", "llama-3-70b"),
        "tp": ("chips of a tensor-parallel group", "8"),
        "p2p": ("on or off: peer-to-peer access", "on"),
        "batch": ("sequences", "1"),
        "prompt_tokens": ("tokens of each prompt", "1024"),
        "generated_tokens": ("tokens generated, the first by the prefill", "512"),
        "variant": ("as in the suite's 'variants'", "standard"),
        "metric": ("prefill_s, decode_s or tokens_per_s", "decode_s"),
        "value": ("in the unit of the metric", "6.53"),
        **_UNCERTAINTY,
    },
    "requests": {
        **_COMMON,
        "system": ("machine, as in the suite's 'systems'", "8xA100-80GB NVSwitch"),
        "model": ("as in the suite's 'models'", "gpt-20b"),
        "layers": ("of the model, if it is cut (optional)", ""),
        "dtype": ("float16, bfloat16, ...", "fp16"),
        "tp": ("chips of a tensor-parallel group", "2"),
        "pp": ("pipeline stages", "1"),
        "batch": ("sequences", "1"),
        "input_len": ("tokens of each prompt, padded", "60"),
        "real_len": ("tokens of each prompt, without padding", "60"),
        "output_len": ("tokens generated, the first by the prefill; empty: a forward pass", "20"),
        "engine": ("as in the suite's 'engines'", "fastertransformer"),
        "recomputed": ("share of the forward pass that the backward pass computes again (training)", ""),
        "metric": (
            "latency_s, tokens_per_s, memory_bandwidth_per_gpu (bytes per second), training_tokens_per_s (per chip)",
            "latency_s",
        ),
        "value": ("in the unit of the metric", "0.35"),
        **_UNCERTAINTY,
    },
    "collectives": {
        **_COMMON,
        "system": ("machine, as in the suite's 'machines'", "DGX H100"),
        "gpus": ("GPUs that take part", "8"),
        "collective": ("all_reduce, all_gather, reduce_scatter, alltoall, sendrecv, ...", "all_reduce"),
        "bytes": ("size as nccl-tests counts it", "67108864"),
        "time_us": ("time, us", "316"),
        **_UNCERTAINTY,
    },
    "operations": {
        **_COMMON,
        "system": ("machine, as in the suite's 'systems'", "H800"),
        "kernel": ("before ' on ' in the suite's 'systems' (optional)", ""),
        "model": ("as in the suite's 'models'", "DeepSeek-V3"),
        "phase": ("prefill or decode", "decode"),
        "batch": ("sequences", "64"),
        "tokens": ("of each prompt, or in the cache before the step", "4096"),
        "operation": ("names in the timeline, `*` for any text", "attention"),
        "time_us": ("time, us", "155"),
        **_UNCERTAINTY,
    },
    "steps": {
        **_COMMON,
        "system": ("machine, as in the suite's 'systems'", "H800"),
        "gpus": ("GPUs that take part", "32"),
        "model": ("as in the suite's 'models'", "DeepSeek-V3"),
        "engine": ("as in the suite's 'engines'", "sglang_balanced"),
        "baseline": ("engine that it is compared with, for the metric speedup (optional)", ""),
        "phase": ("prefill or decode", "prefill"),
        "batch": ("sequences of all GPUs", "128"),
        "tokens": ("of each prompt, or in the cache before the step", "4096"),
        "metric": (
            "latency_s, tokens_per_s_per_chip or speedup (time of the baseline / time)",
            "tokens_per_s_per_chip",
        ),
        "value": ("in the unit of the metric", "7000"),
        **_UNCERTAINTY,
    },
    "exchanges": {
        **_COMMON,
        "system": ("machine, as in the suite's 'machines'", "H800"),
        "gpus": ("GPUs that take part", "16"),
        "kernel": ("as in the suite's 'kernels'", "deep_ep"),
        "way": ("dispatch or combine", "dispatch"),
        "tokens": ("tokens of a GPU", "4096"),
        "d_model": ("numbers of a token's row", "7168"),
        "experts": ("routed experts", "256"),
        "top_k": ("experts of a token", "8"),
        "groups": ("groups of experts (optional)", "2"),
        "top_groups": ("groups that a token may use; with groups", "2"),
        "format": ("number format of a row: bf16, fp8, nvfp4, ...", "fp8"),
        "multiprocessors": ("of the kernel (optional)", "20"),
        "metric": ("latency_s or bandwidth (bytes/s of rows to all destinations)", "bandwidth"),
        "value": ("in the unit of the metric", "43e9"),
        **_UNCERTAINTY,
    },
    "copies": {
        **_COMMON,
        "system": ("machine, as in the suite's 'machines'", "TPU v6e"),
        "bytes": ("bytes that its chip reads and writes", "67108864"),
        "time_us": ("time, us", "49.4"),
        **_UNCERTAINTY,
    },
    "matmuls": {
        **_COMMON,
        "system": ("machine, as in the suite's 'machines'", "H100"),
        "dtype": ("bf16, fp16, int8, ...", "bf16"),
        "m": ("rows", "4096"),
        "n": ("columns", "4096"),
        "k": ("values of a row that are summed", "4096"),
        "kernel": ("as in the suite's 'grouped', of a grouped matmul (optional)", ""),
        "products": ("matmuls of this shape in one launch (optional)", "1"),
        "time_us": ("time, us", "190"),
        **_UNCERTAINTY,
    },
}
"""By kind of suite and column: the content and an example. Other columns are for the reader, or for the suite's
`series`, `options` and `predictions`."""


def format_template(kind: str) -> str:
    """Returns a CSV of one example row for rows of a kind of suite."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS[kind])
    table.writerow([example for _, example in COLUMNS[kind].values()])
    return text.getvalue().rstrip("\n")


def explain_columns(kind: str) -> str:
    """Returns a line for each column of a kind of suite."""
    width = max(map(len, COLUMNS[kind]))
    return "\n".join(f"{name:<{width}}  {text}" for name, (text, _) in COLUMNS[kind].items())
