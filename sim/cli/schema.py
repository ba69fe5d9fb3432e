"""`sim schema`: write the JSON Schema of every kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.terminal import echo


def schema(
    out: Annotated[Path, typer.Option(help="Folder of the schema files.")] = Path("out/schemas"),
) -> None:
    """Write the JSON Schema of every kind of file, for editors."""
    from sim.results import scratch
    from sim.specs.load import schema as schemas

    with scratch.reporting_write_errors(out):
        for path in schemas.write(out):
            echo(str(path))
