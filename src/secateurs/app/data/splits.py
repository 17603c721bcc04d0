"""Three disjoint splits of a data set, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
from torch.utils.data import Subset

from secateurs.app.data.augment import Augmentation
from secateurs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    Index = NDArray[np.int64]


@runtime_checkable
class Augmented(Protocol):
    """A data set whose augmentation can be changed."""

    def augmented(self, how: Augmentation) -> object:
        """Return the same images with another augmentation."""
        ...


Task = Literal["classification", "segmentation", "detection", "none"]

SPLIT_SEED = 0
"""Seed of the splits, separate from that of a run: the test images must be the same in every run."""


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set in three disjoint parts: training, validation, and test.

    `calibration` has the training images without augmentation, in a fixed shuffled order, for evidence of criteria and
    statistics of BatchNorm.
    """

    name: str
    train: Dataset[Any]
    calibration: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    """Channels, height and width of one image."""
    fingerprint: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fingerprint of data that may change on disk: place -> number of images and a hash."""
    task: Task = "classification"
    """The task: classes of images, of pixels or of boxes; "none" without labels, when nothing can be measured."""

    def first(self, images: int | None) -> Splits:
        """The same parts with at most so many images each: the first, which are a random sample; None takes all."""
        if images is None:
            return self

        def few(part: Dataset[Any]) -> Dataset[Any]:
            return Subset(part, range(min(images, len(part))))  # pyright: ignore[reportArgumentType]

        parts = ("train", "calibration", "validation", "test")
        return replace(self, **{name: few(getattr(self, name)) for name in parts})

    def augmented(self, how: Augmentation) -> Splits:
        """The same images, with another augmentation of the training images."""
        if how == Augmentation():
            return self
        train: Any = self.train
        if not isinstance(train, Augmented):
            raise InputError(f"the images of {self.name} cannot be augmented otherwise; leave {how} out")
        return replace(self, train=cast("Dataset[Any]", train.augmented(how)))


def stratified(labels: Sequence[int] | Index, fractions: tuple[float, ...]) -> tuple[Index, ...]:
    """Disjoint index sets that hold these fractions of every class; together they hold every index once.

    Of the n members of a class, part k gets round(n * (f_1 + ... + f_k)) - round(n * (f_1 + ... + f_(k-1))). Each part
    is shuffled, so that its first images are a random sample. Drawn with a fixed seed.

    >>> train, rest = stratified([0, 0, 0, 0, 1, 1, 1, 1], (0.75, 0.25))
    >>> len(train), len(rest), sorted({*train.tolist(), *rest.tolist()}) == list(range(8))
    (6, 2, True)
    """
    if not np.isclose(sum(fractions), 1.0) or min(fractions) < 0:
        raise ValueError(f"fractions={fractions} must be non-negative and sum to 1")
    rng = np.random.default_rng(SPLIT_SEED)
    marks = np.cumsum((0.0, *fractions))
    parts: list[list[Index]] = [[] for _ in fractions]
    targets = np.asarray(labels)
    for label in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == label))
        cuts = np.rint(marks * len(members)).astype(np.int64)
        for part, start, stop in zip(parts, cuts[:-1], cuts[1:], strict=True):
            part.append(members[start:stop])
    return tuple(rng.permutation(np.concatenate(part)) for part in parts)
