"""Arguments and help text of each command. This module imports nothing heavy, so that `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from secateurs.app.choices import MODELS
from secateurs.app.cli.arguments import Invocation
from secateurs.app.cli.flags import setting
from secateurs.app.cli.recipe import Control

FORMATS = ("md", "csv", "html", "json")
"""Endings of a leaderboard's files."""


@final
@dataclass(frozen=True)
class Pruning(Invocation):
    """Train a network (or load its weights), prune it to a budget, recalibrate its BatchNorm, fine-tune and measure.

    Decisions are made on a validation split; the test split is used once, at the end. FOLDER then holds
    model.safetensors and plan.json, which secateurs.load reads, recipe.yaml, report.html, report.json and report.png.

    examples:
      secateurs prune --weights trained.safetensors --data cifar10:DATA --macs 50% --out runs/half
      secateurs prune --model torchvision:resnet18 --data imagefolder:PHOTOS --params 4M --out runs/small
      secateurs prune --config runs/half/recipe.yaml --seed 1 --out runs/again
      secateurs prune --out runs/half --resume
    """


@final
@dataclass(frozen=True)
class Comparison:
    """Compare the figures of two finished runs: the network after pruning, and the dense one.

    example:
      secateurs compare runs/l2 runs/taylor
    """

    first: Path = setting("the folder of a finished run", "RUN")
    second: Path = setting("the folder of another", "RUN")
    json: bool = setting("print the figures as JSON", default=False)


@final
@dataclass(frozen=True)
class Reproduction:
    """Run an experiment of a paper by the name of its row: the paper's network, data, recipe and method.

    The reported result, its source, and differences from the authors' experiment are printed first. With --quick and
    without --data it runs on handwritten digits, to check that every stage works.

    examples:
      secateurs reproduce --list
      secateurs reproduce sfp-r56 --quick
      secateurs reproduce sfp-r56 --data DATA --seed 1
      secateurs reproduce sfp-r56 --data DATA --control scratch --like runs/sfp-r56/seed0
    """

    row: str | None = setting("name of the row; --list shows all", "ROW", default=None, argument=True)
    list: bool = setting("show every row: what is reported, what it needs and costs, what was measured", default=False)
    json: bool = setting("with --list: as JSON", default=False)
    results: Path = setting(
        "with --list: folder of files of runs that were measured", "FOLDER", default=Path("results")
    )
    data: Path | None = setting("folder that holds the row's data", "FOLDER", default=None)
    weights: str | None = setting(
        "trained weights to begin with, in place of the row's: published ones by name, or a safetensors file",
        "NAME",
        default=None,
    )
    quick: bool = setting("every stage in minutes, on few images; its figures mean nothing", default=False)
    control: Control = setting("run a control in the method's place", default="none")
    like: Path | None = setting("finished run of the row, for a control as large as its network", "RUN", default=None)
    seed: int = setting("of initialisation, shuffling and whatever the method draws", "N", default=0)
    out: Path = setting("folder that holds the runs, one folder a row", "FOLDER", default=Path("runs"))
    resume: bool = setting("go on where an earlier start was interrupted", default=False)
    workers: int = setting("processes that read images", "N", default=0, group="machine")
    threads: int = setting("CPU threads; 0 takes torch's default", "N", default=0, group="machine")
    devices: int = setting("devices of each machine that train together", "N", default=1, group="machine")
    num_nodes: int = setting("machines that train together", "N", default=1, group="machine")


