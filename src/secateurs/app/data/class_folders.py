"""A folder with one folder of images per class: listed once and checked; errors name the file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from mimetypes import guess_type
from pathlib import Path
from typing import Any, final

from secateurs.errors import InputError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif"}
)
"""Image types that are read; of an animation, the first frame."""

_UNREAD = frozenset({".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw"})
"""Types that neither every Python nor every Pillow knows as images."""


@final
@dataclass(frozen=True, eq=False)
class ClassFolders:
    """Images by class: (path, class number), sorted by name, and their sizes in bytes."""

    classes: tuple[str, ...]
    samples: tuple[tuple[str, int], ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """An image in RGB, and its class."""
        path, label = self.samples[index]
        return read_image(path), label

    @property
    def targets(self) -> list[int]:
        """The class of every image."""
        return [label for _, label in self.samples]

    def fingerprint(self, root: Path) -> dict[str, str]:
        """Return class -> number of images and a hash of their names and sizes, relative to `root`."""
        hashes = [hashlib.sha256() for _ in self.classes]
        counts = [0] * len(self.classes)
        for (path, label), size in zip(self.samples, self.sizes, strict=True):
            hashes[label].update(f"{os.path.relpath(path, root)}\0{size}\0".encode(errors="surrogateescape"))
            counts[label] += 1
        listed = zip(self.classes, counts, hashes, strict=True)
        return {name: f"{count} images, {found.hexdigest()}" for name, count, found in listed}


def open_folders(root: Path) -> ClassFolders:
    """List the images of a folder; InputError names files that are not images, and folders that are not classes."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise InputError(
            f"{root} is no folder of images: it holds no folder; put each class's images in a folder of its own"
        )
    if len(classes) == 1:
        raise InputError(
            f"{root} holds one class only, {classes[0]!r}, and there is nothing to tell apart; "
            "put each class's images in a folder of its own"
        )
    samples: list[tuple[str, int]] = []
    sizes: list[int] = []
    for label, name in enumerate(classes):
        before = len(samples)
        for path, size in _images(root, root / name):
            samples.append((path, label))
            sizes.append(size)
        if len(samples) == before:
            raise InputError(f"{root / name} holds no image; put some there, or remove the folder")
    return ClassFolders(tuple(classes), tuple(samples), tuple(sizes))


def read_image(path: str) -> Any:
    """Read one image in RGB; InputError names a file that is not an image or cannot be read."""
    from torchvision.datasets.folder import default_loader  # an extra, needed here only

    _size(Path(path))
    try:
        return default_loader(path)
    except Exception as cause:
        raise InputError(f"the image {path} cannot be read ({cause}); replace it or remove it") from cause


def _images(root: Path, folder: Path) -> Iterator[tuple[str, int]]:
    if root.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder} is a link to a folder that holds it; remove it")
    for top, inner, names in sorted((Path(top), inner, names) for top, inner, names in os.walk(folder)):
        for name in inner:
            if (top / name).is_symlink():
                raise InputError(f"{top / name} is a link to a folder, which is not followed; put the folder there")
        for path in sorted(top / name for name in names):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if path.suffix.lower() in EXTENSIONS:
                yield str(path), _size(path)
            elif _is_image(path):
                raise InputError(
                    f"{path} is an image of a type that is not read ({path.suffix}); convert it, or remove it; "
                    f"read are {', '.join(sorted(EXTENSIONS))}"
                )


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError as cause:
        raise InputError(f"the image {path} cannot be read ({cause.strerror}); replace it or remove it") from cause
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"the image {path} cannot be read (no plain file); replace it or remove it")
    return found.st_size


def _is_image(path: Path) -> bool:
    """True for names of image files, of any type."""
    kind = guess_type(path.name)[0] or ""
    return kind.startswith("image/") or path.suffix.lower() in _UNREAD | _known()


@cache
def _known() -> frozenset[str]:
    """Extensions of all types of images that Pillow has a reader for."""
    from PIL import Image  # an extra, needed here only

    return frozenset(Image.registered_extensions())
