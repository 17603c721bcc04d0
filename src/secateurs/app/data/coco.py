"""Images with boxes, as COCO stores them: one JSON file of images, annotations and categories for each part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateurs.app.data.class_folders import read_image
from secateurs.app.data.splits import SPLIT_SEED, Splits
from secateurs.errors import InputError

BACKGROUND = "background"
"""Class 0 of torchvision's detectors."""

Box = tuple[float, float, float, float]


@final
@dataclass(frozen=True)
class Annotated:
    """An image with its boxes (x1, y1, x2, y2) in its own pixels, and their classes, from 1 on."""

    path: Path
    boxes: tuple[Box, ...]
    labels: tuple[int, ...]


@final
@dataclass(frozen=True)
class CocoFile:
    """Content of one annotation file: the names of its categories in the order of their ids, and its images."""

    classes: tuple[str, ...]
    images: tuple[Annotated, ...]


def read_coco(file: Path, folder: Path) -> CocoFile:
    """Read an annotation file whose images are in `folder`; InputError names the invalid entry.

    Annotations of crowds (`iscrowd`) are left out; so are boxes without an area.
    """
    found = _read(file)
    categories = {_whole(file, c, "id"): str(c.get("name", c.get("id"))) for c in _entries(file, found, "categories")}
    numbers = {identity: place for place, identity in enumerate(sorted(categories), start=1)}
    paths = {_whole(file, i, "id"): folder / str(i.get("file_name", "")) for i in _entries(file, found, "images")}
    boxes: dict[int, list[tuple[Box, int]]] = {identity: [] for identity in paths}
    for one in _entries(file, found, "annotations"):
        image, category = _whole(file, one, "image_id"), _whole(file, one, "category_id")
        if image not in paths or category not in numbers:
            raise InputError(
                f"{file} has an annotation of image {image} and category {category}, which it does not list; add them"
            )
        box = _box(file, one)
        if not one.get("iscrowd") and box is not None:
            boxes[image].append((box, numbers[category]))
    for path in paths.values():
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{file} lists the image {path}, which is not there; put it there, or take it off the list"
            )
    listed = (
        Annotated(path, tuple(b for b, _ in boxes[identity]), tuple(label for _, label in boxes[identity]))
        for identity, path in sorted(paths.items())
    )
    return CocoFile(tuple(categories[identity] for identity in sorted(categories)), tuple(listed))


def coco(root: Path, *, size: int) -> Splits:
    """Images with boxes under `root`, resized to `size` pixels a side, in COCO's layout or in those of its tools.

    The part `train` is read from `annotations/instances_train*.json` with its images in `train*/`, or from
    `train/annotations.json` with `train/images/`, or from `train/_annotations.coco.json` with the images beside it;
    `val` and `test` likewise. Without `test`, `val` is the test and a tenth of `train` is held out; without either,
    80 % train, 10 % validate, 10 % test; drawn with a fixed seed. `annotations.json` with `images/` is one whole.
    """
    parts = {name: found for name in ("train", "val", "test") if (found := _find(root, name)) is not None}
    if "train" not in parts:
        whole = root / "annotations.json"
        if not whole.is_file():
            raise InputError(
                f"{root} holds no annotations of COCO's kind; put them into {root}/annotations.json and the images "
                f"into {root}/images/, or into annotations/instances_train.json and train/"
            )
        parts = {"train": (whole, root / "images")}
    read = {name: read_coco(*places) for name, places in parts.items()}
    classes = read["train"].classes
    for name, one in read.items():
        if one.classes != classes:
            raise InputError(
                f"the categories of {parts[name][0]} are not those of {parts['train'][0]}; give all parts one list"
            )
    train, validation, test = _parts(root, {name: one.images for name, one in read.items()})
    moving = _Boxed(train, size, moving=True)
    still = [_Boxed(part, size) for part in (train, validation, test)]
    return Splits(
        name="coco",
        train=moving,
        calibration=still[0],
        validation=still[1],
        test=still[2],
        classes=(BACKGROUND, *classes),
        shape=(3, size, size),
        fingerprint={str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file, _ in parts.values()},
        task="detection",
    )


