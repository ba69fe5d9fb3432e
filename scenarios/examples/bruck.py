"""Bruck's all-gather (Bruck et al. 1997, IEEE TPDS 8:1143): the steps of recursive doubling for any number of chips.

In step s each chip sends the 2^s blocks that it holds, its own and those of the chips after it, to the chip 2^s before
it; the last step sends what is still missing. On a switch it takes (n-1) c/w + ceil(log2 n) t, with blocks of c bytes.
"""

from sim.plugins import Messages, Payload, Schedule, Topology, collective


@collective("all_gather", needs="routes")
def bruck(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Bruck et al. 1997: ceil(log2 n) steps for any n."""
    to = Messages(topology, "all_gather", axes)
    arrivals = []  # [block] by chip: the send that brought the block of the chip so many places after it
    held, step = 1, 0
    while held < to.n:
        target = (to.chips - held) % to.n
        sends = [
            to.send(
                to.chips,
                target,
                Payload(1 / to.n, block == 0, origin=(to.chips + block) % to.n),
                step,
                deps=arrivals[:],  # a step begins when the one before it is done
            )
            for block in range(min(held, to.n - held))
        ]
        arrivals += [sent[(to.chips + held) % to.n] for sent in sends]
        held, step = held + len(sends), step + 1
    return to.build()
