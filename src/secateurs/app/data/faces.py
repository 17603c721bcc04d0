"""Faces: a folder for each person, and pairs of images in folds, as in Labeled Faces in the Wild.

Gary B. Huang, Manu Ramesh, Tamara Berg, Erik Learned-Miller, "Labeled Faces in the Wild", University of Massachusetts
Technical Report 07-49, 2007: 6,000 pairs in 10 folds; of each fold, half are of one person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from secateurs.app.data.class_folders import EXTENSIONS, read_image
from secateurs.errors import InputError, near

Face = tuple[str, int]
"""A person, and the number of one of their images, from 1."""


@final
@dataclass(frozen=True)
class FacePair:
    """A pair of images, of one person or of two."""

    first: Face
    second: Face

    @property
    def same(self) -> bool:
        """True if both images are of the same person."""
        return self.first[0] == self.second[0]


@final
@dataclass(frozen=True, eq=False)
class People:
    """Images by person: `NAME/…_0001.jpg` in folders named after them; digits before the extension number images."""

    images: Mapping[str, Mapping[int, Path]]

    @staticmethod
    def open(root: Path) -> People:
        """List a folder; InputError names entries that are not a person, or files without a number."""
        if not root.is_dir():
            raise InputError(f"{root} is no folder; name one that holds a folder of images for each person")
        found: dict[str, dict[int, Path]] = {}
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            numbered: dict[int, Path] = {}
            for file in sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS):
                digits = re.search(r"(\d+)$", file.stem)
                if digits is None or int(digits[1]) in numbered:
                    raise InputError(
                        f"{file} has no number of its own before its ending; call the images of a person "
                        f"{folder.name}_0001{file.suffix}, {folder.name}_0002{file.suffix} and so on"
                    )
                numbered[int(digits[1])] = file
            if numbered:
                found[folder.name] = numbered
        if len(found) < 2:
            raise InputError(f"{root} holds images of {len(found)} people; put each person's into a folder of its own")
        return People(found)

    def __len__(self) -> int:
        """Number of images."""
        return sum(map(len, self.images.values()))

    def faces(self) -> list[Face]:
        """Every image."""
        return [(name, number) for name, numbered in self.images.items() for number in numbered]

    def path(self, face: Face) -> Path:
        """Return the file of an image; InputError for one that is not there."""
        name, number = face
        if name not in self.images:
            raise InputError(f"a pair names {name!r}, of whom there is no folder: {near(name, self.images)}")
        if number not in self.images[name]:
            have = ", ".join(map(str, sorted(self.images[name])))
            raise InputError(f"a pair names image {number} of {name!r}, of whom there are only the numbers {have}")
        return self.images[name][number]

    def read(self, faces: Sequence[Face]) -> Tensor:
        """Read images of one size as raw pixels, uint8 [n, 3, height, width]."""
        arrays = [np.asarray(read_image(str(self.path(face)))) for face in faces]
        odd = next((a.shape for a in arrays if a.shape != arrays[0].shape), None)
        if odd is not None:
            raise InputError(
                f"images have {arrays[0].shape[:2]} and {odd[:2]} pixels; align and crop all faces to one size first"
            )
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

    def half(self, number: int, *, seed: int = 0) -> People:
        """Half 0 or 1 of the people, drawn with a seed.

        >>> people = People({name: {1: Path()} for name in "abcde"})
        >>> len(people.half(0)), len(people.half(1)), sorted({*people.half(0).images, *people.half(1).images})
        (3, 2, ['a', 'b', 'c', 'd', 'e'])
        """
        order = np.random.default_rng(seed).permutation(len(self.images)).tolist()
        names = {list(self.images)[n] for n in order[number::2]}
        return People({name: images for name, images in self.images.items() if name in names})

    def outside(self, folds: Sequence[Sequence[FacePair]]) -> People:
        """The people in no pair, whose images may be used for training."""
        paired = {face[0] for fold in folds for pair in fold for face in (pair.first, pair.second)}
        return People({name: images for name, images in self.images.items() if name not in paired})


def read_pairs(file: Path) -> tuple[tuple[FacePair, ...], ...]:
    """Read pairs.txt as distributed: `folds<tab>n`, then for each fold n lines of one person and n of two."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        folds, count = (int(part) for part in lines[0].split())
        pairs = [_pair(line, number + 2) for number, line in enumerate(lines[1:]) if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as cause:
        raise InputError(f"{file} is no list of pairs ({cause}); its first line is, for LFW, 10<tab>300") from cause
    if folds < 2 or len(pairs) != 2 * folds * count:
        raise InputError(
            f"{file} says {folds} folds of 2 x {count} pairs, and it has {len(pairs)} pairs; take a whole file"
        )
    found = tuple(tuple(pairs[2 * count * k : 2 * count * (k + 1)]) for k in range(folds))
    if any(pair.same != (n < count) for fold in found for n, pair in enumerate(fold)):
        raise InputError(f"{file}: in each fold, {count} pairs of one person come first, then {count} of two")
    return found


def draw_pairs(people: People, *, folds: int = 10, seed: int = 0) -> tuple[tuple[FacePair, ...], ...]:
    """Draw folds of pairs from people with two or more images, half of them of one person; nobody is in two folds.

    >>> images = {name: {1: Path(), 2: Path(), 3: Path()} for name in "abcdef"}
    >>> [len(fold) for fold in draw_pairs(People(images), folds=3)]
    [12, 12, 12]
    """
    rng = np.random.default_rng(seed)
    names = [name for name, images in people.images.items() if len(images) > 1]
    if len(names) < 2 * folds:
        raise InputError(
            f"{len(names)} people have two images or more, and {folds} folds need {2 * folds}; ask for fewer folds"
        )
    rng.shuffle(names)
    return tuple(_fold(people, names[k::folds], rng) for k in range(folds))


def _fold(people: People, names: Sequence[str], rng: np.random.Generator) -> tuple[FacePair, ...]:
    """All pairs of the same person, and as many random pairs of two."""
    faces = {name: sorted(people.images[name]) for name in names}
    same = [FacePair((name, a), (name, b)) for name in names for a, b in combinations(faces[name], 2)]
    others: dict[FacePair, None] = {}
    most = sum(len(faces[a]) * len(faces[b]) for i, a in enumerate(names) for b in names[i + 1 :])
    while len(others) < min(len(same), most):
        a, b = (names[int(n)] for n in sorted(rng.choice(len(names), 2, replace=False).tolist()))
        first, second = (a, int(rng.choice(faces[a]))), (b, int(rng.choice(faces[b])))
        others[FacePair(first, second)] = None
    return (*same[: len(others)], *others)


def _pair(line: str, number: int) -> FacePair:
    parts: list[Any] = line.split()
    if len(parts) == 3:
        return FacePair((parts[0], int(parts[1])), (parts[0], int(parts[2])))
    if len(parts) == 4:
        return FacePair((parts[0], int(parts[1])), (parts[2], int(parts[3])))
    raise ValueError(f"line {number} has {len(parts)} words, and a pair has 3 or 4")
