"""What README, docs and examples show runs as written."""

import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models import WeightsEnum

import secateurs as sct
from secateurs.app.cli import arguments as cli_arguments
from secateurs.app.cli import commands as cli_commands
from secateurs.app.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SLOW = {"deploy", "yolo"}
"""Pages whose blocks take over ten seconds."""
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def blocks(page, language):
    """The fenced blocks of one language, with the line each begins at."""
    text = page.read_text("utf-8")
    return [(text[: m.start()].count("\n") + 1, m[2]) for m in BLOCK.finditer(text) if m[1] == language]


class Small(nn.Module):
    """A network as pages mean it when they say `model`."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def reader_has():
    """The names that a reader brings along: a model, data, an optimizer and a training loop."""
    torch.manual_seed(0)
    model = Small()
    loader = [(torch.randn(8, 3, 16, 16), torch.randint(10, (8,))) for _ in range(4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train(model=model, optimizer=optimizer, epochs=1):
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

    x = torch.zeros(1, 3, 16, 16)
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


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No page downloads anything here: pretrained weights are the network's own fresh ones, and files go elsewhere."""
    makers = {name: torchvision.models.get_model_builder(name) for name in torchvision.models.list_models()}

    def fresh(weights, *args, **kwargs):
        name = next(n for n, m in makers.items() if torchvision.models.get_model_weights(m) is type(weights))
        return makers[name]().state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fresh)
    monkeypatch.chdir(tmp_path)
    torch.save(Small().state_dict(), "trained.pth")


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow) if p.stem in SLOW else p for p in PAGES if blocks(p, "python")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_python_blocks_run(page, offline):
    """From top to bottom, in one namespace, with only what a reader would have at hand."""
    names = reader_has()
    for line, code in blocks(page, "python"):
        source = "\n" * line + code  # so that a traceback names the page's own line
        exec(compile(source, str(page), "exec"), names)


def commands(page):
    """Every `secateurs ...` line of the shell blocks, as a shell would split it."""
    for line, code in [*blocks(page, "bash"), *blocks(page, "sh")]:
        for offset, text in enumerate(code.replace("\\\n", "  ").splitlines(), start=line + 1):
            words = shlex.split(text, comments=True)
            if words[:1] == ["secateurs"]:
                yield offset, words[1 : words.index(">") if ">" in words else None]


@pytest.mark.parametrize("page", [p for p in PAGES if list(commands(p))], ids=lambda p: str(p.relative_to(ROOT)))
def test_shell_lines_are_understood(page, monkeypatch, capsys):
    """Every command with its flags is read without an error; the work itself is that of other tests."""
    done = []
    monkeypatch.setattr(cli_commands, "execute", lambda *given: done.append(given))
    monkeypatch.setattr(cli_arguments, "read_file", lambda path: {})
    monkeypatch.setattr(cli_arguments, "_keys", lambda path: {})
    lines = list(commands(page))
    for line, words in lines:
        assert main(words) == 0, f"{page.name}:{line}: {capsys.readouterr().err}"

    assert len(done) == len([words for _, words in lines if not {"--help", "--print_completion"} & set(words)])


PLACE = re.compile(r"`([a-z_]+/[\w./-]*\.(?:py|md|toml|ya?ml))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    """A path in backticks is one of the repository or of the package."""
    named = {m[1] for m in PLACE.finditer(BLOCK.sub("", page.read_text("utf-8")))}
    roots = (ROOT, ROOT / "src", ROOT / "src" / "secateurs", page.parent)

    assert [name for name in sorted(named) if not any((root / name).is_file() for root in roots)] == []


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda p: p.name)
def test_examples_run(script, monkeypatch, tmp_path, capsys):
    """Each example is a program that ends with a smaller network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setitem(os.environ, "TOKENIZERS_PARALLELISM", "false")
    runpy.run_path(str(script), run_name="__main__")

    assert "MACs" in capsys.readouterr().out


def required(notebook):
    """The packages outside the library's own extras that a tutorial says it needs."""
    return json.loads(notebook.read_text("utf-8"))["metadata"].get("secateurs", {}).get("requires", [])


CLIENT = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook", [pytest.param(p, marks=CLIENT) if required(p) else p for p in NOTEBOOKS], ids=lambda p: p.name
)
def test_notebooks_run(notebook):
    """Each tutorial runs from top to bottom, and prints something in at least two of its cells."""
    for package in required(notebook):
        pytest.importorskip(package, reason=f"needs the package {package}: make clients")
    run = runpy.run_path(str(ROOT / "docs" / "tutorials" / "run.py"))["run"]
    done = run(notebook)

    assert sum(bool(cell["outputs"]) for cell in done["cells"] if cell["cell_type"] == "code") >= 2
