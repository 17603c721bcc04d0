"""What README, docs and examples show runs as written."""

import argparse
import json
import os
import re
import runpy
import shlex
import sys
import tomllib

import pytest
import torch
import torchvision
from tests.contracts.pages import (
    NOTEBOOKS,
    OTHERS,
    PAGES,
    ROOT,
    Small,
    a_device,
    anything,
    blocks,
    parsed,
    prose,
    the_hub,
    timm_at_work,
    transformers_at_work,
    ultralytics_at_work,
)
from torchvision.models import WeightsEnum

import secateurs as sct
from secateurs import registry
from secateurs.app.cli import arguments as cli_arguments
from secateurs.app.cli import commands as cli_commands
from secateurs.app.cli import main
from secateurs.app.cli.recipe import Recipe
from secateurs.app.sweep import read_sweep
from secateurs.app.sweep.jobs import jobs

BY_SECTION = {"clients"}
"""Pages that speak of another package under each heading: what one defines is not there in the next."""
SETTINGS = {
    "hub": the_hub,
    "deploy": a_device,
    "ten-milliseconds": a_device,
    "clients: Ultralytics YOLO": ultralytics_at_work,
    "clients: Hugging Face transformers": transformers_at_work,
    "clients: timm": timm_at_work,
}
"""Pages, and parts of pages, whose reader has more at hand than a small network."""
SLOW = {"deploy", "yolo", "ten-milliseconds", "onnx", "hub", "clients: Hugging Face transformers", "clients: timm"}
"""Pages whose blocks take long."""
PATIENT = [pytest.mark.slow, pytest.mark.timeout(1800)]
CLIENT = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]
NEEDED = {"clients: Ultralytics YOLO": "ultralytics", "executorch": "executorch"}
"""What is in no tier of the tests but `make clients`."""
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


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


def readings():
    """Every page with Python on it, whole or by its headings, with the marks of its test."""
    for page in PAGES:
        found = blocks(page, "python")
        for heading in sorted({one.heading for one in found}) if page.stem in BY_SECTION else [None] * bool(found):
            name = page.stem if heading is None else f"{page.stem}: {heading}"
            marks = CLIENT if name in NEEDED else PATIENT if name in SLOW else []
            yield pytest.param(
                page, heading, name, marks=marks, id=str(page.relative_to(ROOT)) + name[len(page.stem) :]
            )


@pytest.mark.parametrize(("page", "heading", "name"), list(readings()))
def test_python_blocks_run(page, heading, name, offline, monkeypatch):
    """From top to bottom, in one namespace, with only what a reader would have at hand."""
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason=f"needs the package {NEEDED[name]}: make clients")
    torch.manual_seed(0)
    busy = []
    with SETTINGS.get(name, anything)(monkeypatch) as names:
        for block in blocks(page, "python", heading=heading):
            source = "\n" * block.line + block.code  # so that a traceback names the page's own line
            try:
                exec(compile(source, str(page), "exec"), names)
            except sct.errors.DeviceError as error:
                if "too busy" not in str(error):
                    raise
                busy.append(f"{page.name}:{block.line}: {error}")
    if busy:
        pytest.skip("; ".join(busy))


LANGUAGES = {"python", "bash", "sh", "yaml", "toml", "mermaid"}
"""Of these, tests below and above read or run every block; a diagram holds nothing to run."""


