"""Images without labels, for one-shot pruning of a trained network and its reconstruction."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from secateurs.app.data.class_folders import EXTENSIONS, read_image
from secateurs.app.data.preprocessing import Preprocessing
from secateurs.app.data.splits import SPLIT_SEED, Splits
from secateurs.errors import InputError


def unlabelled(root: Path, *, how: Preprocessing) -> Splits:
    """All images in or below `root`, preprocessed by `how`; nothing is held out or measured."""
    paths = sorted(
        Path(top, name)
        for top, _, names in os.walk(root)
        for name in names
        if Path(name).suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in Path(top, name).relative_to(root).parts)
    )
    if not paths:
        raise InputError(f"{root} holds no image; read are {', '.join(sorted(EXTENSIONS))}")
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(paths))
    images = _Pictures(tuple(paths[index] for index in shuffled), how.still())
    listed = hashlib.sha256()
    for path in paths:
        listed.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
    return Splits(
        name="images",
        train=images,
        calibration=images,
        validation=images,
        test=images,
        classes=(),
        shape=(3, how.size, how.size),
        fingerprint={str(root): f"{len(paths)} images, {listed.hexdigest()}"},
        task="none",
    )


@final
@dataclass(frozen=True, eq=False)
class _Pictures(Dataset[Tensor]):
    """Images alone, float [3, size, size]."""

    paths: tuple[Path, ...]
    transform: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.transform(read_image(str(self.paths[index])))
