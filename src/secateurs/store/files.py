"""Write files atomically and durably; read files with limits on their size and type."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from threading import RLock
from typing import TYPE_CHECKING, BinaryIO

from secateurs.errors import DamageError, StoreError

if TYPE_CHECKING:
    from filelock import FileLock

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of files written by torch.save and pickle.dump."""

_OWN = re.compile(r"\.(?P<name>.+)\.(?P<mark>[0-9a-f]{16,64})\.new")
"""Names of temporary files."""

MARK = 16
"""Digits of the random part of such a name; a hash has 64."""

_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""O_NONBLOCK: opening a named pipe would block until it is written to."""

_ONE_AT_A_TIME = RLock()

Content = bytes | Callable[[BinaryIO], None]
"""Content of a file, or a function that writes it."""


def is_unfinished(path: Path) -> bool:
    """True for a temporary file that `write_files` left when its process was killed.

    >>> is_unfinished(Path(".plan.json.0123456789abcdef.new")), is_unfinished(Path("plan.json"))
    (True, False)
    """
    return _OWN.fullmatch(path.name) is not None


def pending(directory: Path, name: str, sha256: str) -> Path:
    """The temporary path of a file with this hash, used until the file that names the hash is in place."""
    return directory / f".{name}.{sha256}.new"


def write_files(
    directory: Path, files: Mapping[str, Content], *, overwrite: bool, named: tuple[str, str] | None = None
) -> None:
    """Write files into a directory, each atomically: after a full disk or an interrupt, the old files are intact.

    Each is written and flushed to disk under a temporary name, then renamed over its target, in the order given;
    links are replaced, not followed. Other files in the directory are unchanged. One writer at a time works in a
    directory, of all threads and all processes.

    named: (name, sha256) of a file whose hash is in the first file: it has a temporary name made of its hash until the
    first is in place, so that a kill at any moment leaves a matching pair, the old or the new.
    """
    try:
        with _directory(directory), _held(directory):
            if not overwrite and any(not is_unfinished(path) for path in directory.iterdir()):
                message = (
                    f"{directory} is not empty. A saved model is not mixed with other files unasked. "
                    "Choose another directory, or pass overwrite=True."
                )
                raise StoreError(message)
            _write(directory, files, named)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = (
            f"{directory} cannot be written: {what}. What was whole there is whole. "
            "Free some space or choose another directory."
        )
        raise StoreError(message) from error


def read_file(path: Path, *, most: int) -> bytes:
    """Read one file of at most `most` bytes; DamageError if it is missing, unreadable, no plain file, or a pickle."""
    directory = path.parent
    if not _is_folder(directory):
        what = _kind(directory)
        message = f"{str(directory)!r} {what}. A saved model is a directory that secateurs.save wrote. Pass its path."
        raise StoreError(message)
    try:
        content = _content(path, most)
    except FileNotFoundError as error:
        there = ", ".join(sorted(p.name for p in directory.iterdir())[:5]) or "nothing"
        message = (
            f"{directory} has no {path.name} (there is: {there}). "
            "It is not a saved model, or its saving was cut off. Pass a directory that secateurs.save wrote."
        )
        raise StoreError(message) from error
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}. Nothing was loaded. Check the file."
        raise DamageError(message) from error
    if content.startswith(_PICKLES):
        message = (
            f"{path} is a pickle. Loading one runs whatever code it holds, so it is never opened. "
            "Load it yourself if you trust it, and store the model with secateurs.save."
        )
        raise DamageError(message)
    return content


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _content(path: Path, most: int) -> bytes:
    handle = os.open(path, _READING)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            message = f"{path} is no plain file (a pipe, a device or a folder). Nothing was read. Check the directory."
            raise DamageError(message)
        if found.st_size > most:
            message = f"{path} has {found.st_size:,} bytes, where at most {most:,} can be meant. Nothing was read."
            raise DamageError(message)
        return file.read(most + 1)


def _kind(path: Path) -> str:
    try:
        with os.fdopen(os.open(path, _READING), "rb") as file:
            plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return "is a pickle, which is never opened" if plain and file.read(8).startswith(_PICKLES) else "is a file"
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:  # too long, with a NUL, or not ours to read
        return f"cannot be opened ({error.strerror if isinstance(error, OSError) else error})"


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


@contextmanager
def _held(directory: Path) -> Generator[None]:
    """Lock a directory against other writers; the system releases the lock when the process is killed."""
    with _ONE_AT_A_TIME, _locked(directory) if os.name == "posix" else lock_beside(directory):
        yield


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    """Lock the directory itself: no file is left in it, and no other user can be in the way."""
    import fcntl  # POSIX only

    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def lock_beside(directory: Path) -> FileLock:
    """A lock on a file in the user's folder of temporary files: Windows locks no directories."""
    from filelock import FileLock  # needed on Windows only

    name = hashlib.sha256(os.fsencode(os.path.normcase(directory.resolve()))).hexdigest()
    return FileLock(Path(gettempdir(), f"secateurs-{name}.lock"))


def _write(directory: Path, files: Mapping[str, Content], named: tuple[str, str] | None) -> None:
    mark = secrets.token_hex(MARK // 2)
    new = {name: pending(directory, name, mark) for name in files}
    waiting = pending(directory, *named) if named else None
    kept = waiting is not None and waiting.exists()  # a kill left it, and the file in place may name it
    try:
        for name, content in files.items():
            write_new(new[name], content)
        if named and waiting:
            new[named[0]] = new[named[0]].replace(waiting)
        flush_directory(directory)
        for name in files:
            new[name].replace(directory / name)
            kept = True
            flush_directory(directory)
    except BaseException:
        for path in new.values():
            if path != waiting or not kept:
                path.unlink(missing_ok=True)
        raise
    _clean(directory, files)


def sweep(directory: Path) -> None:
    """Remove the temporary files of killed writers in a directory and below; call it while nobody writes there.

    Files named by their hash stay, since a finished file may refer to them. Links are not followed.
    """
    if directory.is_symlink():
        return
    for top, _, names in os.walk(directory):
        for name in names:
            found = _OWN.fullmatch(name)
            if found and len(found["mark"]) == MARK:
                Path(top, name).unlink(missing_ok=True)


def _clean(directory: Path, files: Mapping[str, Content]) -> None:
    """Remove temporary files that killed writers of the same files left."""
    for path in directory.iterdir():
        found = _OWN.fullmatch(path.name)
        if found and found["name"] in files:
            path.unlink(missing_ok=True)


def write_new(path: Path, content: Content) -> None:
    """Write a new file and flush it to the disk (fsync)."""
    with path.open("xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Flush a file that another library wrote to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_directory(directory: Path) -> None:
    """Make renames durable; Windows has no such call for a directory."""
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
