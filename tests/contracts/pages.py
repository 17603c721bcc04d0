"""The pages of the repository, their blocks of code, and what a reader has at hand when they are read."""

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from markdown_it import MarkdownIt
from tests.contracts.fake_hub import fake_hub
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.deploy.rig import Rig

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
OTHERS = sorted({*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *(ROOT / "results").rglob("*.md")} - {*PAGES})
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


@dataclass(frozen=True)
class Block:
    """Code on a page: its first line, its language ("" for indented code), its text, and the heading above it."""

    line: int
    language: str
    code: str
    heading: str


def blocks(page, *languages, heading=None):
    """The blocks of some languages, or of all, as a parser of Markdown finds them; under one heading, or anywhere."""
    return [
        one
        for one in parsed(page.read_text("utf-8"))
        if (not languages or one.language in languages) and heading in (None, one.heading)
    ]


def parsed(text):
    """Every block of code in a text, fenced or indented."""
    tokens, found, heading = MarkdownIt().parse(text), [], ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and token.tag == "h2":
            heading = following.content
        if token.type in ("fence", "code_block"):
            fenced = token.type == "fence"
            found.append(Block(token.map[0] + fenced, token.info.strip() if fenced else "", token.content, heading))
    return found


def prose(notebook):
    """The Markdown of a notebook."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


class Small(nn.Module):
    """A network as pages mean it when they say `model`."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Large(Small):
    """A network that takes its time."""

    def __init__(self):
        super().__init__()
        layers = [m for i in (3, 64) for m in (nn.Conv2d(i, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())]
        self.stem, self.body, self.head = nn.Sequential(*layers), nn.Identity(), nn.Linear(64, 10)


def reader_has(model, size, batch=8):
    """The names that a reader brings along: a model, data, an optimizer and a training loop."""
    loader = [(torch.randn(batch, 3, size, size), torch.randint(10, (batch,))) for _ in range(4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train(model=model, optimizer=optimizer, epochs=1):
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

    x = torch.zeros(1, 3, size, size)
    return {
        "torch": torch,
        "nn": nn,
        "F": F,
        "sct": sct,
        "model": model,
        "loader": loader,
        "optimizer": optimizer,
        "example_inputs": x,
        "x": x,
        "train": train,
        "epochs": 1,
    }


@contextmanager
def anything(patch):
    """A small network and its training loop."""
    yield reader_has(Small(), 16)


@contextmanager
def a_device(patch):
    """A network in which layers take the time, not calls; each is measured for a fifth of a second."""
    patch.setitem(Rig.__init__.__kwdefaults__, "seconds", 0.2)
    yield reader_has(Large(), 128, batch=2)


@contextmanager
def the_hub(patch):
    """A Hub, of which one is a user; and a run of half a ResNet-18."""
    import torchvision

    result = sct.prune(
        torchvision.models.resnet18(), torch.zeros(1, 3, 32, 32), method="l2", budget=sct.Budget(macs=0.1)
    )
    folder = sct.save(result.model, result.plan, "runs/half")
    figures = {"accuracy": 0.9, "macs": result.cost_before.macs, "params": result.cost_before.params}
    (folder / "report.json").write_text(json.dumps({"title": "ResNet-18", "before": figures, "after": figures}))
    with fake_hub(patch, "cache") as server:
        patch.setenv("HF_TOKEN", "a token")
        yield reader_has(Small(), 16)
        assert {"plan.json", "model.safetensors", "README.md"} == set(server.files)


@contextmanager
def transformers_at_work(patch):
    """A vision transformer, images, and the arguments of their Trainer; and the Hub."""
    import transformers
    from tests.clients.transformer_models import vit

    model, size = vit()
    images = torch.randn(2, 3, size, size)
    rows = [{"pixel_values": torch.randn(3, size, size), "labels": i % 5} for i in range(8)]
    settings = {"save_strategy": "epoch", "report_to": [], "use_cpu": True, "disable_tqdm": True}
    args = transformers.TrainingArguments("out", num_train_epochs=20, per_device_train_batch_size=4, **settings)
    with fake_hub(patch, "cache") as server:
        patch.setenv("HF_TOKEN", "a token")
        yield {"model": model.eval(), "images": images, "rows": rows, "args": args, "steps": 2}
        assert "pruning_plan.json" in server.files


@contextmanager
def timm_at_work(patch):
    """Images, and a training loop that saves checkpoints as timm's does."""
    from argparse import Namespace

    from timm.utils import CheckpointSaver, ModelEmaV3

    def train(model):
        Path("output").mkdir()
        optimizer, ema = torch.optim.SGD(model.parameters(), lr=0.01), ModelEmaV3(model)
        args = Namespace(model="resnet50")
        saver = CheckpointSaver(model, optimizer, args=args, model_ema=ema, checkpoint_dir="output")
        saver.save_checkpoint(0, metric=1.0)

    yield {"images": torch.randn(2, 3, 32, 32), "train": train}


SHORT = dict(epochs=3, imgsz=64, batch=4, nbs=4, workers=0, plots=False, device="cpu", verbose=False)


@contextmanager
def ultralytics_at_work(patch):
    """A YOLO that was trained on red and green squares. What is trained here takes three epochs of small images."""
    import ultralytics
    import yaml
    from PIL import Image
    from ultralytics.nn.tasks import yaml_model_load

    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        Path("squares", kind).mkdir(parents=True)
    for i in range(8):
        image = random.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        image[20:40, 20:40, i % 2] = 255
        Image.fromarray(image).save(f"squares/images/{i}.png")
        Path(f"squares/labels/{i}.txt").write_text(f"{i % 2} 0.47 0.47 0.31 0.31\n")
    table = {"path": str(Path("squares").resolve()), "train": "images", "val": "images"}
    Path("data.yaml").write_text(yaml.safe_dump({**table, "names": {0: "red", 1: "green"}}))
    network = yaml_model_load("yolov8n.yaml")
    written = {key: value for key, value in network.items() if key not in ("yaml_file", "scale")}
    Path("yolov8n.yaml").write_text(yaml.safe_dump({**written, "nc": 2}))

    train, export = ultralytics.YOLO.train, ultralytics.YOLO.export
    short = {**SHORT, "project": str(Path("runs/detect").resolve())}  # under pytest they write somewhere else
    patch.setattr(ultralytics.YOLO, "train", lambda self, **said: train(self, **{**said, **short}))
    patch.setattr(ultralytics.YOLO, "export", lambda self, **said: export(self, **said, imgsz=64, simplify=False))
    ultralytics.YOLO("yolov8n.yaml").train(data="data.yaml")
    yield {}
