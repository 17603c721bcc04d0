"""Prune, prove, save and load with nothing installed but the package itself: run on a fresh install of it.

So does README's first block of Python, in a folder of its own.
"""

import contextlib
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

import secateurs as sct
from secateurs.app.cli import main


def net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


assert main(["--version"]) == 0
assert main(["prune", "--help"]) == 2  # in a sentence that names the extra

extras = ["torchvision", "lightning", "rich", "jsonargparse", "matplotlib", "timm", "onnx", "huggingface_hub"]
assert not [name for name in extras if find_spec(name)], "this is not an install of the core alone"

model, x = net(), torch.randn(1, 3, 32, 32)
result = sct.prune(model, x, method="magnitude", budget=sct.Budget(macs=0.5))
assert result.cost_after.macs <= result.cost_before.macs / 2
with tempfile.TemporaryDirectory() as folder:
    sct.save(result.model, result.plan, f"{folder}/small")
    again = sct.load(net(), f"{folder}/small").eval()
assert torch.equal(again(x), result.model.eval()(x))

readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
names = {}
with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    exec(re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1], names)
assert names["small"](x).shape == (1, 10)
