"""Boxes as COCO stores them, and detectors pruned from the command line, measured by mAP."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.end_to_end.test_cli import brief  # noqa: F401 (an autouse fixture)

from secateurs.app.cli import main
from secateurs.app.data import Preprocessing, load
from secateurs.app.data.coco import read_coco, together
from secateurs.errors import InputError

SIDE = 64
NET = """
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, ResNet

def net(num_classes):
    body = ResNet(BasicBlock, [1, 1, 1, 1])
    backbone = BackboneWithFPN(body, {"layer2": "0", "layer3": "1"}, [128, 256], 64)
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    return FCOS(backbone, num_classes, anchor_generator=anchors, min_size=64, max_size=64)
"""


def annotated(folder, count=30, start=0):
    """Bright squares of two kinds on noise; the ids of images and categories begin anywhere."""
    rng, images, boxes = np.random.default_rng(start), [], []
    (folder / "images").mkdir(parents=True)
    for index in range(count):
        picture = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        kind = int(rng.integers(2))
        x, y, side = (int(v) for v in (rng.integers(4, 30), rng.integers(4, 30), rng.integers(18, 28)))
        picture[y : y + side, x : x + side, kind] += 180
        Image.fromarray(picture).save(folder / "images" / f"{index}.png")
        images.append({"id": 100 + index, "file_name": f"{index}.png"})
        boxes.append({"id": index, "image_id": 100 + index, "category_id": (7, 3)[kind], "bbox": [x, y, side, side]})
    categories = [{"id": 7, "name": "red"}, {"id": 3, "name": "green"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return content


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares")
    annotated(root)
    return root


def test_boxes_and_categories_are_those_of_the_file(squares):
    """Corners instead of sizes; categories are numbered from 1 in the order of their ids."""
    content = json.loads((squares / "annotations.json").read_text())
    found = read_coco(squares / "annotations.json", squares / "images")

    assert found.classes == ("green", "red")
    for one, stored in zip(found.images, content["annotations"], strict=True):
        x, y, width, height = stored["bbox"]
        assert one.boxes == ((x, y, x + width, y + height),)
        assert one.labels == ({3: 1, 7: 2}[stored["category_id"]],)


def test_boxes_follow_their_image_when_it_is_resized(squares):
    """Half the side, half the corners; a mirrored box still frames its square."""
    splits = load(f"coco:{squares}", how=Preprocessing(SIDE // 2))
    whole = {one.path: one for one in read_coco(squares / "annotations.json", squares / "images").images}
    for index, one in enumerate(splits.calibration.images):
        image, target = splits.calibration[index]
        assert image.shape == (3, SIDE // 2, SIDE // 2)
        assert target["boxes"][0].tolist() == pytest.approx([v / 2 for v in whole[one.path].boxes[0]])
    torch.manual_seed(0)
    for index in range(len(splits.train)):
        image, target = splits.train[index]
        x1, y1, x2, y2 = target["boxes"][0].round().int().tolist()
        channel = 2 - int(target["labels"][0])  # red is 2 and the first channel
        assert image[channel, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() > image[channel].mean() + 0.2
    images, targets = together([splits.train[0], splits.train[1]])
    assert (images.shape[0], len(targets)) == (2, 2)
    assert splits.classes == ("background", "green", "red")


@pytest.mark.parametrize("layout", ["coco", "roboflow", "parts"])
def test_layouts_of_tools_are_read(layout, tmp_path):
    """Parts that are given are used as they are."""
    counts = {"train": 12, "val": 5, "test": 4}
    for start, (name, count) in enumerate(counts.items()):
        annotated(tmp_path / "made" / name, count, start)
        made = tmp_path / "made" / name
        if layout == "parts":
            (tmp_path / "data").mkdir(exist_ok=True)
            made.rename(tmp_path / "data" / name)
        elif layout == "coco":
            (tmp_path / "data" / "annotations").mkdir(parents=True, exist_ok=True)
            (made / "images").rename(tmp_path / "data" / f"{name}2017")
            (made / "annotations.json").rename(tmp_path / "data" / "annotations" / f"instances_{name}2017.json")
        else:
            (tmp_path / "data").mkdir(exist_ok=True)
            (made / "images").rename(tmp_path / "data" / name)
            (made / "annotations.json").rename(tmp_path / "data" / name / "_annotations.coco.json")
    splits = load(f"coco:{tmp_path / 'data'}", how=Preprocessing(32))

    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [12, 5, 4]


HARMS = {
    "no JSON": (lambda _: "{", "is no JSON"),
    "nested": (lambda _: "[" * 100_000, "is no JSON"),
    "a list": (lambda _: "[]", "holds list"),
    "no images": (lambda c: json.dumps({**c, "images": []}), "no list of images"),
    "no categories": (lambda c: json.dumps({**c, "categories": None}), "no list of categories"),
    "an id of text": (lambda c: json.dumps({**c, "images": [{**c["images"][0], "id": "1"}]}), "not a whole number"),
    "another image": (
        lambda c: json.dumps({**c, "annotations": [{**c["annotations"][0], "image_id": 5}]}),
        "does not list",
    ),
    "three numbers": (
        lambda c: json.dumps({**c, "annotations": [{**c["annotations"][0], "bbox": [1, 2, 3]}]}),
        r"not \[x, y, width, height\]",
    ),
    "not a number": (
        lambda c: json.dumps({**c, "annotations": [{**c["annotations"][0], "bbox": [1, 2, 3, float("nan")]}]}),
        r"not \[x, y, width, height\]",
    ),
    "an image that is elsewhere": (
        lambda c: json.dumps({**c, "images": [{**c["images"][0], "file_name": "../../x.png"}, *c["images"][1:]]}),
        "is not there",
    ),
    "no boxes": (
        lambda c: json.dumps({**c, "annotations": [{**one, "bbox": [0, 0, 0, 0]} for one in c["annotations"]]}),
        "no image with a box",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_bad_annotations_are_named(harm, tmp_path):
    """By the file and what does not fit."""
    make, words = HARMS[harm]
    content = annotated(tmp_path, 12)
    (tmp_path / "annotations.json").write_text(make(content))
    with pytest.raises(InputError, match=words):
        load(f"coco:{tmp_path}", how=Preprocessing(32))


def test_no_annotations_and_no_package_are_told(tmp_path, monkeypatch, squares, capsys):
    with pytest.raises(InputError, match="no annotations of COCO's kind"):
        load(f"coco:{tmp_path}")
    (tmp_path / "net.py").write_text(NET)
    flags = [
        "--model",
        f"{tmp_path / 'net.py'}:net",
        "--data",
        f"coco:{squares}",
        "--image-size",
        "64",
        "--macs",
        "0.8",
    ]
    monkeypatch.setattr("secateurs.app.training.detector.find_spec", lambda _: None)
    assert main(["prune", *flags, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert "secateurs[detection]" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_detector_is_pruned_and_measured_by_map(squares, tmp_path, capsys):
    """From annotations to a table that names mAP; a classifier is refused."""
    pytest.importorskip("pycocotools")
    (tmp_path / "net.py").write_text(NET)
    flags = ["--model", f"{tmp_path / 'net.py'}:net", "--data", f"coco:{squares}", "--task", "detection"]
    flags += ["--image-size", "64", "--macs", "80%", "--train-epochs", "12", "--train-lr", "0.02", "--epochs", "2"]
    flags += ["--batch-size", "4", "--device", "cpu", "--threads", "1", "--multiple-of", "1", "--method", "l2"]

    assert main(["prune", *flags, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "test mAP" in capsys.readouterr().out
    assert report["before"]["accuracy"] > 0.05
    assert report["after"]["macs"] <= 0.8 * report["before"]["macs"]
    assert main(["prune", *flags, "--model", "resnet20", "--out", str(tmp_path / "no")]) == 2
    assert "detection needs a list of dicts" in capsys.readouterr().err
