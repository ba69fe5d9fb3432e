"""Figures of a prefill's KV cache on its way to the chips that decode."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from sim.program import Kind
from sim.report.metrics import PassTrace, sum_on_links
from sim.units import PS_PER_S


class TransferReport(Struct, frozen=True):
    """Transfer of the cache of all layers."""

    senders: int
    receivers: int
    bytes: float
    """Bytes that leave the senders: a receiver's copy counts."""
    most_bytes: float
    """Most bytes that one chip sends."""
    time_s: float
    """Time from the first message to the arrival of the last."""
    arrived_s: float
    """Time from the start of the pass to the arrival of the last message."""
    exposed_s: float
    """Time between the end of the last compute and the arrival of the last message; 0 if it arrives before."""
    busiest_link: str
    """Link that is busy longest with it, the first of them."""
    busiest_link_s: float
    """Time for which that link is busy with it: the least time of a transfer after the pass."""


def report_transfer(measured: PassTrace) -> TransferReport | None:
    """Returns the figures of a pass that sends its cache to other chips, else None."""
    transfer, program, times = measured.transfer, measured.trace.program, measured.trace.times
    if transfer is None:
        return None
    # The last layer and what follows it are simulated, and as much later as all that was left out takes.
    left_out_ps = measured.makespan_ps - measured.trace.makespan_ps
    mine = program.op == program.op_names.index(transfer.op)
    ended_ps = int(times["end"][mine].max()) + left_out_ps
    computed_ps = int(times["end"][program.kind == Kind.COMPUTE].max()) + left_out_ps
    busy_ps, _ = sum_on_links(measured, mine)
    link = int(busy_ps.argmax())
    sent = mine & (program.kind == Kind.SEND) & (program.follows < 0)
    of_chips = np.bincount(program.chip[sent], weights=program.bytes[sent] * measured.copies[sent])
    return TransferReport(
        senders=len(transfer.senders),
        receivers=len(transfer.receivers),
        bytes=float(of_chips.sum()),
        most_bytes=float(of_chips.max()),
        time_s=(ended_ps - int(times["start"][mine].min())) / PS_PER_S,
        arrived_s=ended_ps / PS_PER_S,
        exposed_s=max(0, ended_ps - computed_ps) / PS_PER_S,
        busiest_link=measured.topology.links[link].name,
        busiest_link_s=float(busy_ps[link]) / PS_PER_S,
    )
