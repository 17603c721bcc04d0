"""Beyond names for images: classes of pixels by mIoU, and images without labels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.end_to_end.test_cli import brief  # noqa: F401 (an autouse fixture)
from torch import nn

from secateurs.app.cli import main
from secateurs.app.data import Preprocessing, load
from secateurs.app.training import Optimisation, evaluate
from secateurs.app.training.segmenter import Segmenter, at_pixels
from secateurs.errors import InputError

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )
        self.head = nn.Conv2d(16, num_classes, 1)

    def forward(self, x):
        return {"out": self.head(self.body(x))}

def pixels(num_classes):
    return Net(num_classes)

def plain(num_classes):
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, num_classes))
"""

SMALL = ["--device", "cpu", "--threads", "1", "--batch-size", "8", "--image-size", "16", "--multiple-of", "1"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(NET)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Red squares on black, their masks, and a border without a class."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for index in range(30):
        mask = np.zeros((16, 16), np.uint8)
        top, left = rng.integers(1, 8, 2)
        mask[top : top + 7, left : left + 7] = 1
        image = np.zeros((16, 16, 3), np.uint8)
        image[..., 0] = 200 * mask + rng.integers(0, 30, mask.shape)
        mask[0] = 255
        Image.fromarray(image).save(root / "images" / f"{index:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index:02}.png")
    return root


@pytest.mark.slow
def test_a_segmentation_network_is_pruned_and_measured_by_miou(own, photos, tmp_path, capsys):
    flags = ["--model", f"{own}:pixels", "--data", f"masks:{photos}", "--task", "segmentation", "--macs", "60%"]
    flags += ["--train-epochs", "8", "--epochs", "2", "--method", "taylor", *SMALL]

    assert main(["prune", *flags, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "test mIoU" in printed
    assert "test accuracy" not in printed
    assert report["metric"] == "mIoU"
    assert report["before"]["accuracy"] > 0.7
    assert report["after"]["accuracy"] > 0.5
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]


def test_miou_is_that_of_the_definition(photos):
    """Intersections and unions over all images, then the mean of the classes; pixels without a class do not count."""
    torch.manual_seed(0)
    splits = load(f"masks:{photos}", how=Preprocessing(16))
    net = nn.Conv2d(3, 2, 1)
    loader = torch.utils.data.DataLoader(splits.test, batch_size=2)
    found = evaluate(net, loader, device="cpu", splits=splits)

    images, masks = (torch.stack(part) for part in zip(*splits.test, strict=True))
    counted = masks >= 0
    named = net(images).argmax(1)
    ratios = [
        ((named == c) & (masks == c)).sum() / (counted & ((named == c) | (masks == c))).sum().clamp(min=1)
        for c in (0, 1)
    ]
    assert found == pytest.approx(float(sum(ratios) / 2), abs=1e-6)
    assert (masks[:, 0] == -100).all()


def test_smaller_logits_are_resized_and_a_classifier_is_refused(own, photos, tmp_path, capsys):
    assert at_pixels(torch.zeros(2, 3, 4, 4), torch.zeros(2, 16, 16)).shape == (2, 3, 16, 16)
    with pytest.raises(InputError, match="needs logits"):
        at_pixels(torch.zeros(2, 3), torch.zeros(2, 16, 16))
    flags = ["--model", f"{own}:plain", "--data", f"masks:{photos}", "--macs", "0.5", *SMALL]
    assert main(["prune", *flags, "--out", str(tmp_path / "out")]) == 2
    assert "segmentation needs logits" in capsys.readouterr().err


def _colours(root):
    Image.new("RGB", (16, 16)).save(root / "masks" / "03.png")


def _small(root):
    Image.new("L", (8, 8)).save(root / "masks" / "03.png")


def _lacks(root):
    (root / "masks" / "03.png").unlink()


def _torn(root):
    content = (root / "masks" / "03.png").read_bytes()
    (root / "masks" / "03.png").write_bytes(content[: len(content) // 2])


def _twice(root):
    Image.new("RGB", (16, 16)).save(root / "images" / "03.bmp")


def _void(root):
    for path in (root / "masks").iterdir():
        Image.new("L", (16, 16), 255).save(path)


def _few(root):
    (root / "classes.txt").write_text("ground\n")


def _nofolder(root):
    for path in (root / "masks").iterdir():
        path.unlink()
    (root / "masks").rmdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_colours, "has colours"),
        (_small, "one value for each pixel"),
        (_lacks, "add it, or remove this one"),
        (_torn, "cannot be read"),
        (_twice, "have one name"),
        (_void, "one class only"),
        (_few, "one class only"),
        (_nofolder, "holds no folder 'masks'"),
    ],
)
def test_bad_masks_are_named(photos, tmp_path, harm, words):
    """With the file, before training or when it is read."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for path in (photos / name).iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    harm(tmp_path)

    def every():
        splits = load(f"masks:{tmp_path}", how=Preprocessing(16))
        return [list(part) for part in (splits.train, splits.validation, splits.test)]

    with pytest.raises(InputError, match=words):
        every()


def test_segmenters_measure_without_classes_of_their_own():
    """A part without any pixel of a class is a number, not nan."""
    module = Segmenter(nn.Conv2d(3, 3, 1), Optimisation(1, 1.0), classes=3)
    module.meters["test"].update(torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long))
    assert torch.isfinite(module.meters["test"].compute())


@pytest.fixture(scope="module")
def trained(own, tmp_path_factory):
    """Weights of a classifier of seven classes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(net.state_dict(), path)
    return path


def test_images_alone_are_enough(own, photos, trained, tmp_path, capsys):
    """Pruned and reconstructed; no accuracy is told, in the table, the report or the picture."""
    flags = [
        "--model",
        f"{own}:plain",
        "--weights",
        str(trained),
        "--data",
        f"images:{photos / 'images'}",
        "--macs",
        "0.5",
    ]
    assert main(["prune", *flags, *SMALL, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())

    assert "accuracy" not in printed
    assert report["before"]["accuracy"] is None
    assert "without labels" in report["conditions"]["data"]
    assert [stage["name"] for stage in report["stages"]] == ["trained", "pruned", "reconstructed", "recovered"]
    assert main(["prune", "--out", str(tmp_path / "out"), "--resume", "--trust-code"]) == 0
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--epochs", "2"], "no labels to fine-tune by"),
        (["--method", "greg1"], "no labels to train by"),
        (["--distil", "0.5"], "--distil"),
        (["--task", "segmentation"], "do not belong together"),
        (["--method", "taylor"], "target|label"),
    ],
)
def test_what_needs_labels_is_refused(own, photos, trained, more, words, tmp_path, capsys):
    flags = [
        "--model",
        f"{own}:plain",
        "--weights",
        str(trained),
        "--data",
        f"images:{photos / 'images'}",
        "--macs",
        "0.5",
    ]
    assert main(["prune", *flags, *SMALL, *more, "--out", str(tmp_path / "out")]) in (1, 2)
    told = capsys.readouterr().err
    assert any(word in told for word in words.split("|")), told
    assert told.count("\n") == 1


def test_images_alone_need_weights(own, photos, tmp_path, capsys):
    flags = ["--model", f"{own}:plain", "--data", f"images:{photos / 'images'}", "--macs", "0.5", *SMALL]
    assert main(["prune", *flags, "--out", str(tmp_path / "out")]) == 2
    assert "--weights" in capsys.readouterr().err
