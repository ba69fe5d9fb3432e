"""Plugins of one test are unknown to the next."""

from collections.abc import Iterator

import pytest

from sim.specs import plugins
from sim.specs.load import plugin_files


@pytest.fixture(autouse=True)
def _unloaded() -> Iterator[None]:
    yield
    for plugin in [*plugin_files._loaded.values(), plugins.SESSION]:
        plugins.forget(plugin)
    plugin_files._loaded.clear()
