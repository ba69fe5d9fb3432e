"""Runs the points of a sweep: in this process, in several on this computer (joblib), or on a Dask cluster."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Generator, Iterator, Sequence

from msgspec import Struct

from sim.errors import InputError, suggest
from sim.specs import load
from sim.specs.load import plugin_files
from sim.studies.sweep.points import Point
from sim.studies.sweep.rows import Row, run_point


class Cluster(Struct, frozen=True):
    """A Dask cluster whose workers have this package and the scenario's file under the same name."""

    scheduler: str
    """Address."""

    @classmethod
    def of(cls, backend: str, scheduler: str) -> Cluster | None:
        """Returns the cluster of the backend `dask`, None for the backend `local`. Raises InputError."""
        if backend not in ("local", "dask"):
            hint = suggest(backend, ("local", "dask"))
            raise InputError("must be local or dask", where="--backend", got=backend, hint=hint)
        if backend == "local":
            return None
        if not scheduler:
            rule = "must be the address of a Dask scheduler"
            raise InputError(rule, where="--scheduler", got=scheduler, hint="such as tcp://10.0.0.1:8786")
        return cls(scheduler)


def run_points(
    name: str, points: Sequence[Point], jobs: int = 1, cluster: Cluster | None = None
) -> Generator[tuple[int, Row]]:
    """Yields (number of the point, its row) of the scenario in file `name`, each as soon as it is there.

    Args:
        jobs: processes on this computer; 1 is this process.
        cluster: runs the points in place of this computer.

    Raises:
        InputError: no Dask, no scheduler that answers until the end, or a pipe that other processes cannot read.
    """
    if (cluster or jobs > 1) and not load.path("scenario", name).is_file():
        hint = "write it to a file, or use one process"
        raise InputError("must be a file for several processes, not a pipe", where=name, hint=hint)
    if cluster:
        yield from _on_dask(name, points, cluster.scheduler)
    elif jobs == 1 or len(points) < 2:
        for number, point in enumerate(points):
            yield number, run_point(name, point)
    else:
        from joblib import Parallel, delayed

        plugins = plugin_files.in_use()
        with Parallel(n_jobs=min(jobs, len(points)), return_as="generator_unordered", batch_size="auto") as parallel:
            yield from parallel(delayed(_numbered)(number, name, point, plugins) for number, point in enumerate(points))


def _numbered(number: int, name: str, point: Point, plugins: Sequence[str]) -> tuple[int, Row]:
    """Runs a point in a process of its own, which loads the plugins of this one."""
    with plugin_files.using(plugins):
        return number, run_point(name, point)


def _on_dask(name: str, points: Sequence[Point], scheduler: str) -> Iterator[tuple[int, Row]]:
    try:
        from distributed import Client, as_completed
    except ImportError:
        hint = "pip install 'collective-sim[cluster]'"
        raise InputError("requires dask.distributed", where="--backend", got="dask", hint=hint) from None
    try:
        client = Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            "must be the address of a running scheduler", where="--scheduler", got=scheduler, hint=str(error)
        ) from None
    logging.getLogger("distributed.client").setLevel(
        logging.CRITICAL
    )  # a lost scheduler is one line, not its traceback
    with client, client.as_current():
        plugins = plugin_files.in_use()
        # Not pure: a key from the arguments would give back rows of an older version of the file.
        futures = client.map(
            _numbered, range(len(points)), [name] * len(points), points, [plugins] * len(points), pure=False
        )
        for future in as_completed(futures):
            try:
                numbered: tuple[int, Row] = future.result()
            except (Exception, CancelledError) as error:  # `run_point` raises nothing: the cluster failed
                rule = "the cluster must run until the end of the sweep"
                hint = f"{type(error).__name__}: {error}; run the same command to resume"
                raise InputError(rule, where="--scheduler", got=scheduler, hint=hint) from None
            yield numbered
