"""Tiny-ImageNet as distributed, COCO's files, and drawn rectangles."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from secateurs.app.data import load
from secateurs.app.data.boxes import Rectangles, as_lists, coco
from secateurs.errors import InputError

NAMES = ("n03", "n01", "n02")


@pytest.fixture
def tiny(tmp_path):
    """Three classes of ten images to learn from; six held out, their classes in the list of annotations."""
    (tmp_path / "wnids.txt").write_text("\n".join(NAMES) + "\n")
    for n, name in enumerate(NAMES):
        folder = tmp_path / "train" / name / "images"
        folder.mkdir(parents=True)
        for k in range(10):
            Image.new("RGB", (64, 64), (60 * n, k, 0)).save(folder / f"{name}_{k}.JPEG", quality=100)
    (tmp_path / "val" / "images").mkdir(parents=True)
    lines = []
    for k in range(6):
        Image.new("L", (64, 64), 10 * k).save(tmp_path / "val" / "images" / f"val_{k}.JPEG")
        lines.append(f"val_{k}.JPEG\t{NAMES[k % 3]}\t0\t0\t62\t62\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_tiny_imagenet_is_read_as_distributed(tiny):
    """Classes in the order of wnids.txt; the held-out images get theirs from the annotations."""
    splits = load(f"tiny-imagenet:{tiny}")

    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [27, 3, 6]
    assert (splits.classes, splits.shape) == (NAMES, (3, 64, 64))
    assert splits.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert splits.test.pixels[:, 0, 0, 0].tolist() == pytest.approx([10 * k for k in range(6)], abs=2)
    red = splits.calibration.pixels[:, 0].float().mean((1, 2))
    assert ((red / 60).round().long() == splits.calibration.labels).all()
    assert splits.train[0][0].shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "wnids.txt").unlink(), "wnids"),
        (lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\t0\n"), "names 'n09'"),
        (lambda root: [p.unlink() for p in (root / "train" / "n01" / "images").iterdir()], "holds 0 images"),
        (lambda root: Image.new("RGB", (8, 8)).save(root / "val" / "images" / "val_1.JPEG"), "8 x 8 pixels"),
        (lambda root: (root / "val" / "images" / "val_2.JPEG").unlink(), "val_2"),
    ],
)
def test_a_tiny_imagenet_that_is_not_whole_is_refused(tiny, spoil, words):
    """With what is missing."""
    spoil(tiny)
    with pytest.raises(InputError, match=words):
        load(f"tiny-imagenet:{tiny}")


def test_rectangles_are_where_their_boxes_say():
    """Drawn from the seed and the number of the image; bright in the channel of the class, inside the box alone."""
    data = Rectangles(count=30, side=48)
    for image, target in data:
        for (x1, y1, x2, y2), label in list(
            zip(target["boxes"].int().tolist(), target["labels"].tolist(), strict=True)
        )[-1:]:
            assert (image[label - 1, y1:y2, x1:x2] == 0.9).all()
            assert 0 <= x1 < x2 <= 48
            assert 0 <= y1 < y2 <= 48
    bright = [(image == 0.9).any(0) for image, _ in data]
    inside = [torch.zeros(48, 48, dtype=torch.bool) for _ in data]
    for seen, (_, target) in zip(inside, data, strict=True):
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            seen[y1:y2, x1:x2] = True

    assert all(torch.equal(a & b, a) for a, b in zip(bright, inside, strict=True))
    assert torch.equal(data[3][0], Rectangles(count=30, side=48)[3][0])
    assert not torch.equal(data[3][0], Rectangles(count=30, side=48, seed=1)[3][0])
    images, targets = as_lists([data[0], data[1]])
    assert (len(images), len(targets)) == (2, 2)


def test_coco_is_read_by_torchvision(tmp_path):
    """Corners from corner and size; images and boxes without an area are left out."""
    pytest.importorskip("pycocotools")
    for n in (1, 2):
        Image.fromarray(np.full((20, 30, 3), 50 * n, np.uint8)).save(tmp_path / f"{n}.png")
    boxes = [(1, [2, 3, 10, 5], 7), (1, [0, 0, 0, 5], 3), (2, [1, 1, 0, 0], 7)]
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 20, "width": 30} for n in (1, 2)],
        "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
        "annotations": [
            {"id": k, "image_id": i, "bbox": box, "category_id": c, "area": box[2] * box[3], "iscrowd": 0}
            for k, (i, box, c) in enumerate(boxes, 1)
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    data = coco(tmp_path, tmp_path / "instances.json")
    image, target = data[0]

    assert len(data) == 1
    assert image.shape == (3, 20, 30)
    assert image.max().item() == pytest.approx(50 / 255)
    assert (target["boxes"].tolist(), target["labels"].tolist()) == ([[2, 3, 12, 8]], [7])


def test_a_coco_that_is_not_there_is_refused(tmp_path):
    """By its path."""
    with pytest.raises(InputError, match=r"instances\.json is not there"):
        coco(tmp_path, tmp_path / "instances.json")
