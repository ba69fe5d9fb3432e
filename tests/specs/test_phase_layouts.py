"""What one phase does differently obeys the rules of a scenario of that phase alone."""

import itertools

import pytest

from sim.errors import InputError
from sim.specs import load
from sim.specs.uses import PRESETS

MACHINES = {"tpu_v4_2x2x2": "weight_stationary_2d", "dgx_a100": "tensor_parallel"}
WORKLOAD = "workload={phase: generate, batch: 8, prompt: 16, generate: 2, weights: bf16}"


def scenario(machine: str, layout: dict[str, object]) -> None:
    """Loads a generation on a machine; its layout is that of the machine, and `layout`."""
    base = {"ffn": MACHINES[machine], "attention": "heads"}
    load.scenario(
        "llama3_70b_tp8_standard",
        [f"topology={machine}", WORKLOAD, "model=llama3_8b", f"layout={base | layout}".replace("'", "")],
    )


@pytest.mark.parametrize(
    ("machine", "phase", "changes"),
    [
        (machine, phase, {name: value})
        for machine, phase, (name, values) in itertools.product(
            MACHINES,
            ("prefill", "decode"),
            {
                "ffn": tuple(PRESETS),
                "attention": ("heads", "batch"),
                "overlap": ("none", "collective_matmul", "micro_batches", "chunked_matmul"),
            }.items(),
        )
        for value in values
    ],
    ids=str,
)
def test_a_phase_is_refused_where_a_layout_of_its_own_would_be(machine, phase, changes):
    def refused(layout: dict[str, object]) -> bool:
        try:
            scenario(machine, layout)
        except InputError:
            return True
        return False

    assert refused({phase: changes}) == refused(changes)


def test_the_error_names_the_phase():
    with pytest.raises(InputError, match=r"decode: layout\.residual: requires a layout in which every chip"):
        scenario("dgx_a100", {"residual": "desync2", "decode": {"ffn": "weight_gathered_x"}})
