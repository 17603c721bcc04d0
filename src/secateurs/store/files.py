"""Files written whole or not at all, and read with suspicion."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from secateurs.errors import StoreError

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How files of torch.save and pickle.dump begin."""


def write_files(directory: Path, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write files into a directory, all or none: full disks and interrupts leave what was there.

    Each is written and flushed to disk under a temporary name, and all are renamed at the end. Other files in the
    directory are left alone.
    """
    try:
        with _directory(directory):
            if not overwrite and any(directory.iterdir()):
                message = (
                    f"{directory} is not empty. A saved model is not mixed with other files unasked. "
                    "Choose another directory, or pass overwrite=True."
                )
                raise StoreError(message)
            _write(directory, files)
    except OSError as error:
        message = (
            f"{directory} cannot be written: {error.strerror or error}. Nothing there was changed. "
            "Free some space or choose another directory."
        )
        raise StoreError(message) from error


def read_file(path: Path) -> bytes:
    """Read one file of a saved model; StoreError if it is missing, unreadable or a pickle."""
    directory = path.parent
    if directory.is_file() or not directory.exists():
        what = _kind(directory) if directory.is_file() else "does not exist"
        message = f"{directory} {what}. A saved model is a directory that secateurs.save wrote. Pass its path."
        raise StoreError(message)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        there = ", ".join(sorted(p.name for p in directory.iterdir())[:5]) or "nothing"
        message = (
            f"{directory} has no {path.name} (there is: {there}). "
            "It is not a saved model, or its saving was cut off. Pass a directory that secateurs.save wrote."
        )
        raise StoreError(message) from error
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}. Nothing was loaded. Check the file."
        raise StoreError(message) from error
    if content.startswith(_PICKLES):
        message = (
            f"{path} is a pickle. Loading one runs whatever code it holds, so it is never opened. "
            "Load it yourself if you trust it, and store the model with secateurs.save."
        )
        raise StoreError(message)
    return content


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        return "is a pickle, which is never opened" if file.read(8).startswith(_PICKLES) else "is a file"


@contextmanager
def _directory(directory: Path) -> Generator[None]:
    """Make a directory and those above it; if the block fails, remove the ones that were made."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in made:
                path.rmdir()
        raise


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write all under temporary names, then rename; if a rename fails, take back those before it."""
    new = {name: directory / f".{name}.{os.getpid()}.new" for name in files}
    old = {name: directory / f".{name}.{os.getpid()}.old" for name in files}
    undo: list[Callable[[], object]] = []
    try:
        for name, content in files.items():
            _write_one(new[name], content)
        for name in files:
            target = directory / name
            if target.exists():
                target.replace(old[name])
                undo.append(partial(old[name].replace, target))
            else:
                undo.append(partial(target.unlink, missing_ok=True))
            new[name].replace(target)
        _flush(directory)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    finally:
        for path in (*new.values(), *old.values()):
            path.unlink(missing_ok=True)


def _write_one(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(directory: Path) -> None:
    """Make the renames durable; Windows has no such call for a directory."""
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
