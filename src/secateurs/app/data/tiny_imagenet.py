"""Tiny-ImageNet as it is distributed: 200 classes of 64x64 images; the official validation images are the test.

Y. Le, X. Yang, "Tiny ImageNet Visual Recognition Challenge", CS 231N, Stanford 2015.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateurs.app.data.class_folders import read_image
from secateurs.app.data.images import Images, Shift, Standard
from secateurs.app.data.splits import Splits, stratified
from secateurs.errors import InputError

STANDARD = Standard(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's, which pretrained networks expect."""

SIDE = 64
FRACTIONS = (0.9, 0.1)
"""Train and validation: 450 and 50 of the 500 training images of each class."""


def tiny_imagenet(root: Path, standard: Standard = STANDARD) -> Splits:
    """Read `wnids.txt`, `train/WNID/images/` and `val/images/` with `val/val_annotations.txt` under `root`.

    The images of `test/` have no labels and are not read. InputError names missing or invalid files.
    """
    classes = tuple(line.strip() for line in _lines(root / "wnids.txt") if line.strip())
    number = {name: n for n, name in enumerate(classes)}
    learning = [(file, number[name]) for name in classes for file in _images(root / "train" / name / "images")]
    held: list[tuple[Path, int]] = []
    for at, line in enumerate(_lines(root / "val" / "val_annotations.txt"), 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if name not in number:
            raise InputError(f"line {at} of {root / 'val/val_annotations.txt'} names {name!r}, no class of wnids.txt")
        held.append((root / "val" / "images" / file, number[name]))
    pixels, labels = _read(learning)
    train, validation = map(torch.from_numpy, stratified(labels.numpy(), FRACTIONS))
    return Splits(
        name="tiny-imagenet",
        train=Images(pixels[train], labels[train], standard, Shift(SIDE // 8, mirror=True)),
        calibration=Images(pixels[train], labels[train], standard),
        validation=Images(pixels[validation], labels[validation], standard),
        test=Images(*_read(held), standard),
        classes=classes,
        shape=(3, SIDE, SIDE),
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(
            f"{file} cannot be read ({cause}); tiny-imagenet:ROOT is the unpacked folder: wnids.txt, train/ and val/"
        ) from cause


def _images(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.JPEG"))
    if len(found) < 2:
        raise InputError(f"{folder} holds {len(found)} images (*.JPEG); unpack the whole data set")
    return found


def _read(samples: list[tuple[Path, int]]) -> tuple[Tensor, Tensor]:
    """Raw pixels, uint8 [n, 3, 64, 64], and labels [n]."""
    pixels = np.empty((len(samples), SIDE, SIDE, 3), dtype=np.uint8)
    for at, (file, _) in enumerate(samples):
        image = np.asarray(read_image(str(file)))
        if image.shape != (SIDE, SIDE, 3):
            raise InputError(
                f"{file} has {image.shape[1]} x {image.shape[0]} pixels, and all here have {SIDE} x {SIDE}"
            )
        pixels[at] = image
    labels = torch.tensor([label for _, label in samples])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels
