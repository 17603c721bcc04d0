"""Checkpoints that are whole or absent, and read back without running anybody's code."""

import os
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from typing_extensions import override


@final
class WholeFiles(CheckpointIO):
    """Write beside the target and rename, so that a process killed at any moment leaves the last good file.

    Lightning's own passes through the system's temporary folder, from where a rename onto another disk is a copy.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)

    @override
    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