def _find(root: Path, name: str) -> tuple[Path, Path] | None:
    """The annotation file of a part and the folder of its images."""
    for file in sorted((root / "annotations").glob(f"instances_{name}*.json")):
        return file, root / file.stem.removeprefix("instances_")
    for file, folder in (
        (root / name / "annotations.json", root / name / "images"),
        (root / name / "_annotations.coco.json", root / name),
    ):
        if file.is_file():
            return file, folder
    return None


def _parts(root: Path, found: Mapping[str, tuple[Annotated, ...]]) -> tuple[tuple[Annotated, ...], ...]:
    rng = np.random.default_rng(SPLIT_SEED)
    train = [found["train"][index] for index in rng.permutation(len(found["train"]))]
    held, tested = found.get("val"), found.get("test")
    if tested is None and held is not None:
        held, tested = None, held
    tenth = max(1, len(train) // 10)
    if held is None:
        held, train = tuple(train[:tenth]), train[tenth:]
    if tested is None:
        tested, train = tuple(train[:tenth]), train[tenth:]
    for name, part in (("train", train), ("val", held), ("test", tested)):
        if not part or not any(one.boxes for one in part):
            raise InputError(f"{root} has no image with a box in its {name} part; add some")
    return tuple(one for one in train if one.boxes), held, tested


@final
@dataclass(frozen=True, eq=False)
class _Boxed(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images, float [3, size, size] in [0, 1] (detectors standardise themselves), with boxes and classes."""

    images: tuple[Annotated, ...]
    size: int
    moving: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        from torchvision import tv_tensors  # an extra, needed here only
        from torchvision.transforms import v2

        made: Any = tv_tensors.BoundingBoxes
        one = self.images[index]
        image = read_image(str(one.path))
        boxes = made(
            torch.tensor(one.boxes, dtype=torch.float32).reshape(-1, 4),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=(image.height, image.width),
        )
        steps = [
            v2.Resize((self.size, self.size), antialias=True),
            *([v2.RandomHorizontalFlip()] if self.moving else []),
        ]
        pixels, placed = v2.Compose(steps)(v2.functional.to_image(image), boxes)
        pixels = v2.functional.to_dtype(pixels, torch.float32, scale=True).as_subclass(Tensor)
        return pixels, {"boxes": placed.as_subclass(Tensor), "labels": torch.tensor(one.labels, dtype=torch.int64)}


def together(batch: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Collate a batch for torchvision's detectors: images [n, 3, size, size], and a list of targets."""
    return torch.stack([image for image, _ in batch]), [target for _, target in batch]


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except OSError as cause:
        raise InputError(f"{file} cannot be read ({cause.strerror}); name a file of annotations") from cause
    except (ValueError, RecursionError) as cause:
        raise InputError(
            f"{file} is no JSON ({' '.join(str(cause).split())[:120]}); store the annotations again"
        ) from cause
    if not isinstance(found, dict):
        raise InputError(f"{file} holds {type(found).__name__}, not images, annotations and categories")
    return cast("Mapping[str, Any]", found)


def _entries(file: Path, found: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    entries = found.get(key)
    if not isinstance(entries, list) or not entries or not all(isinstance(one, dict) for one in entries):
        raise InputError(f"{file} has no list of {key}; COCO's files hold images, annotations and categories")
    return cast("list[Mapping[str, Any]]", entries)


def _whole(file: Path, one: Mapping[str, Any], key: str) -> int:
    value = one.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{file} has an entry whose {key} is {str(value)[:40]!r}, not a whole number")
    return value


def _box(file: Path, one: Mapping[str, Any]) -> Box | None:
    """Return the corners of a box; None if it has no area."""
    box = one.get("bbox")
    right = isinstance(box, list) and len(cast("list[Any]", box)) == 4
    if not right or not all(isinstance(v, int | float) and np.isfinite(v) for v in cast("list[Any]", box)):
        raise InputError(f"{file} has a bbox {str(box)[:60]}, which is not [x, y, width, height]")
    x, y, width, height = map(float, cast("list[float]", box))
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None
