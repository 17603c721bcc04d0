"""Load a data set by its name on the command line, in three splits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from secateurs.app.data.cifar import cifar10, cifar100
from secateurs.app.data.coco import coco
from secateurs.app.data.digits import digits
from secateurs.app.data.folder import imagefolder
from secateurs.app.data.images import Standard
from secateurs.app.data.masks import masks
from secateurs.app.data.preprocessing import Preprocessing
from secateurs.app.data.tiny_imagenet import tiny_imagenet
from secateurs.app.data.unlabelled import unlabelled
from secateurs.errors import InputError, RecipeError, near

if TYPE_CHECKING:
    from secateurs.app.data.splits import Splits

IMAGENET = Preprocessing()

NAMES = (
    "digits",
    "digits:PIXELS",
    "cifar10:ROOT",
    "cifar100:ROOT",
    "tiny-imagenet:ROOT",
    "imagefolder:ROOT",
    "masks:ROOT",
    "coco:ROOT",
    "images:ROOT",
)
"""Forms of a data set's name."""


RESIZED = {"imagefolder": imagefolder, "masks": masks, "images": unlabelled}
"""Data sets whose images are resized and cropped as asked for."""


def check_name(name: str) -> None:
    """Refuse a name that cannot be loaded, before any work; reads no image.

    >>> check_name("faces")
    Traceback (most recent call last):
    secateurs.errors.RecipeError: no data set is called 'faces'; Known: cifar100:ROOT, cifar10:ROOT, coco:ROOT, ...
    """
    kind, root = _split(name)
    if kind not in {known.partition(":")[0] for known in NAMES}:
        raise RecipeError(f"no data set is called {name!r}; {near(name, NAMES)}")
    if kind == "digits":
        if root is not None and not 8 <= _pixels(root) <= 1024:
            raise RecipeError(f"no data set is called {name!r}: digits come in 8 to 1024 pixels, for example digits:32")
        return
    if root is None:
        raise RecipeError(f"{kind} needs the folder that holds it; write {kind}:ROOT")
    if not _is_folder(root):
        raise InputError(f"the data root {root} is not there; create it, or correct {name!r}")


def seems_there(kind: str, root: Path) -> bool:
    """Return True if the names in a folder are those of a data set; nothing is opened.

    >>> seems_there("cifar10", Path("/nowhere")), seems_there("digits", Path("/nowhere"))
    (False, True)
    """
    return kind == "digits" or any(_is_folder(root / place) for place in MARKS[kind])


MARKS = {
    "cifar10": ("cifar-10-batches-py",),
    "cifar100": ("cifar-100-python",),
    "tiny-imagenet": ("train",),
    "imagefolder": ("train",),
    "masks": ("train", "images"),
    "coco": ("annotations", "train", "images"),
    "images": (".",),
}
"""Folders of which one is in the root of a data set."""


def load(name: str, *, how: Preprocessing = IMAGENET) -> Splits:
    """The data set called `name`; `how` is what is done to its images.

    Digits have their own size and statistics, CIFAR and Tiny-ImageNet their own size; detectors standardise by
    themselves.

    >>> [len(part) for part in (load("digits").train, load("digits").validation, load("digits").test)]
    [1078, 360, 359]
    """
    check_name(name)
    kind, root = _split(name)
    if kind == "digits":
        return digits(None if root is None else _pixels(root))
    folder = root or Path()  # check_name has refused a name without its root
    if kind == "coco":
        return coco(folder, size=how.size)
    if kind in RESIZED:
        return RESIZED[kind](folder, how=how)
    standard = Standard(255.0, how.mean, how.std)
    return {"cifar10": cifar10, "cifar100": cifar100, "tiny-imagenet": tiny_imagenet}[kind](folder, standard)


def _pixels(root: Path) -> int:
    """Return the size after `digits:`; 0 if there is none."""
    return int(root.name) if re.fullmatch(r"\d{1,4}", root.name, re.ASCII) else 0


def _is_folder(root: Path) -> bool:
    try:
        return root.is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _split(name: str) -> tuple[str, Path | None]:
    kind, colon, root = name.partition(":")
    return kind, Path(root).expanduser() if colon and root else None
