"""Every training-time method on the digits ResNet-20 to half its MACs, next to Random, L2 and the small one trained.

    python benchmarks/digits_methods.py --out results/digits_methods [--seeds 0 1 2] [--epochs 30] [--only GReg1 ...]

All start from the same network, trained for `--base` epochs per seed, and train for the same number of epochs in
all. The one-shot rows are cut at the start and train for all of them; the training-time methods prune within the
first two thirds and their network, cut and BatchNorm recalibrated, trains for the last third, so that soft pruning
too has epochs after its removal. "From scratch" trains the network that L2 leaves, newly initialised, for base +
epochs. The learning rate falls by a cosine over each part. Accuracy is that of the last epoch on the test split;
nothing is chosen by it. One JSON line per run is appended, so that an interrupted benchmark goes on where it
stopped; `table.md` is made from them.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.data import Splits, load
from secateurs.methods.adaptive import AdaptivePruning
from secateurs.methods.greg import GReg1, GReg2
from secateurs.methods.group_fisher import GroupFisher
from secateurs.methods.increg import IncReg
from secateurs.methods.orthoreg import OrthoReg
from secateurs.methods.soft import ASFP, ASRFP, SFP, SRFP
from secateurs.models import resnet20

BATCH, RATE = 64, 0.05
HALF = sct.Budget(macs=0.5)
METHODS = {
    type(m).__name__: m
    for m in (
        OrthoReg(), IncReg(), GReg1(), GReg2(), SFP(), ASFP(), SRFP(), ASRFP(), GroupFisher(),
        AdaptivePruning(batches=4, probe_samples=16),
    )
}  # fmt: skip
BASELINES = ("Random", "L2", "FromScratch")


class Digits:
    """The training images in memory, and batches of them from a seed."""

    def __init__(self, splits: Splits) -> None:
        self.splits = splits
        self.steps = len(splits.train) // BATCH

    def epoch(self, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.splits.train), generator=generator).tolist()
        return [self.splits.train.__getitems__(order[i * BATCH : (i + 1) * BATCH]) for i in range(self.steps)]

    def calm(self) -> list[tuple[Tensor, Tensor]]:
        found = self.splits.calibration
        return [found.__getitems__(list(range(i, min(i + 128, len(found))))) for i in range(0, len(found), 128)]

    def accuracy(self, model: nn.Module) -> float:
        images, labels = self.splits.test.__getitems__(list(range(len(self.splits.test))))
        with torch.no_grad():
            return float((model.eval()(images).argmax(1) == labels).double().mean())


def train(model: nn.Module, data: Digits, epochs: int, seed: int, attach: Callable[..., None] | None = None) -> None:
    """SGD with momentum, the rate falling by a cosine over these epochs."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    if attach is not None:
        attach(optimizer)
    for epoch in range(epochs):
        model.train()
        for step, (images, labels) in enumerate(data.epoch(generator)):
            done = (epoch + step / data.steps) / epochs
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1.0 + math.cos(math.pi * done))
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()


def pruned(name: str, base: nn.Module, data: Digits, epochs: int, seed: int) -> nn.Module:
    """The network of one row after all its epochs."""
    model, x = copy.deepcopy(base), torch.zeros(1, *data.splits.shape)
    if name in BASELINES:
        graph = sct.trace(model, x)
        criterion = sct.criteria.Random(seed) if name == "Random" else sct.criteria.Magnitude(p=2)
        sct.apply(sct.plan(graph, model, criterion, HALF), model)
        if name == "FromScratch":
            torch.manual_seed(seed + 100)
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
                elif hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        train(model, data, epochs, seed)
        return model
    part = epochs * 2 // 3
    session = sct.Session(
        model, METHODS[name].fitted(data.steps, part), HALF, x, steps_per_epoch=data.steps, epochs=part,
        data=data.calm(), seed=seed,
    )  # fmt: skip
    train(model, data, part, seed, session.attach)
    sct.recalibrate(session.finish(), data.calm())
    train(model, data, epochs - part, seed + 1)
    return model


def base_network(data: Digits, seed: int, epochs: int, folder: Path) -> nn.Module:
    """The trained network of a seed, kept so that every row starts from the same."""
    torch.manual_seed(seed)
    model, file = resnet20(in_channels=1, num_classes=10), folder / f"base_{seed}.pt"
    if not file.is_file():
        train(model, data, epochs, seed)
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def table(rows: list[dict[str, object]], about: str) -> str:
    """Mean and standard deviation over seeds, per method."""
    lines = [about, "", "| method | test accuracy % | MACs | parameters | seconds |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        scores = [100 * float(row["accuracy"]) for row in own]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        middle = {key: statistics.mean(float(row[key]) for row in own) for key in ("macs", "params", "seconds")}
        lines.append(
            f"| {name} | {statistics.mean(scores):.2f}{spread} ({len(own)}) | {middle['macs'] / 1e6:.3f} M | "
            f"{middle['params'] / 1e3:.1f} k | {middle['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    data, log = Digits(load("digits")), given.out / "runs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    for seed in given.seeds:
        base = base_network(data, seed, given.base, given.out)
        for name in ("Dense", *BASELINES, *METHODS):
            done = any(row["method"] == name and row["seed"] == seed for row in rows)
            if done or (given.only and name not in given.only):
                continue
            begin = time.process_time()
            if name == "Dense":
                model = copy.deepcopy(base)
                train(model, data, given.epochs, seed)
            else:
                more = given.base if name == "FromScratch" else 0
                model = pruned(name, base, data, given.epochs + more, seed)
            cost = sct.trace(model, torch.zeros(1, *data.splits.shape)).cost()
            row = {
                "method": name, "seed": seed, "accuracy": data.accuracy(model), "macs": cost.macs,
                "params": cost.params,
                "seconds": round(time.process_time() - begin, 1), "base": given.base, "epochs": given.epochs,
            }  # fmt: skip
            rows.append(row)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    about = (
        f"ResNet-20 on scikit-learn's digits, to 50 % of the MACs. {given.base} epochs of training, then "
        f"{given.epochs} epochs for every row; test accuracy of the last epoch, mean ± standard deviation over seeds "
        "(their number); seconds of processor time on one thread. "
        f"Made by `python benchmarks/digits_methods.py --out {given.out}`."
    )
    (given.out / "table.md").write_text(table(rows, about))
    print(table(rows, about))


if __name__ == "__main__":
    main()