@final
@dataclass(frozen=True)
class SweepOrder:
    """Run every method with every budget and seed of a file, with controls, and put the results in one table.

    Each trial is a run folder of its own: it can be read, exported and compared like any other. Trials run on Ray Tune
    if it is installed, on this machine or a cluster, or else one after the other. The same command resumes: finished
    trials are skipped.

    The file, with everything that it may hold (rows of papers instead of a recipe: rows: [sfp-r20], folders: {...}):
      recipe: {model: resnet20, data: cifar10:DATA, weights: trained.safetensors, epochs: 12}
      methods: [l2, {name: taylor}, fpgm]
      budgets: [{macs: 0.5}, {macs: 0.3}]
      seeds: [0, 1, 2]
      controls: [random, l2, scratch, dense]
      cpus: 1
      gpus: 0

    examples:
      secateurs sweep methods.yaml --out runs/methods
      secateurs sweep methods.yaml --address ray://head:10001
    """

    file: Path = setting("what is tried, in YAML", "FILE")
    out: Path = setting("folder that holds the runs and their tables", "FOLDER", default=Path("runs/sweep"))
    address: str | None = setting("of a Ray cluster; without it Ray runs here", "HOST:PORT", default=None)
    slots: int | None = setting("trials at a time; as many as there is room for otherwise", "N", default=None)
    sequence: bool = setting("one trial after the other, without Ray", default=False)
    trust_code: bool = setting("run Python files that the file names, unread by you", default=False)


@final
@dataclass(frozen=True)
class Board:
    """Compare finished runs in tables: accuracy, cost and latency, mean and spread over seeds, and controls.

    Only the records in the folders are read; nothing is run. Written are leaderboard.md, leaderboard.csv with a
    line a run, leaderboard.html, one page that needs no other file, and leaderboard.json, the records of all runs
    without their networks and folders, from which the same tables can be made again, also together with later runs.

    examples:
      secateurs leaderboard runs
      secateurs leaderboard runs/half runs/small --out tables
      secateurs leaderboard results/half.json runs/later --out results --name half --formats md json
    """

    runs: tuple[Path, ...] = setting("folders of runs, folders that hold them, or JSON files of runs", "PLACE")
    out: Path = setting("folder of the tables", "FOLDER", default=Path("leaderboard"))
    name: str = setting("name of the files, without ending", "NAME", default="leaderboard")
    title: str = setting("heading above the tables", "TEXT", default="Leaderboard")
    formats: tuple[str, ...] = setting("files to write: md, csv, html, json; all by default", "END", default=FORMATS)


@final
@dataclass(frozen=True)
class ExportOrder:
    """Write the dense and the pruned network of a finished run as files that run without this library.

    Any batch size can be used with the files (executorch: up to that of the run, or 64). Each file is run and compared
    with the network, evaluated on the test split, and its latency is measured.

    examples:
      secateurs export runs/half --to onnx --int8
      secateurs export runs/half --to openvino --out files
      secateurs export runs/half --to executorch
    """

    run: Path = setting("the folder of a finished run", "RUN")
    to: Literal["onnx", "openvino", "executorch", "torch-export"] = setting("format of the files", default="onnx")
    out: Path | None = setting("where they are written; RUN/export if not given", "FOLDER", default=None)
    int8: bool = setting("also in 8 bits, calibrated on training images of the run", default=False)
    threads: int = setting("CPU threads of the measurement", "N", default=1)


@final
@dataclass(frozen=True)
class Inspection:
    """Show the groups of channels of a network, its protected channels with reasons, and the cost of one forward pass.

    Weights do not matter.

    example:
      secateurs inspect torchvision:mobilenet_v3_large --input 1x3x224x224
      secateurs inspect resnet20 --json
      secateurs inspect resnet20 --explain layer1.0.conv1:3,5
    """

    model: str = setting(f"the network ({', '.join(MODELS)})", "MODEL")
    input: str = setting("shape of an input; what the network was made for, if known", "1x3x224x224", default="")
    classes: int = setting("classes it tells apart", "N", default=10)
    protect: tuple[str, ...] = setting("modules to leave whole", "MODULE", default=())
    explain: tuple[str, ...] = setting(
        "what else goes with a layer's channels, step by step, or why they stay: layer1.0.conv1, layer1.0.conv1:3,5-8",
        "LAYER",
        default=(),
    )
    json: bool = setting("print all of it as JSON", default=False)
