"""Accuracy after pruning trained CIFAR-10 networks in one shot, without fine-tuning, by every criterion and method.

    SECATEURS_DATA=FOLDER OMP_NUM_THREADS=1 python benchmarks/one_shot_cifar.py [--quick] [--out FILE.json]

FOLDER holds `checkpoints/cifar10_resnet20.safetensors` and `.../cifar10_resnet56.safetensors`; CIFAR-10 is read by
torchvision from `--cifar ROOT`, FOLDER by default. A run appends to its JSON file point by point and goes on where it
stopped; the table (`.md`) and the picture (`.png`) beside it are generated from the file (`--report` does only that).

Each point: choose with 512 training images where images are needed, remove, re-estimate BatchNorm's statistics on 1024
other training images, test once on the 10,000 test images. Seeds draw the images, and what a method draws itself.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import secateurs as sct
from secateurs.allocate import Ranked, Uniform
from secateurs.app.data.cifar import cifar10
from secateurs.app.models import build
from secateurs.criteria import BatchNormScale, GeometricMedian, Magnitude, Random, Taylor, score
from secateurs.evidence import GateGradients, Writes, observe
from secateurs.methods import CCP, FOAD, BackwardElimination, EPruner
from secateurs.methods.one_shot import Scope, meet_budget, part_of

BUDGETS = (0.80, 0.65, 0.50)
CHOOSE, RECALIBRATE, BATCH = 512, 1024, 128
ALL = ("resnet20", "resnet56")
OURS = {"gate": "activation", "curvature": "logits", "sizes": "by_loss"}


@dataclass(frozen=True)
class Entry:
    """One line of the table: how units are chosen, in which groups, on which networks, with how many seeds."""

    name: str
    make: Callable[[int], Any]
    scope: Scope = "uncoupled"
    seeds: int = 1
    networks: tuple[str, ...] = ALL
    budgets: tuple[float, ...] = BUDGETS
    uniform: bool = False
    images: int = CHOOSE


OWN = {
    "EPruner, beta 0.76": EPruner(0.76, scope="uncoupled"),
    "EPruner, beta 0.60": EPruner(0.60, scope="uncoupled"),
    "EPruner, beta 0.50": EPruner(0.50, scope="uncoupled"),
    "EPruner, beta 0.76, overall preference (ours)": EPruner(0.76, preference="overall", scope="uncoupled"),
    "FOAD, t = 1, s = 0": FOAD(scope="uncoupled"),
    "FOAD, t = 1, s = 0, published file": FOAD(duplicates=None, scope="uncoupled"),
}
SMALL = ("resnet20",)
ENTRIES = (
    Entry("Random", Random, seeds=3),
    Entry("L1", lambda _: Magnitude()),
    Entry("L2", lambda _: Magnitude(p=2)),
    Entry("BN scale", lambda _: BatchNormScale()),
    Entry("FPGM", lambda _: GeometricMedian()),
    Entry("Taylor", lambda _: Taylor(), seeds=3),
    Entry("FOAD", lambda _: FOAD(scope="uncoupled"), seeds=3),
    Entry("EPruner", lambda _: EPruner(0.76, scope="uncoupled")),
    Entry("CCP", lambda _: CCP(scope="uncoupled"), seeds=3),
    Entry("Random, uniform widths", Random, networks=SMALL, uniform=True),
    Entry("L2, uniform widths", lambda _: Magnitude(p=2), networks=SMALL, uniform=True),
    Entry("FOAD, by energy (ours)", lambda _: FOAD(order="energy", scope="uncoupled"), networks=SMALL),
    Entry("EPruner, uniform widths (ours)", lambda _: EPruner(0.76, uniform=True, scope="uncoupled")),
    Entry("CCP, 8,192 images", lambda _: CCP(scope="uncoupled"), networks=SMALL, images=8192),
    Entry("CCP, gate on the activation (ours)", lambda _: CCP(gate="activation", scope="uncoupled"), networks=SMALL),
    Entry(
        "CCP, … and logits' curvature (ours)",
        lambda _: CCP(gate="activation", curvature="logits", scope="uncoupled"),
        networks=SMALL,
    ),
    Entry("CCP, … and sizes by loss (ours)", lambda _: CCP(**OURS, scope="uncoupled"), seeds=3),
    Entry("Backward elimination (ours)", lambda _: BackwardElimination(scope="uncoupled"), networks=SMALL),
    Entry("L2, streams too", lambda _: Magnitude(p=2), "coupled", networks=SMALL, budgets=(0.50,)),
    Entry("FOAD, streams too", lambda _: FOAD(scope="coupled"), "coupled", networks=SMALL, budgets=(0.50,)),
    Entry("EPruner, streams too", lambda _: EPruner(0.76, scope="coupled"), "coupled", networks=SMALL, budgets=(0.50,)),
    Entry("CCP ours, streams too", lambda _: CCP(**OURS, scope="coupled"), "coupled", networks=SMALL, budgets=(0.50,)),
)


class Bench:
    """A trained network, its graph, and the images."""

    def __init__(self, name: str, folder: Path, cifar: Path) -> None:
        self.name = name
        self.splits = cifar10(cifar)
        self.model = build(name, in_channels=3, num_classes=10)
        state = load_file(folder / "checkpoints" / f"cifar10_{name}.safetensors")
        counters = {k: v for k, v in self.model.state_dict().items() if k.endswith("num_batches_tracked")}
        self.model.load_state_dict({**counters, **state})
        self.model.eval()
        self.graph = sct.trace(self.model, torch.zeros(1, 3, 32, 32))

    def images(self, seed: int, *, skip: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of training images, without augmentation."""
        order = torch.randperm(len(self.splits.calibration), generator=torch.Generator().manual_seed(seed))
        rows = order[skip : skip + count].split(BATCH)
        return [self.splits.calibration.__getitems__(part.tolist()) for part in rows]

    def accuracy(self, model: nn.Module) -> float:
        """Top-1 on the whole test set, in per cent."""
        model = model.eval().to(memory_format=torch.channels_last)
        test, right = self.splits.test, 0
        with torch.inference_mode():
            for start in range(0, len(test), 200):
                x, y = test.__getitems__(list(range(start, min(start + 200, len(test)))))
                right += int((model(x.to(memory_format=torch.channels_last)).argmax(1) == y).sum())
        return 100 * right / len(test)

    def keep(self, entry: Entry, budget: sct.Budget, seed: int) -> Mapping[str, Any]:
        """What an entry keeps."""
        # Never the images that BatchNorm is recalibrated on.
        data = self.images(seed, skip=0 if entry.images <= CHOOSE else CHOOSE + RECALIBRATE, count=entry.images)
        chosen = entry.make(seed)
        if hasattr(chosen, "select"):
            return chosen.select(self.graph, self.model, budget, data=data, loss=None, seed=seed)
        part = part_of(self.graph, budget, entry.scope)
        scores = score(chosen, part.groups, observe(self.graph, self.model, chosen, data=data))
        allocator = Uniform() if entry.uniform else Ranked()
        return meet_budget(part, budget, lambda costed, left: allocator(scores, costed, left), chosen)

    def point(self, entry: Entry, macs: float, seed: int) -> dict[str, Any]:
        """Prune, recalibrate, test."""
        start = time.process_time()
        keep = self.keep(entry, sct.Budget(macs=macs), seed)
        seconds = time.process_time() - start
        plan = sct.Plan.from_keep(self.graph, keep)
        small = sct.apply(plan, copy.deepcopy(self.model))
        sct.recalibrate(small, self.images(seed, skip=CHOOSE, count=RECALIBRATE))
        cost, dense = self.graph.cost(plan), self.graph.cost()
        return {
            "accuracy": self.accuracy(small),
            "macs": cost.macs / dense.macs,
            "params": cost.params / dense.params,
            "seconds": seconds,
            "widths": [len(plan.keep[g.name]) for g in self.graph.groups],
        }

    def own(self, method: Any) -> dict[str, Any]:
        """What a method removes when nobody asks for a budget."""
        keep = method.select(self.graph, self.model, None, data=self.images(0, skip=0, count=BATCH))
        plan = sct.Plan.from_keep(self.graph, keep)
        cost, dense = self.graph.cost(plan), self.graph.cost()
        small = sct.apply(plan, copy.deepcopy(self.model))
        sct.recalibrate(small, self.images(0, skip=CHOOSE, count=RECALIBRATE))
        return {
            "accuracy": self.accuracy(small),
            "macs_removed": 1 - cost.macs / dense.macs,
            "params_removed": 1 - cost.params / dense.params,
            "widths": [f"{len(units)}/{self.graph.group(group).units}" for group, units in keep.items()],
        }

    def causes(self) -> dict[str, Any]:
        """Why methods fail: how few images make up CCP's S, and which channels are nearest to most others."""
        data, need = self.images(0, skip=0, count=CHOOSE), GateGradients(Weight, at=Writes())
        found = observe(self.graph, self.model, [need], data=data)[need].values()
        with torch.inference_mode():
            right = sum(int((self.model(x).argmax(1) == y).sum()) for x, y in data)
        top = [float(w.topk(CHOOSE // 100).values.sum() / w.sum()) for w in found]
        maps = observe(self.graph, self.model, FOAD(scope="uncoupled"), data=data)["maps"]
        return {
            "accuracy": 100 * right / CHOOSE,
            "images": CHOOSE // 100,
            "share_of_trace": statistics.mean(top),
            "crowded": {name: crowded(found.s) for name, found in maps.items() if ".conv1" in name},
        }


def crowded(s: torch.Tensor) -> str:
    """The channel that is nearest to most others, and to how many of them."""
    nearest = s.clone().fill_diagonal_(0).argmax(1).bincount(minlength=len(s))
    return f"{int(nearest.argmax())}: {int(nearest.max())} of {len(s) - 1}"


class Weight:
    """An accumulator: how much each sample adds to the trace of S, [N]."""

    def __init__(self, group: sct.Group, sites: tuple[object, ...]) -> None:
        self.seen: list[torch.Tensor] = []

    def update(self, values: torch.Tensor) -> None:
        self.seen.append(values.double().square().sum(1))

    def result(self) -> torch.Tensor:
        return torch.cat(self.seen)


def key_of(network: str, entry: Entry, macs: float, seed: int) -> str:
    """Name a point."""
    return f"{network} | {entry.name} | {macs:.2f} | {seed}"


def work(record: dict[str, Any], out: Path, args: argparse.Namespace) -> None:
    """Measure what is not yet in the record."""
    for name in args.networks:
        bench = Bench(name, args.data, args.cifar)
        if f"{name} | dense" not in record["points"]:
            cost = bench.graph.cost()
            dense = {"accuracy": bench.accuracy(bench.model), "macs": cost.macs, "params": cost.params}
            save(record, out, f"{name} | dense", dense)
        if f"{name} | causes" not in record["points"]:
            save(record, out, f"{name} | causes", bench.causes())
        for title, method in OWN.items():
            if (key := f"{name} | {title} | own") not in record["points"]:
                save(record, out, key, bench.own(method))
        mine = [entry for entry in ENTRIES if name in entry.networks]
        for seed in range(1 if args.quick else max(entry.seeds for entry in mine)):  # every row once, then its spread
            for entry in (entry for entry in mine if seed < entry.seeds):
                for macs in entry.budgets:
                    if (key := key_of(name, entry, macs, seed)) not in record["points"]:
                        save(record, out, key, bench.point(entry, macs, seed))


def save(record: dict[str, Any], out: Path, key: str, found: dict[str, Any]) -> None:
    """Write the record whole, or not at all."""
    record["points"][key] = found
    print(f"{key}: {found['accuracy']:.2f} %", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(out)


def row(points: Mapping[str, Any], network: str, entry: Entry) -> list[dict[str, Any]]:
    """Mean and spread over seeds, by budget."""
    found = []
    for macs in entry.budgets:
        mine = [p for seed in range(9) if (p := points.get(key_of(network, entry, macs, seed)))]
        if mine:
            means = {k: statistics.mean(p[k] for p in mine) for k in ("accuracy", "macs", "params", "seconds")}
            spread = statistics.stdev(p["accuracy"] for p in mine) if len(mine) > 1 else None
            found.append({**means, "std": spread, "seeds": len(mine), "asked": macs})
    return found


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    points = record["points"]
    lines = [
        "# One shot, no fine-tuning: CIFAR-10 test accuracy",
        "",
        "Generated by `benchmarks/one_shot_cifar.py`; do not edit. BN recalibrated on 1,024 training images; each",
        "network tested once on the full test set. ± is the standard deviation over seeds (images and draws), 3 unless",
        "n says otherwise; entries without it were measured once. Only channels inside residual blocks go, as in the",
        "papers, unless a row says *streams too*. Criteria are ranked over all groups, scores over their group's mean,",
        "unless a row says *uniform widths*. In brackets: MACs left. Seconds are CPU time of the choice, one thread.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()) + ".",
    ]
    for network in ALL:
        dense = points.get(f"{network} | dense")
        if not dense:
            continue
        lines += [
            "",
            f"## {network}: {dense['accuracy']:.2f} % dense, {dense['macs']:,} MACs, {dense['params']:,} parameters",
            "",
        ]
        lines += ["| method | " + " | ".join(f"{b:.0%} of MACs" for b in BUDGETS) + " | parameters left | seconds |"]
        lines += ["|---|" + "---|" * (len(BUDGETS) + 2)]
        for entry in ENTRIES:
            cells = row(points, network, entry)
            if cells:
                by_budget = {c["asked"]: c for c in cells}
                lines.append(
                    f"| {entry.name} | "
                    + " | ".join(cell(by_budget.get(b)) for b in BUDGETS)
                    + " | "
                    + tail(cells)
                    + " |"
                )
        lines += ["", *own(points, network), *why(points.get(f"{network} | causes"))]
    return "\n".join(lines) + "\n"


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "—"
    spread = f" ± {found['std']:.2f}" if found["std"] is not None else ""
    spread += f", n = {found['seeds']}" if found["seeds"] not in (1, 3) else ""
    return f"{found['accuracy']:.2f}{spread} ({found['macs']:.1%})"


def tail(cells: list[dict[str, Any]]) -> str:
    left = " / ".join(f"{c['params']:.0%}" for c in cells)
    return f"{left} | {statistics.mean(c['seconds'] for c in cells):.1f}"


def own(points: Mapping[str, Any], network: str) -> list[str]:
    """What the methods remove when nobody asks for a budget."""
    lines = [
        "| without a budget | MACs removed | parameters removed | accuracy | units kept in each block |",
        "|---|---|---|---|---|",
    ]
    for title in OWN:
        if found := points.get(f"{network} | {title} | own"):
            share = f"{found['macs_removed']:.1%} | {found['params_removed']:.1%} | {found['accuracy']:.2f}"
            lines.append(f"| {title} | {share} | {' '.join(found['widths'])} |")
    if network == "resnet56":
        lines += [
            "| *EPruner's own checkpoint, beta 0.76 (its README)* | *61.33%* | *54.20%* | *93.18, fine-tuned* | |",
            "| *FOAD on a VGG-16 (abstract; ResNet-56 not read)* | *63.7%* | *87.1%* | *93.81, fine-tuned* | |",
        ]
    return lines


def why(found: dict[str, Any] | None) -> list[str]:
    """What explains the figures: see docs/methods_one_shot.md."""
    if not found:
        return []
    share = f"the {found['images']} with the largest gradients make up {found['share_of_trace']:.0%} of the trace of"
    right = f"{found['accuracy']:.1f} % are classified right"
    crowd = ", ".join(f"`{name}` {text}" for name, text in found["crowded"].items())
    near = f"The channel that is nearest to most others under FOAD, and to how many: {crowd}."
    return ["", near, "", f"Of the {CHOOSE} training images of seed 0, {right}; {share} CCP's S (mean over groups)."]


def picture(record: dict[str, Any], out: Path) -> None:
    """Accuracy over MACs: the nine of the main block, and ours."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    networks = [n for n in ALL if f"{n} | dense" in record["points"]]
    figure, axes = plt.subplots(1, len(networks), figsize=(6.5 * len(networks), 4.8), sharey=True, squeeze=False)
    shown = [e for e in ENTRIES if e.networks == ALL]
    parents = dict.fromkeys(e.name.split(",")[0] for e in shown)
    colours = {name: plt.get_cmap("tab10")(number) for number, name in enumerate(parents)}  # a method and its variant
    for axis, network in zip(axes[0], networks, strict=True):
        dense = record["points"][f"{network} | dense"]["accuracy"]
        axis.axhline(dense, color="0.8", lw=1, zorder=0)
        for entry in shown:
            cells = row(record["points"], network, entry)
            parent = entry.name.split(",")[0]
            ours, paper = "(ours)" in entry.name, parent in {"FOAD", "EPruner", "CCP"}
            axis.errorbar(
                [100, *(100 * c["macs"] for c in cells)],
                [dense, *(c["accuracy"] for c in cells)],
                yerr=[0, *(c["std"] or 0 for c in cells)],
                ls="--" if ours else "-" if paper else ":",
                marker="s" if ours else "o",
                ms=4,
                capsize=2,
                lw=2 if paper else 1.2,
                color=colours[parent],
                label=entry.name.replace("…", "gate, curvature"),
            )
        axis.set(title=f"{network} on CIFAR-10", xlabel="MACs left, %")
        axis.invert_xaxis()
        axis.grid(alpha=0.2)
    axes[0][0].set_ylabel("test accuracy without fine-tuning, %")
    axes[0][-1].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(out, dpi=130)


def opened(out: Path) -> dict[str, Any]:
    """The record so far; points measured with other settings are no company for new ones."""
    settings = {"choose": CHOOSE, "recalibrate": RECALIBRATE, "batch": BATCH, "threads": 1}
    fresh = {
        "command": "SECATEURS_DATA=FOLDER OMP_NUM_THREADS=1 python benchmarks/one_shot_cifar.py",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "settings": settings,
        "points": {},
    }
    if not out.exists():
        return fresh
    record = json.loads(out.read_text(encoding="utf-8"))
    if record["settings"] != settings:
        raise SystemExit(f"{out} was measured with {record['settings']}, not {settings}; give another --out")
    return record


def parser_of(about: str | None, networks: Sequence[str], out: str) -> argparse.ArgumentParser:
    """The flags that benchmarks on these checkpoints share."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("SECATEURS_DATA")
    parser.add_argument("--data", type=Path, default=Path(folder) if folder else None, help="default: $SECATEURS_DATA")
    parser.add_argument("--cifar", type=Path, default=None, help="root of torchvision's CIFAR10; default: --data")
    parser.add_argument("--networks", nargs="+", default=list(networks), choices=networks)
    parser.add_argument("--report", action="store_true", help="only write table and picture anew")
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


@dataclass(frozen=True)
class Written:
    """A benchmark that keeps its points in a file, and writes a table and a picture of them beside it."""

    opened: Callable[[Path], dict[str, Any]]
    work: Callable[[dict[str, Any], Path, argparse.Namespace], None]
    table: Callable[[dict[str, Any]], str]
    picture: Callable[[dict[str, Any], Path], None]

    def run(self, parser: argparse.ArgumentParser) -> None:
        """Read the flags, measure what is missing, and write everything down."""
        args = parser.parse_args()
        torch.set_num_threads(1)
        record = self.opened(args.out)
        if not args.report:
            if args.data is None:
                parser.error("set SECATEURS_DATA, or give --data: the folder that holds checkpoints/")
            args.cifar = args.cifar or args.data
            self.work(record, args.out, args)
        args.out.with_suffix(".md").write_text(self.table(record), encoding="utf-8")
        self.picture(record, args.out.with_suffix(".png"))


def main() -> None:
    parser = parser_of(__doc__, ALL, "results/one_shot_cifar.json")
    parser.add_argument("--quick", action="store_true", help="one seed")
    Written(opened, work, table, picture).run(parser)


if __name__ == "__main__":
    main()
