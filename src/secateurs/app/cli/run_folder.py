"""The folder of a run: new or resumed, locked by one process, and consistent after a kill at any moment."""

import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import yaml
from filelock import FileLock, Timeout

from secateurs.app.cli.method_file import is_file
from secateurs.app.cli.recipe import Recipe
from secateurs.errors import DamageError, InputError, StoreError
from secateurs.store.files import is_unfinished, read_file, sweep, write_files
from secateurs.store.manifest import seal

RECIPE = "recipe.yaml"
STAGES = "stages"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
LARGEST = 2**26
"""Largest size in bytes of a recipe, a record or a report; real ones have some thousand."""

HEADER = """\
# The resolved recipe of this run. The same again, into another folder:
#   secateurs prune --config {} --out NEW{}
"""
CHECKSUM = "# sha256 of the lines above, for --resume: "


@final
@dataclass(frozen=True)
class RunFolder:
    """Folder of a run: its files, and a record of each finished stage."""

    path: Path

    def done(self, stage: str, *keys: str) -> dict[str, Any] | None:
        """Return the record of a finished stage, or None; DamageError if the record is damaged or lacks a key."""
        file = self.path / STAGES / f"{stage}.json"
        if not file.exists():
            return None
        try:
            record = cast("dict[str, Any]", json.loads(read_file(file, most=LARGEST)))
            whole = isinstance(record, dict) and record.pop("seal", None) == seal(record)
        except (ValueError, RecursionError, StoreError) as cause:
            raise self._damaged(file, str(cause)) from cause
        if not whole:
            raise self._damaged(file, "its contents do not have the hash that it names")
        for key in keys:
            if key not in record:
                raise self._damaged(file, f"it has no {key}")
        return record

    def finish(self, stage: str, record: dict[str, Any]) -> None:
        """Record that a stage is finished; call it after all its files are written."""
        plain = json.loads(json.dumps(record))
        content = json.dumps({**plain, "seal": seal(plain)}, indent=2).encode()
        write_files(self.path / STAGES, {f"{stage}.json": content}, overwrite=True)

    def put(self, files: dict[str, bytes]) -> None:
        """Write files atomically."""
        write_files(self.path, files, overwrite=True)

    def report(self, name: str) -> str | None:
        """The report of a finished run; None if it is not finished."""
        record = self.done("measured", "report")
        if record is None:
            return None
        try:
            content = read_file(self.path / name, most=LARGEST)
        except StoreError as cause:
            raise self._damaged(self.path / name, str(cause)) from cause
        if hashlib.sha256(content).hexdigest() != record["report"]:
            raise self._damaged(self.path / name, "its contents do not have the hash that was recorded")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as cause:
            raise self._damaged(self.path / name, str(cause)) from cause

    def recipe(self) -> Path | None:
        """The recipe of the run in this folder, or None; DamageError if the file is damaged."""
        file = self.path / RECIPE
        if not file.exists():
            return None
        try:
            text, _, checksum = read_file(file, most=LARGEST).decode("utf-8").rpartition(CHECKSUM)
        except (UnicodeDecodeError, StoreError) as cause:
            raise self._damaged(file, str(cause)) from cause
        if checksum.strip() != hashlib.sha256(text.encode()).hexdigest():
            raise self._damaged(file, "its last line is not the hash of those above; a run stays what it was")
        return file

    def put_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe, if it is missing."""
        if self.recipe() is None:
            trust = " --trust-code" if is_file(recipe.model) or is_file(recipe.method) else ""
            head = HEADER.format(self.path / RECIPE, trust)
            text = head + yaml.safe_dump(recipe.as_keys(), sort_keys=False)
            checksum = hashlib.sha256(text.encode()).hexdigest()
            self.put({RECIPE: f"{text}{CHECKSUM}{checksum}\n".encode()})

    def _damaged(self, file: Path, why: str) -> DamageError:
        return DamageError(
            f"{file} was changed or cut off after it was written ({why}), so this run cannot go on; "
            "put the original back, or start anew in another --out"
        )


def check_folder(path: Path, *, resume: bool) -> RunFolder:
    """Refuse a folder with other content than a run to resume; creates nothing."""
    try:
        there = _exists(path)
        if there and not path.is_dir():
            raise InputError(f"{path} is a file, and a run needs a folder; choose another --out")
        inhabited = there and any(entry.name != LOCK and not is_unfinished(entry) for entry in path.iterdir())
    except (OSError, ValueError) as cause:
        raise InputError(f"--out {str(path)[:80]!r} cannot be a folder: {cause}; choose another") from cause
    folder = RunFolder(path)
    if inhabited and not resume:
        remedy = (
            "go on with it: --resume; or choose another --out" if (path / RECIPE).exists() else "choose another --out"
        )
        raise InputError(f"{path} exists and is not empty, and nothing is overwritten; {remedy}")
    if there:
        _refuse_links(path)
    if inhabited and folder.recipe() is None:
        raise InputError(f"{path} holds no {RECIPE}, so there is no run in it to resume; choose another --out")
    return folder


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _refuse_links(path: Path) -> None:
    """Refuse symbolic links in a run's folder, whose targets may not belong to it."""
    ours = [entry for entry in path.iterdir() if entry.name in (LOCK, STAGES, CHECKPOINTS)]
    below = [Path(top, name) for each in ours for top, folders, files in os.walk(each) for name in (*folders, *files)]
    for entry in (*ours, *below):
        if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
            raise InputError(
                f"{entry} is a link or no plain file, and a run never writes through one; remove it, "
                "or choose another --out"
            )


def check_space(path: Path, needed: int) -> None:
    """Refuse a disk without enough space for the run."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise InputError(f"{existing} cannot be written to, so {path} cannot be made; choose another --out")
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{path} needs about {needed / 2**20:,.0f} MiB and its disk has {free / 2**20:,.0f} MiB left; "
            "free some space or choose another --out"
        )


@contextmanager
def held(folder: RunFolder) -> Generator[None]:
    """Create and lock the folder against a second process; a kill releases the lock."""
    lock = FileLock(folder.path / LOCK)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as cause:
        raise InputError(f"another process works in {folder.path}; wait for it, or choose another --out") from cause
    except OSError as cause:
        raise StoreError(f"{folder.path} cannot be made: {cause.strerror}; choose another --out") from cause
    try:
        for place in (folder.path / STAGES, folder.path / CHECKPOINTS):
            sweep(place)
        yield
    finally:
        lock.release()
