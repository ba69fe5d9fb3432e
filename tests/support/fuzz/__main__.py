"""`PYTHONPATH=tests python -m support.fuzz`: run many cases and print how often each outcome occurred."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from .campaign import fuzz
from .outcomes import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="PYTHONPATH=tests python -m support.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--failures", type=Path, help="folder of the inputs that failed; default: a temporary one")
    given = parser.parse_args()
    failures = (given.failures or Path(tempfile.mkdtemp(prefix="fuzz-"))).resolve()
    for kind in given.kind or KINDS:
        counter = fuzz(kind, given.count, given.seed, failures, given.jobs, given.first)
        print(f"{kind}: {counter.total()} inputs")
        for outcome, count in counter.most_common():
            print(f"{count:>8}  {outcome}")
    print(f"failing inputs in {failures}/")


if __name__ == "__main__":
    main()
