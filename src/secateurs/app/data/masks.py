"""Images and masks with the class of each pixel, in two folders."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateurs.app.data.class_folders import EXTENSIONS, read_image
from secateurs.app.data.preprocessing import Preprocessing
from secateurs.app.data.splits import SPLIT_SEED, Splits
from secateurs.errors import InputError

VOID, IGNORED = 255, -100
"""The value of pixels that have no class in a mask, and in the tensors, where PyTorch's cross entropy skips it."""

NAMES = "classes.txt"


def masks(root: Path, *, how: Preprocessing) -> Splits:
    """Images under `root/images` with their masks under `root/masks`, resized and standardised as `how` says.

    An image and its mask have the same name, whatever the extension. A mask is a grey or palette PNG whose value is the
    number of the class; 255 is no class. `root/train`, `root/val` and `root/test` may each hold the two folders;
    without `val` a tenth of `train` is held out; without any, 80 % train, 10 % validate, 10 % test, drawn with a fixed
    seed.
    `root/classes.txt` names the classes, one a line; without it they are the numbers in the masks.
    InputError names an image without a mask, a mask of another size or kind, and parts that would be empty.
    """
    present = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if present and not {"train", "test"} <= set(present):
        raise InputError(f"{root} holds {' and '.join(present)} without the others of train/, val/ and test/; add them")
    pairs = {name: _pairs(root / name) for name in present} if present else {"train": _pairs(root)}
    train, validation, test = _parts(root, pairs)
    classes = _classes(root, (*train, *validation, *test))
    parts = [_Masked(tuple(part), classes, how) for part in (train, validation, test)]
    return Splits(
        name="masks",
        train=_Masked(tuple(train), classes, how, moving=True),
        calibration=parts[0],
        validation=parts[1],
        test=parts[2],
        classes=classes,
        shape=(3, how.size, how.size),
        fingerprint={str(root): _fingerprint(root, (*train, *validation, *test))},
        task="segmentation",
    )


Pair = tuple[Path, Path]


def _pairs(folder: Path) -> list[Pair]:
    """Every image of a folder with its mask, by name."""
    for needed in ("images", "masks"):
        if not (folder / needed).is_dir():
            raise InputError(
                f"{folder} holds no folder {needed!r}; put the images into images/, their masks into masks/"
            )
    images, targets = (_listed(folder / name) for name in ("images", "masks"))
    for stem in sorted(images.keys() ^ targets.keys()):
        there, lacking = ("images", "masks") if stem in images else ("masks", "images")
        raise InputError(f"{folder / there} has {stem!r} and {folder / lacking} has not; add it, or remove this one")
    if not images:
        raise InputError(f"{folder / 'images'} holds no image; put some there")
    return [(images[stem], targets[stem]) for stem in sorted(images)]


def _listed(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in EXTENSIONS:
            continue
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem].name} have one name; rename or remove one of them")
        found[path.stem] = path
    return found


def _parts(root: Path, pairs: dict[str, list[Pair]]) -> tuple[list[Pair], list[Pair], list[Pair]]:
    rng = np.random.default_rng(SPLIT_SEED)
    train = [pairs["train"][index] for index in rng.permutation(len(pairs["train"]))]
    held, tested = pairs.get("val"), pairs.get("test")
    tenth = max(1, len(train) // 10)
    if held is None:
        held, train = train[:tenth], train[tenth:]
    if tested is None:
        tested, train = train[:tenth], train[tenth:]
    for name, part in (("train", train), ("val", held), ("test", tested)):
        if not part:
            raise InputError(f"{root} has too few images: none would be left for its {name} part; add some")
    return train, held, tested


def _classes(root: Path, pairs: tuple[Pair, ...]) -> tuple[str, ...]:
    if (root / NAMES).is_file():
        classes = tuple(line.strip() for line in (root / NAMES).read_text("utf-8").splitlines() if line.strip())
    else:
        most = max(_most(path) for _, path in pairs)
        classes = tuple(map(str, range(most + 1)))
    if len(classes) < 2:
        raise InputError(
            f"{root} has one class only, and there is nothing to tell apart; masks hold 0, 1, … for classes"
        )
    return classes


def _most(path: Path) -> int:
    """Return the largest class in a mask; -1 if every pixel is void."""
    values = read_mask(path)
    return int(values[values != VOID].max(initial=0)) if (values != VOID).any() else -1


def read_mask(path: Path) -> np.ndarray[Any, Any]:
    """Read the classes of an image's pixels, uint8 [height, width]; InputError names a file without classes."""
    from PIL import Image, UnidentifiedImageError  # an extra, needed here only

    try:
        with Image.open(path) as opened:
            if opened.mode not in ("L", "P", "1"):
                raise InputError(
                    f"the mask {path} has colours ({opened.mode}), not classes; store the number of each pixel's class "
                    "as a grey or palette PNG"
                )
            return np.array(opened, dtype=np.uint8)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as cause:
        raise InputError(f"the mask {path} cannot be read ({cause}); replace it or remove it") from cause


@final
@dataclass(frozen=True, eq=False)
class _Masked(Dataset[tuple[Tensor, Tensor]]):
    """Images, float [3, size, size], and the classes of their pixels, int64 [size, size]."""

    pairs: tuple[Pair, ...]
    classes: tuple[str, ...]
    how: Preprocessing
    moving: bool = False

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors  # an extra, needed here only
        from torchvision.transforms import v2

        path, mask = self.pairs[index]
        image, values = read_image(str(path)), read_mask(mask)
        if (image.height, image.width) != values.shape:
            raise InputError(
                f"{path} is {image.width}x{image.height} pixels and its mask {mask} {values.shape[1]}x{values.shape[0]}"
                "; a mask has one value for each pixel"
            )
        wrong = values[(values >= len(self.classes)) & (values != VOID)]
        if wrong.size:
            raise InputError(f"the mask {mask} holds {wrong[0]}, and there are {len(self.classes)} classes, from 0 on")
        pair = v2.functional.to_image(image), tv_tensors.Mask(torch.from_numpy(values))
        placed = (
            v2.Compose(
                [v2.RandomResizedCrop(self.how.size, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()]
            )
            if self.moving
            else v2.Resize((self.how.size, self.how.size), antialias=True)
        )
        pixels, target = placed(*pair)
        pixels = v2.functional.normalize(
            v2.functional.to_dtype(pixels, torch.float32, scale=True), [*self.how.mean], [*self.how.std]
        )
        labels = target.as_subclass(Tensor).long()
        return pixels.as_subclass(Tensor), torch.where(labels == VOID, IGNORED, labels)


def _fingerprint(root: Path, pairs: tuple[Pair, ...]) -> str:
    found = hashlib.sha256()
    for path in sorted(path for pair in pairs for path in pair):
        found.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
    return f"{len(pairs)} images, {found.hexdigest()}"
