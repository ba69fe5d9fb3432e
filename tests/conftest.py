"""Settings of all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure
from matplotlib.text import Text

# Drawing the first text loads tables of Unicode; on a loaded machine that alone may take more than the check allows.
for name, examples in (("default", 25), ("thorough", 500)):  # `pytest --hypothesis-profile thorough`
    settings.register_profile(name, max_examples=examples, suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _no_figure_shows_mathematics() -> Iterator[None]:
    """Mathematics is off in figures, so a label that matplotlib writes as such would be shown as its source."""
    save = Figure.savefig

    def checked(self: Figure, *args: object, **kwargs: object) -> None:
        save(self, *args, **kwargs)
        shown = [text.get_text() for text in self.findobj(Text) if text.get_visible()]
        assert not [text for text in shown if "\\mathdefault" in text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", checked)
        yield
