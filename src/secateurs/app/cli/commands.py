"""The commands: each takes its flags, and shows its help or does its work."""

import sys
from textwrap import fill

from rich.console import Console

from secateurs.app import models
from secateurs.app.cli import demo as demonstration
from secateurs.app.cli import inspect as inspection
from secateurs.app.cli.arguments import default_method, read, split_flags
from secateurs.app.cli.flags import method_parser, parse_flags, recipe_parser
from secateurs.app.cli.pruning import prune as run
from secateurs.app.cli.recipe import Recipe
from secateurs.criteria import Criterion
from secateurs.methods import Method
from secateurs.registry import registry

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


def inspect(arguments: list[str]) -> None:
    """Show a network."""
    if _wants_help(arguments):
        sys.stdout.write(f"{INSPECT}\n{inspection.inspect_parser().format_help()}")
    else:
        inspection.inspect(inspection.read_question(arguments), Console())


def _wants_help(arguments: list[str]) -> bool:
    return "-h" in arguments or "--help" in arguments


def _one_shot() -> list[str]:
    """The methods that a run can use; the others prune during training, through secateurs.Session."""
    return sorted(name for name, make in registry().items() if isinstance(make(), Criterion | Method))


def _method_help(arguments: list[str]) -> str:
    """Name the methods, and explain the options of the one that is named among the flags."""
    _, common = split_flags([word for word in arguments if word not in ("-h", "--help")])
    name = parse_flags(recipe_parser(Recipe()), common).get("method", Recipe().method)
    method = default_method(name)
    summary = (type(method).__doc__ or "").strip().partition("\n")[0]
    options = method_parser(method).format_help().strip().removeprefix("options:").strip("\n") or "  it has no options"
    return (
        f"methods: {', '.join(_one_shot())}\n\n"
        f"options of --method {name}: {summary}\n{options}\n\n"
        "For another method's: secateurs prune --method NAME --help. In a recipe file options stand beside the name:\n"
        f"  method: {{name: {name}, …}}\n"
    )
