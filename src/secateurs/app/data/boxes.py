"""Images with boxes for detection: COCO's files, read by torchvision, and synthetic rectangles without files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from secateurs.errors import InputError

Target = dict[str, Tensor]
"""`boxes` [n, 4] as (x1, y1, x2, y2) in pixels, and `labels` [n] from 1, as torchvision's detectors take them."""


def coco(images: Path, annotations: Path) -> Dataset[Any]:
    """COCO's detection data (Lin et al. 2014, arXiv:1405.0312): images in [0, 1] with their `Target`.

    images: the folder of the images; annotations: their `instances_*.json`. Labels are COCO's category numbers; images
    without a box are left out, and so are boxes without an area. It needs the package pycocotools, which torchvision
    reads the file with.
    """
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2  # an extra, needed here only
    from torchvision.transforms import v2

    for place in (images, annotations):
        if not place.exists():
            raise InputError(f"{place} is not there; name COCO's folder of images and its instances_*.json")
    seen = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    try:
        data = CocoDetection(str(images), str(annotations), transforms=seen)
    except ImportError as missing:
        raise InputError(
            f"COCO's annotations are read by pycocotools, which cannot be imported ({missing}); install it: "
            "python -m pip install pycocotools"
        ) from missing
    except (OSError, ValueError, KeyError) as cause:
        raise InputError(
            f"{annotations} is no file of COCO's annotations ({cause}); take an instances_*.json"
        ) from cause
    boxed = [at for at, name in enumerate(data.ids) if any(_area(a) for a in data.coco.imgToAnns.get(name, ()))]
    if not boxed:
        raise InputError(f"{annotations} has no box with an area; take an instances_*.json")
    return _Boxed(wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels")), boxed)


def _area(annotation: Any) -> bool:
    return annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0


@final
class _Boxed(Dataset[Any]):
    """Return the images that have boxes."""

    def __init__(self, data: Any, indices: list[int]) -> None:
        self._data = data
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image, target = self._data[self._indices[index]]
        boxes, labels = torch.as_tensor(target["boxes"]).float(), torch.as_tensor(target["labels"])
        wide = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return image.as_subclass(Tensor), {"boxes": boxes[wide], "labels": labels[wide]}


@final
@dataclass(frozen=True)
class Rectangles(Dataset[Any]):
    """Synthetic images: one to three filled rectangles on grey noise, whose colour is their class; seeded by index.

    >>> image, target = Rectangles(count=4, side=64)[3]
    >>> tuple(image.shape), target["boxes"].shape[1], bool((target["labels"] >= 1).all())
    ((3, 64, 64), 4, True)
    """

    count: int
    side: int = 128
    classes: int = 3
    seed: int = 0

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        image = 0.4 + 0.2 * torch.rand(3, self.side, self.side, generator=draw)
        boxes: list[list[int]] = []
        labels: list[int] = []
        for _ in range(int(torch.randint(1, 4, (), generator=draw))):
            size = torch.randint(self.side // 6, self.side // 2, (2,), generator=draw)
            corner = (torch.rand(2, generator=draw) * (self.side - size)).long()
            (x, y), (width, height) = corner.tolist(), size.tolist()
            label = int(torch.randint(self.classes, (), generator=draw))
            image[:, y : y + height, x : x + width] = 0.1
            image[label % 3, y : y + height, x : x + width] = 0.9 - 0.4 * (label // 3)
            boxes.append([x, y, x + width, y + height])
            labels.append(label + 1)
        return image, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}


def as_lists(batch: Sequence[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Collate a batch for torchvision's detectors: lists, because images may differ in size."""
    return [image for image, _ in batch], [target for _, target in batch]
