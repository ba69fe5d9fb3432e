"""Settings of all tests: hypothesis profiles, the cases that run by default, the marker `quick`, a check of figures."""

import gc
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure
from matplotlib.text import Text
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Drawing the first text loads tables of Unicode; on a loaded machine that alone may take more than the check allows.
for name, examples in (("default", 15), ("thorough", 500)):  # `pytest --hypothesis-profile thorough`
    settings.register_profile(name, max_examples=examples, suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("default")


QUICK = (
    *("test_tour.py", "stories", "specs", "program", "layouts", "engine", "report", "closed_form"),
    *("lowering/test_lower.py", "lowering/test_pipeline.py", "lowering/test_memory_pool.py", "simulate/test_run.py"),
    *("topology/test_topology_files.py", "topology/test_rings.py", "collectives/test_collectives_time.py"),
    *(
        "proofs/test_layout_products.py",
        "proofs/test_operation_counts.py",
        "proofs/test_residual.py",
        "proofs/test_fold.py",
    ),
)
"""Folders and files of the tests to run at each save: `pytest -m quick`, a minute on two cores."""


FEW = 6
"""From so many cases on a test runs a part of them by default."""
PART = 4
"""One of so many cases runs by default, the others are marked release."""


def mark_cases(items: list[pytest.Item]) -> None:
    """Marks most cases of tests with many cases release.

    Which ones run by default is decided by a checksum of their names: always the same ones, evenly over every option of
    a product, and for each test others, so that every shipped scenario and machine meets some test of each kind. Tests
    with the marker `every_case` keep all.
    """
    cases = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        if hasattr(item, "callspec") and not any(map(item.get_closest_marker, ("release", "every_case"))):
            cases[item.nodeid.partition("[")[0]].append(item)
    for every in cases.values():
        if len(every) >= FEW:
            every.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
            for item in every[-(-len(every) // PART) :]:
                item.add_marker(pytest.mark.release)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_cases(items)
    for item in items:
        place = item.path.relative_to(Path(__file__).parent).as_posix()
        if any(place == quick or place.startswith(f"{quick}/") for quick in QUICK) and not any(
            map(item.get_closest_marker, ("slow", "release"))
        ):
            item.add_marker(pytest.mark.quick)


def pytest_collection_finish() -> None:
    """Thousands of collected tests live to the end: looking for garbage among them would take 2 % of the time."""
    gc.freeze()


class SuiteScheduling(LoadScopeScheduling):
    """Deals tests to processes one by one, but those of one suite to one process, which validates it once."""

    def _split_scope(self, nodeid: str) -> str:
        found = re.search(r"validation/test_(?:published_page\.py.*\[(\w+)\]|(\w+)_(?:suite|rows)\.py)", nodeid)
        return found[1] or found[2] if found else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SuiteScheduling | None:
    """Of `--dist loadgroup`; with pytest 9 that of pytest-xdist 3.8 groups nothing."""
    return SuiteScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(autouse=True, scope="session")
def _no_figure_shows_mathematics() -> Iterator[None]:
    """Mathematics is off in figures, so a label that matplotlib writes as such would be shown as its source."""
    draw = Figure.draw

    def checked(self: Figure, *args: object, **kwargs: object) -> None:
        draw(self, *args, **kwargs)
        shown = [text.get_text() for text in self.findobj(Text) if text.get_visible()]
        assert not [text for text in shown if "\\mathdefault" in text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", checked)
        yield
