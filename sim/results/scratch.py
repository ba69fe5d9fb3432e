"""Folders in which results are written before they take their place, and what killed processes have left of them.

A folder that is being written is locked by its process. The lock ends with the process, however that ends, so a folder
without a lock is a leftover. It is removed when the next results are written beside it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sim.errors import InputError

if sys.platform != "win32":
    import fcntl

_SUFFIX = ".writing"
_LEFTOVER = re.compile(rf"\.(?P<name>.+)\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}")
_LONGEST_NAME = 200
"""Characters of the name that a scratch folder repeats: file systems allow 255 with what is added."""


@contextmanager
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Raises a failure to write at `path` as an InputError."""
    try:
        yield
    except (OSError, RecursionError) as error:  # pathlib makes parents recursively
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise InputError("must be a folder", where="--out", got=error.filename) from None
        problem = getattr(error, "strerror", None) or "the path is too long"
        raise InputError(f"cannot be written: {problem}", where="--out", got=str(path)) from None


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields a new folder that replaces `folder` when the block succeeds, and is removed when it fails.

    Raises:
        InputError: the folder cannot be written.
    """
    with reporting_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
        with scratch(folder.parent, folder.name) as fresh:
            fresh.chmod(0o755)
            yield fresh
            replace_folder(fresh, folder)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a new file that replaces `path` when the block succeeds, and is removed when it fails.

    Raises:
        InputError: the file cannot be written.
    """
    with reporting_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch(path.parent, path.name) as folder:
            fresh = folder / path.name
            yield fresh
            fresh.replace(path)


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """Yields a locked folder in `parent` for results of that name; what is left in it at the end is removed.

    Raises:
        OSError: the folder cannot be made.
    """
    _remove_leftovers(parent)
    folder, lock = _locked(parent, name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Replaces `folder` by a scratch folder; if it is stopped at any point, one of the two remains complete."""
    old = _set_aside(fresh)
    try:
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        if old.exists() and not folder.exists():  # stopped between the two renames
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def keep(path: Path, fresh: Path) -> None:
    """Puts a file or folder of the previous results at a place in the new ones, and leaves it in the previous ones."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:  # a file system without links
            shutil.copy2(source, target, follow_symlinks=False)

    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, fresh, symlinks=True, copy_function=link)
    else:
        link(str(path), str(fresh))


def _set_aside(fresh: Path) -> Path:
    """Returns the place of the previous results while a scratch folder takes theirs."""
    return fresh.with_name(f"{fresh.name}.old")


def _locked(parent: Path, name: str) -> tuple[Path, int | None]:
    """Returns a new folder and its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name[:_LONGEST_NAME]}.", suffix=_SUFFIX, dir=parent))
        lock = _lock(folder, wait=True)
        if folder.exists():  # another process may have taken it for a leftover before it was locked
            return folder, lock
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Locks a folder until this process ends; None if another process has it, or the file system has no locks."""
    if sys.platform == "win32":
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _remove_leftovers(parent: Path) -> None:
    """Removes scratch folders of processes that have ended, and restores previous results that one had set aside."""
    for path in sorted(parent.iterdir()):
        match = _LEFTOVER.fullmatch(path.name)
        lock = _lock(path, wait=False) if match else None
        if match is None or lock is None:
            continue
        old, folder = _set_aside(path), parent / match["name"]
        with suppress(OSError):
            if old.exists() and not folder.exists():
                old.rename(folder)
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
    for path in parent.glob(f".*{_SUFFIX}.old"):
        if not path.with_suffix("").exists():  # the new results are in place
            shutil.rmtree(path, ignore_errors=True)
