"""Every training-time method on the digits ResNet-20 to half its MACs, next to Random, L2 and the small one trained.

    python benchmarks/digits_methods.py --out results/digits_methods [--seeds 0 1 2] [--epochs 30] [--only GReg1 ...]

All start from the same network, trained for `--base` epochs per seed, and train for the same number of epochs in
all. The one-shot rows are cut at the start and train for all of them; the training-time methods prune within the
first two thirds and their network, cut and BatchNorm recalibrated, trains for the last third, so that soft pruning
too has epochs after its removal. "From scratch" trains the network that L2 leaves, newly initialised, for base +
epochs. The learning rate falls by a cosine over each part. Accuracy is that of the last epoch on the test split;
nothing is chosen by it. One JSON line per run is appended, so that an interrupted benchmark goes on where it
stopped; `table.md` is made from them. A row over half the dense MACs stops the benchmark.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateurs as sct
from secateurs import registry
from secateurs.app.data import Splits, load
from secateurs.app.models import resnet20
from secateurs.methods.soft import ASFP, SFP

BATCH, RATE = 64, 0.05
HALF = sct.Budget(macs=0.5)
SMALL: dict[str, dict[str, int]] = {"AdaptivePruning": {"batches": 4, "probe_samples": 16}}
METHODS = {
    type(method).__name__: replace(method, **SMALL.get(type(method).__name__, {}))
    for method in map(registry.make, registry.names("training"))
}
METHODS |= {"SFP, norms": SFP(norms=True), "ASFP, norms": ASFP(norms=True)}
BASELINES = ("Random", "L2", "FromScratch")
CACHE = Path(__file__).parent / "cache"


def inserted(page: Path, name: str, text: str) -> None:
    """Replace what stands between a page's markers."""
    before, rest = page.read_text().split(f"<!-- {name} -->\n", 1)
    after = rest.split(f"<!-- /{name} -->", 1)[1]
    page.write_text(f"{before}<!-- {name} -->\n{text}<!-- /{name} -->{after}")


Row = dict[str, Any]
"""One run: method, seed, accuracy, macs, params, seconds, base and epochs."""


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
        sct.apply(sct.plan(graph, model, criterion=criterion, budget=HALF), model)
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
        model,
        x,
        method=METHODS[name].fitted(data.steps, part),
        budget=HALF,
        steps_per_epoch=data.steps,
        epochs=part,
        data=data.calm(),
        seed=seed,
    )
    train(model, data, part, seed, session.attach)
    sct.recalibrate(session.finish(), data.calm())
    train(model, data, epochs - part, seed + 1)
    return model


def base_network(data: Digits, seed: int, epochs: int) -> nn.Module:
    """The trained network of a seed, kept so that every row starts from the same."""
    torch.manual_seed(seed)
    model, file = resnet20(in_channels=1, num_classes=10), CACHE / f"digits_{epochs}_epochs_seed_{seed}.pt"
    if not file.is_file():
        train(model, data, epochs, seed)
        CACHE.mkdir(exist_ok=True)
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def table(rows: list[Row], about: str) -> str:
    """Mean and standard deviation over seeds, per method."""
    dense = {row["seed"]: row["macs"] for row in rows if row["method"] == "Dense"}
    lines = [about, "", "| method | test accuracy % | MACs | of dense | parameters | seconds |", "|---" * 6 + "|"]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        scores = [100 * row["accuracy"] for row in own]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        macs, params, seconds = (statistics.mean(row[key] for row in own) for key in ("macs", "params", "seconds"))
        share = statistics.mean(row["macs"] / dense[row["seed"]] for row in own)
        lines.append(
            f"| {name} | {statistics.mean(scores):.2f}{spread} ({len(own)}) | {macs / 1e6:.3f} M | "
            f"{100 * share:.1f} % | {params / 1e3:.1f} k | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def measured(name: str, base: nn.Module, data: Digits, seed: int, lengths: tuple[int, int]) -> Row:
    """One row: the network after all its epochs, its accuracy on the test split and its cost."""
    first, epochs = lengths
    begin = time.process_time()
    if name == "Dense":
        model = copy.deepcopy(base)
        train(model, data, epochs, seed)
    else:
        model = pruned(name, base, data, epochs + (first if name == "FromScratch" else 0), seed)
    seconds = round(time.process_time() - begin, 1)
    x = torch.zeros(1, *data.splits.shape)
    cost, dense = sct.trace(model, x).cost(), sct.trace(base, x).cost()
    if name != "Dense" and cost.macs > 0.5 * dense.macs:
        raise SystemExit(f"{name}, seed {seed}: {cost.macs} MACs are more than half of {dense.macs}")
    return {
        "method": name, "seed": seed, "accuracy": data.accuracy(model), "macs": cost.macs, "params": cost.params,
        "seconds": seconds, "base": first, "epochs": epochs,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--into", type=Path, default=None, help="a page that shows the table between its markers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    data, log = Digits(load("digits")), given.out / "runs.jsonl"
    found = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    rows: list[Row] = [row for row in found if (row["base"], row["epochs"]) == (given.base, given.epochs)]
    for seed in given.seeds:
        base = base_network(data, seed, given.base)
        for name in ("Dense", *BASELINES, *METHODS):
            done = any((row["method"], row["seed"]) == (name, seed) for row in rows)
            if done or (given.only and name not in given.only):
                continue
            row = measured(name, base, data, seed, (given.base, given.epochs))
            rows.append(row)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    names = ("Dense", *BASELINES, *METHODS)
    rows.sort(key=lambda row: (names.index(row["method"]), row["seed"]))
    about = (
        f"ResNet-20 on scikit-learn's digits, to 50 % of the MACs. {given.base} epochs of training, then "
        f"{given.epochs} epochs for every row; test accuracy of the last epoch, mean ± standard deviation over seeds "
        f"(their number); seconds of processor time on one thread, without those first {given.base} epochs (with them "
        f"for FromScratch). torch {torch.__version__}, {platform.machine()}. Made by "
        f"`python benchmarks/digits_methods.py --out {given.out} --base {given.base} --epochs {given.epochs} "
        f"--seeds {' '.join(map(str, given.seeds))}`."
    )
    (given.out / "table.md").write_text(table(rows, about))
    if given.into:
        inserted(given.into, "digits", table(rows, about))
    print(table(rows, about))


if __name__ == "__main__":
    main()
