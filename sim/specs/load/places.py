"""Places of values in files, for messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Path_ = tuple[str | int, ...]


def place_of(path: Path_, origins: Mapping[Path_, str], hidden: int = 0) -> str:
    """`file: field.path`, or the setting; the last `hidden` parts of the path count for the file and are not shown."""
    place = origin_of(path, origins)
    rest = _dotted(path[len(place) : len(path) - hidden])
    return f"{origins[place]}: {rest}" if rest else origins[place]


def origin_of(path: Path_, origins: Mapping[Path_, str]) -> Path_:
    """Longest known prefix of `path`."""
    return max((p for p in origins if path[: len(p)] == p), key=len, default=())


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
