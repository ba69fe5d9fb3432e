"""Schemes that hide collectives say when these have no stream to be hidden on."""

import pytest

from sim.simulate.run import run
from sim.specs import load

DECODE = "workload={phase: decode, batch: 64, context: 64, generate: 1, weights: bf16}"
SCHEMES = (
    "layout.overlap=token_halves",
    "layout.overlap=micro_batches",
    "layout.overlap=chunked_matmul",
    "layout.residual=ladder",
)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("communication", "notes"), [("compute_stream", 1), ("own_stream", 0)])
def test_it_is_told_where_collectives_are_on_the_compute_stream(scheme: str, communication: str, notes: int):
    settings = [DECODE, "engine.layers=4", scheme, f"layout.communication={communication}"]
    found = run(load.scenario("llama3_70b_tp8_standard", settings)).report.notes
    assert sum(note.startswith(f"{scheme} hides nothing") for note in found) == notes


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_scheme_pays_there(scheme: str):
    """So that the note is true: without a stream of their own collectives are as exposed as without the scheme."""
    settings = [DECODE, "engine.layers=4", "layout.communication=compute_stream"]
    plain, own = (run(load.scenario("llama3_70b_tp8_standard", [*settings, *more])).report for more in ((), (scheme,)))
    assert own.simulated.overlapped_communication_s == plain.simulated.overlapped_communication_s == 0
