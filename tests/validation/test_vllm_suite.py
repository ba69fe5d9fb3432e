"""Prompts of vLLM with and without sums, and in two halves of the tokens (suite `vllm`)."""

from statistics import median

import pytest
from support.validations import validation

pytestmark = pytest.mark.slow


def test_prompts_come_within_their_tolerance():
    assert validation("vllm").passes
    assert len(validation("vllm").outcomes) == 63
    errors = [abs(each.simulated / each.published - 1) for each in validation("vllm").outcomes]
    assert median(errors) < 0.03


def test_savings_of_token_halves_are_as_measured():
    """Of prompts of two models on 8 and 4 GPUs, 1K to 64K tokens: the share of the time that two halves save; less than
    nothing where prompts are short."""
    found = {each.case_id: each for each in validation("vllm").outcomes}
    misses = []
    for name, halves in found.items():
        if name.endswith("_token_halves"):
            whole = found[name.removesuffix("_token_halves") + "_all_reduce"]
            misses.append(abs(halves.simulated / whole.simulated - halves.published / whole.published))
    assert len(misses) == 21
    misses.sort()
    assert median(misses) < 0.04
    assert misses[round(0.9 * len(misses)) - 1] < 0.08
