"""Checkpoints written atomically, checked by a hash when read, and loaded without running code."""

import hashlib
import re
import secrets
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from typing_extensions import override

from secateurs.errors import DamageError
from secateurs.store.files import flush_directory, is_unfinished, pending, write_files, write_new

PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step")
"""Keys that Lightning reads from a checkpoint."""


@final
class WholeFiles(CheckpointIO):
    """Write a checkpoint next to its target and rename it, so that a killed process leaves the last good file.

    Lightning's default uses the system's temporary folder, from where a move to another disk is not atomic. NAME.sha256
    has the hash of NAME; while NAME is replaced, it lists the old and the new hash.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        new = pending(target.parent, target.name, secrets.token_hex(8))
        try:
            write_new(new, lambda file: torch.save(checkpoint, file))
            known, latest = _hashes(target), _hash_of(new)
            _write_hashes(target, [*known, latest])
            new.replace(target)
            flush_directory(target.parent)
            _write_hashes(target, [latest])
        finally:
            new.unlink(missing_ok=True)
        for left in target.parent.iterdir():
            if is_unfinished(left):
                left.unlink(missing_ok=True)

    @override
    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        check_whole(Path(path))
        try:
            found = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as cause:
            raise _damaged(Path(path), "it is no checkpoint, or holds more than numbers") from cause
        missing = [part for part in PARTS if part not in found] if isinstance(found, dict) else PARTS
        if missing:
            raise _damaged(Path(path), f"it lacks {', '.join(missing)}")
        return found

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        for file in (Path(path), _beside(Path(path))):
            file.unlink(missing_ok=True)


def check_whole(path: Path) -> None:
    """Refuse a checkpoint whose hash differs from the one in its .sha256 file."""
    if not path.is_file() or _hash_of(path) not in _hashes(path):
        raise _damaged(path, f"its contents do not have the hash in {_beside(path).name}")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _hashes(path: Path) -> list[str]:
    file = _beside(path)
    if not file.is_file() or file.stat().st_size > 2**16:
        return []
    return re.findall(r"[0-9a-f]{64}", file.read_text("utf-8", errors="replace"), re.ASCII)


def _write_hashes(path: Path, hashes: list[str]) -> None:
    lines = "".join(f"{one}  {path.name}\n" for one in dict.fromkeys(hashes))
    write_files(path.parent, {_beside(path).name: lines.encode()}, overwrite=True)


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, why: str) -> DamageError:
    return DamageError(
        f"the checkpoint {path} cannot be gone on from: {why}. Remove it to train this stage anew, "
        "or put the original back"
    )
