"""Images in folders named after their classes, read by torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from torch.utils.data import Dataset, Subset

from secateurs.app.data.augment import Augmentation
from secateurs.app.data.class_folders import ClassFolders, open_folders
from secateurs.app.data.preprocessing import Preprocessing
from secateurs.app.data.splits import Splits, stratified
from secateurs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


def imagefolder(root: Path, *, how: Preprocessing) -> Splits:
    """Images under `root`, preprocessed by `how`, in one of three layouts.

    - `train/CLASS/…`, `val/CLASS/…` and `test/CLASS/…`: used as they are;
    - `train/` and one of `val/` or `test/` (ImageNet's): that one is the test, and a tenth of `train/` is held out for
      validation;
    - `CLASS/…` only: 80 % to train, 10 % for validation, 10 % for the test.

    Held-out parts are drawn within every class with a fixed seed; folders whose names begin with a dot are ignored.
    InputError names an unknown layout, a class with too few images for its parts, and files that are not images of a
    supported type.
    """
    plain, moving = how.still(), _moving(how, Augmentation())
    present = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if present == ["train", "val", "test"]:
        sets = {name: _open(root / name) for name in present}
        train, validation, test = (_all(sets[name]) for name in present)
    elif "train" in present and len(present) > 1:
        learning, held = _open(root / "train"), _open(root / present[1])
        parts = stratified(learning.targets, (0.9, 0.1))
        train, validation = (_Part(learning, part.tolist()) for part in parts)
        test = _all(held)
    elif present:
        raise InputError(
            f"{root} holds {' and '.join(f'{name}/' for name in present)} alone, which is no layout: add the others of "
            "train/, val/ and test/, or put each class's images in a folder of its own there, without these"
        )
    else:
        whole = _open(root)
        train, validation, test = (_Part(whole, part.tolist()) for part in stratified(whole.targets, (0.8, 0.1, 0.1)))
    _same_classes(root, train, validation, test)
    _enough(root, train=train, validation=validation, test=test)
    return Splits(
        name="imagefolder",
        train=_Learning(_Seen(train.folder, moving), train.indices, how),
        calibration=train.through(plain),
        validation=validation.through(plain),
        test=test.through(plain),
        classes=tuple(train.folder.classes),
        shape=(3, how.size, how.size),
        fingerprint=_fingerprint(root, train, validation, test),
    )


@final
@dataclass(frozen=True, eq=False)
class _Part:
    """Some images of an opened folder."""

    folder: ClassFolders
    indices: list[int]

    def through(self, transform: Callable[[Any], Any]) -> Dataset[Any]:
        """The images with `transform` applied."""
        return Subset(_Seen(self.folder, transform), self.indices)


@final
class _Learning(Subset[Any]):
    """The training images, whose augmentation can be changed."""

    def __init__(self, seen: _Seen, indices: list[int], how: Preprocessing) -> None:
        super().__init__(seen, indices)
        self.seen = seen
        self.how = how

    def augmented(self, how: Augmentation) -> _Learning:
        """Return the same images, augmented otherwise."""
        return _Learning(_Seen(self.seen.folder, _moving(self.how, how)), list(self.indices), self.how)


@final
@dataclass(frozen=True, eq=False)
class _Seen(Dataset[Any]):
    """A folder of images with a transform, so that one listing of the files serves every split."""

    folder: ClassFolders
    transform: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.folder[index]
        return self.transform(image), label


def _all(folder: Any) -> _Part:
    # A fixed shuffle: the first images of a part must be a fair sample of it.
    (order,) = stratified(folder.targets, (1.0,))
    return _Part(folder, order.tolist())


def _open(root: Path) -> ClassFolders:
    if find_spec("torchvision") is None:  # an extra, needed here only
        raise InputError(
            "folders of images are read by torchvision, which is not installed; install it: "
            "python -m pip install 'secateurs[train]'"
        )
    try:
        return open_folders(root)
    except OSError as cause:
        raise InputError(f"{cause.filename or root} cannot be listed: {cause.strerror or cause}") from cause


def _fingerprint(root: Path, *parts: _Part) -> dict[str, str]:
    """Return class folder -> its fingerprint."""
    folders = {id(part.folder): part.folder for part in parts}.values()
    found: dict[str, str] = {}
    for folder in folders:
        top = Path(folder.samples[0][0]).relative_to(root).parts[0]
        place = "" if top == folder.classes[0] else f"{top}/"
        found |= {f"{place}{name}": what for name, what in folder.fingerprint(root).items()}
    return found


def _enough(root: Path, **parts: _Part) -> None:
    """Refuse a class without an image in one of the parts."""
    for name, part in parts.items():
        there = {part.folder.samples[index][1] for index in part.indices}
        for label, cls in enumerate(part.folder.classes):
            if label not in there:
                count = part.folder.targets.count(label)
                raise InputError(
                    f"the class {cls!r} of {root} has {count} images, and none would be left for its {name} part; "
                    "give every class 10 or more"
                )


def _same_classes(root: Path, *parts: _Part) -> None:
    first = parts[0].folder.classes
    for part in parts[1:]:
        if part.folder.classes != first:
            odd = sorted(set(first) ^ set(part.folder.classes))
            raise InputError(
                f"the folders of {root} do not hold the same classes; these are not in all: {', '.join(odd[:5])}"
            )


def _moving(seen: Preprocessing, how: Augmentation) -> Callable[[Any], Any]:
    """ImageNet's usual way to learn from an image: a random part of it, resized, and mirrored or not; then the rest."""
    from torchvision.transforms import v2

    pixels, standardised = how.transforms()
    crop = seen.part() if how.crop == "standard" else seen.middle()
    return v2.Compose([*crop, *pixels, *seen.standard(), *standardised])