@pytest.mark.parametrize("page", [*PAGES, *OTHERS, *NOTEBOOKS], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_code_stands_outside_the_languages_that_are_run(page):
    """Nor without a language, nor only indented; the code of a notebook is in its cells."""
    found = parsed(prose(page)) if page in NOTEBOOKS else blocks(page)
    allowed = LANGUAGES if page in PAGES else set()

    assert [f"{page.name}:{one.line} {one.language!r}" for one in found if one.language not in allowed] == []


def lines(page):
    """Every line of the shell blocks, as a shell would split it, with its number."""
    for block in blocks(page, "bash", "sh"):
        named = {}
        for offset, text in enumerate(block.code.replace("\\\n", "  ").splitlines(), start=block.line + 1):
            words = shlex.split(text, comments=True)
            if len(words) == 1 and (found := re.fullmatch(r"(\w+)=(.*)", words[0])):
                named[f"${found[1]}"] = found[2].split()
            elif words:
                yield offset, [*named.get(words[0], words[:1]), *words[1 : words.index(">") if ">" in words else None]]


def commands(page):
    """What is given to `secateurs` on a page, also below a launcher of processes."""
    for line, words in lines(page):
        if words[0] in ("secateurs", "srun", "torchrun"):
            yield line, words[words.index("secateurs") + 1 :]


@pytest.mark.parametrize("page", [p for p in PAGES if list(commands(p))], ids=lambda p: str(p.relative_to(ROOT)))
def test_shell_lines_are_understood(page, monkeypatch, capsys):
    """Every command with its flags is read without an error; the work itself is that of other tests."""
    done = []
    monkeypatch.setattr(cli_commands, "execute", lambda *given: done.append(given))
    monkeypatch.setattr(cli_arguments, "read_file", lambda path: {})
    monkeypatch.setattr(cli_arguments, "_keys", lambda path: {})
    found = list(commands(page))
    for line, words in found:
        assert main(words) == 0, f"{page.name}:{line}: {capsys.readouterr().err}"

    assert len(done) == len([words for _, words in found if not {"--help", "--print_completion"} & set(words)])


@pytest.mark.parametrize("page", [p for p in PAGES if list(lines(p))], ids=lambda p: str(p.relative_to(ROOT)))
def test_other_shell_lines_are_understood(page, monkeypatch, capsys):
    """Targets that make has, extras that the package has, scripts that exist and know their flags; nothing else."""
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for line, words in lines(page):
        match words:
            case ["secateurs" | "srun" | "torchrun", *_]:  # above
                pass
            case ["make", target]:
                assert target in targets, line
            case ["python", "-m", "pip", "install", what]:
                assert what == "." or set(re.fullmatch(r"\.\[(.*)\]", what)[1].split(",")) <= {*extras}, line
            case ["python", script, *flags]:
                monkeypatch.setattr(sys, "argv", [script, *flags])
                monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understood)
                with pytest.raises(UnderstoodError):
                    runpy.run_path(str(ROOT / script), run_name="__main__")
            case _:
                pytest.fail(f"{page.name}:{line}: no test reads {words}")


class UnderstoodError(Exception):
    """Flags were parsed, and the work would begin."""


def understood(parser):
    """Parse, and end a script there."""
    _, unknown = parser.parse_known_args()
    raise AssertionError(unknown) if unknown else UnderstoodError


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml")], ids=lambda p: str(p.relative_to(ROOT)))
def test_recipes_and_sweeps_are_read(page, tmp_path):
    """By the readers of the command line, into runs that they describe."""
    for block in blocks(page, "yaml"):
        file = tmp_path / "page.yaml"
        file.write_text(block.code)
        if "methods:" in block.code:
            assert len(jobs(read_sweep(file), tmp_path)) > 1
        else:
            keys = cli_arguments.read_file(file)
            assert cli_arguments.compose(Recipe(), keys).method == keys["method"]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "toml")], ids=lambda p: str(p.relative_to(ROOT)))
def test_entry_points_are_those_that_the_registry_reads(page):
    """Every table is a group of the registry, and every name in it is one."""
    for block in blocks(page, "toml"):
        groups = tomllib.loads(block.code)["project"]["entry-points"]
        assert groups
        assert set(groups) <= {*registry.ENTRY_POINTS}


PLACE = re.compile(r"`([a-z_]+/[\w./-]*\.(?:py|md|toml|ya?ml))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    """A path in backticks is one of the repository or of the package."""
    named = {m[1] for m in PLACE.finditer(page.read_text("utf-8"))}
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
