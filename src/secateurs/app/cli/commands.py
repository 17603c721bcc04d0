"""The commands: each takes its flags, and shows its help or does its work."""

import sys
from textwrap import fill, wrap

from rich.console import Console

from secateurs.app import models
from secateurs.app.cli import demo as demonstration
from secateurs.app.cli import exporting
from secateurs.app.cli import inspect as inspection
from secateurs.app.cli.arguments import default_method, read, split_flags
from secateurs.app.cli.flags import method_parser, parse_flags, recipe_parser
from secateurs.app.cli.pruning import prune as run
from secateurs.app.cli.recipe import Recipe
from secateurs.errors import RecipeError
from secateurs.registry import Kind, entries, kebab, kind_of, summary

PRUNE = """\
usage: secateurs prune --macs X --out FOLDER [FLAGS]

Train a network (or load its weights), prune it to a budget, recalibrate its BatchNorm, fine-tune, verify and measure.
Decisions are made on a validation split; the test split is looked at once, at the end. FOLDER then holds
model.safetensors and plan.json, which secateurs.load reads, recipe.yaml, report.json and report.png.

examples:
  secateurs prune --weights trained.safetensors --data cifar10:DATA --macs 0.5 --out runs/half
  secateurs prune --model torchvision:resnet18 --data imagefolder:PHOTOS --params 4000000 --out runs/small
  secateurs prune --config runs/half/recipe.yaml --seed 1 --out runs/again
  secateurs prune --out runs/half --resume
"""

DEMO = """\
usage: secateurs demo [--out FOLDER] [FLAGS]

Train a ResNet-20 on handwritten digits (bundled with scikit-learn), prune it to half of its multiply-accumulates,
recover its accuracy, verify and measure. Takes about two minutes on two cores; needs no network.
FOLDER is runs/demo where none is given.
"""

INSPECT = f"""\
usage: secateurs inspect MODEL [FLAGS]

Show what can be removed from a network, what cannot and why, and what one forward pass costs. Weights do not matter.
MODEL is one of
{fill(", ".join(models.NAMES), width=100, break_on_hyphens=False)}.

example:
  secateurs inspect torchvision:mobilenet_v3_large --input 1x3x224x224
"""


EXPORT = """\
usage: secateurs export RUN [FLAGS]

Write the dense and the pruned network of a finished run as files that run without this library, with a free batch size.
Each file is run and compared with the network, evaluated on the test split, and measured on its runtime.

examples:
  secateurs export runs/half --to onnx --int8
  secateurs export runs/half --to openvino --out files
"""


def prune(arguments: list[str]) -> None:
    """Prune one's own network on one's own data."""
    if _wants_help(arguments):
        sys.stdout.write(f"{PRUNE}\n{recipe_parser(Recipe()).format_help()}\n{_method_help(arguments)}")
    else:
        run(read(arguments, Recipe()), Console())


def demo(arguments: list[str]) -> None:
    """Prune the demonstration network."""
    if _wants_help(arguments):
        sys.stdout.write(f"{DEMO}\n{recipe_parser(demonstration.RECIPE, demonstration.FLAGS).format_help()}")
    else:
        run(read(arguments, demonstration.RECIPE, out=demonstration.OUT, only=demonstration.FLAGS), Console())


def export(arguments: list[str]) -> None:
    """Export a run."""
    if _wants_help(arguments):
        sys.stdout.write(f"{EXPORT}\n{exporting.export_parser().format_help()}")
    else:
        exporting.export(exporting.read_order(arguments), Console())


def inspect(arguments: list[str]) -> None:
    """Show a network."""
    if _wants_help(arguments):
        sys.stdout.write(f"{INSPECT}\n{inspection.inspect_parser().format_help()}")
    else:
        inspection.inspect(inspection.read_question(arguments), Console())


def _wants_help(arguments: list[str]) -> bool:
    return "-h" in arguments or "--help" in arguments


KINDS: dict[Kind, str] = {
    "criterion": "criteria, which rank units; a budget says how many go",
    "one-shot": "methods that choose once; a budget, or the method itself, says how many go",
    "training": "methods that prune while the network trains",
}
"""Headings of the list of methods, in order."""


def _methods() -> str:
    """List everything that --method takes, by kind, each with the first sentence of its documentation."""
    spellings: dict[str, list[str]] = {}
    known = entries()
    for name, entry in known.items():
        spellings.setdefault(entry.name, []).append(name)
    lines: dict[Kind | None, list[str]] = {kind: [] for kind in (*KINDS, None)}
    for name in sorted(spellings):
        others = sorted(one for one in spellings[name] if one != name)
        called = name + (f" ({', '.join(others)})" if others else "")
        try:
            value = known[name].make()
        except RecipeError as broken:
            lines[None].append(f"  {broken}")
        else:
            told = summary(value) if kebab(type(value).__name__) == name else f"{value!r}: {summary(value)}"
            text = [f"  {called}", *wrap(told, 106, initial_indent=" " * 6, subsequent_indent=" " * 6)]
            lines[kind_of(value)].append("\n".join(text))
    parts = [f"{heading}:\n" + "\n".join(lines[kind]) for kind, heading in KINDS.items()]
    parts += ["cannot be used:\n" + "\n".join(lines[None])] if lines[None] else []
    return "\n\n".join(parts)


def _method_help(arguments: list[str]) -> str:
    """Name the methods, and explain the options of the one that is named among the flags."""
    _, common = split_flags([word for word in arguments if word not in ("-h", "--help")])
    name = parse_flags(recipe_parser(Recipe()), common).get("method", Recipe().method)
    method = default_method(name)
    options = method_parser(method).format_help().strip().removeprefix("options:").strip("\n") or "  it has no options"
    return (
        f"{_methods()}\n\nor path.py:CLASS, a method or criterion in a file of your own.\n\n"
        f"options of --method {name}: {summary(method)}\n{options}\n\n"
        "For another method's: secateurs prune --method NAME --help. In a recipe file options stand beside the name:\n"
        f"  method: {{name: {name}, …}}\n"
    )
