"""Recovery without training on other kinds of networks: depthwise, squeeze-and-excite, attention.

    OMP_NUM_THREADS=1 python benchmarks/recovery_digits.py --out results/recovery_digits [--seeds 0 1 2]

Three networks are trained on scikit-learn's digits (8x8, enlarged to 16x16) for `--epochs` epochs: one of inverted
residuals with depthwise convolutions and linear bottlenecks, the same with squeeze-and-excite, and a vision
transformer. Each is cut to a share of its MACs by L2, Random and backward elimination (256 training images), and
recovered on all training images without their labels; the test split is read for the table alone, and nothing is
selected on it; — is out of reach. One JSON line a point is appended, so that an interrupted run goes on; `table.md` is
made from them.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.app.data import load
from secateurs.errors import BudgetError
from secateurs.methods import BackwardElimination

STEPS: dict[str, tuple[Any, ...]] = {
    "as cut": (),
    "BatchNorm recalibrated": (sct.Recalibrate(),),
    "reconstructed": (sct.Recalibrate(), sct.Reconstruct()),
}
METHODS = {"Random": sct.criteria.Random(0), "L2": sct.criteria.Magnitude(p=2), "BackwardElimination": None}


class Inverted(nn.Module):
    """An inverted residual with a depthwise convolution, a linear bottleneck and, if asked, squeeze-and-excite."""

    def __init__(self, before: int, after: int, stride: int, *, excite: bool) -> None:
        super().__init__()
        wide = 4 * before
        self.expand = nn.Sequential(nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.squeeze = nn.Sequential(nn.Conv2d(wide, before, 1), nn.ReLU(), nn.Conv2d(before, wide, 1), nn.Sigmoid())
        if not excite:
            self.squeeze = None
        self.project = nn.Sequential(nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after))
        self.same = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.expand(x))
        if self.squeeze is not None:
            y = y * self.squeeze(y.mean((2, 3), keepdim=True))
        y = self.project(y)
        return x + y if self.same else y


def mobile(*, excite: bool) -> nn.Module:
    blocks = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1)]
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
        *(Inverted(*block, excite=excite) for block in blocks),
        nn.Conv2d(32, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


class Transformer(nn.Module):
    """Sixteen patches, four blocks of four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 64, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 16, 64) * 0.02)
        layer = nn.TransformerEncoderLayer(64, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x).mean(1)))


NETWORKS = {
    "inverted residuals": lambda: mobile(excite=False),
    "… with squeeze-and-excite": lambda: mobile(excite=True),
    "vision transformer": Transformer,
}


class Digits:
    """All images of a part, in memory."""

    def __init__(self) -> None:
        splits = load("digits")
        self.train, self.test = self._all(splits.calibration), self._all(splits.test)

    @staticmethod
    def _all(part: Any) -> tuple[Tensor, Tensor]:
        x, y = part.__getitems__(list(range(len(part))))
        return F.interpolate(x, scale_factor=2.0, mode="bilinear"), y

    def accuracy(self, model: nn.Module) -> float:
        with torch.no_grad():
            return 100 * float((model.eval()(self.test[0]).argmax(1) == self.test[1]).double().mean())


def trained(build: Any, data: Digits, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model, (x, y) = build(), data.train
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = epochs * (len(x) // 64)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, step / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def measured(name: str, model: nn.Module, data: Digits, macs: float, seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    images = data.train[0]
    for method, criterion in METHODS.items():
        chosen = criterion or BackwardElimination(scope="coupled")
        budget = sct.Budget(macs=macs)
        try:
            result = sct.prune(model, images[:1], method=chosen, budget=budget, data=[data.train[0][:256]])
        except BudgetError as out_of_reach:
            print(f"{name}, {method}: {out_of_reach}", flush=True)
            continue
        for step, steps in STEPS.items():
            begin = time.process_time()
            small = sct.recover(result.model, model, images.split(128), plan=result.plan, steps=steps)
            seconds = time.process_time() - begin
            rows.append({
                "network": name, "method": method, "step": step, "macs": macs, "seed": seed,
                "accuracy": data.accuracy(small), "dense": data.accuracy(copy.deepcopy(model)), "seconds": seconds,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]], about: str) -> str:
    lines = ["# Recovery on digits: test accuracy, %", "", about]
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        dense = statistics.mean(row["dense"] for row in mine)
        shares = sorted({row["macs"] for row in mine}, reverse=True)
        lines += [
            "",
            f"## {name}: {dense:.2f} dense",
            "",
            "| method | step | " + " | ".join(f"{s:.0%}" for s in shares),
        ]
        lines[-1] += " | CPU seconds |"
        lines.append("|---|---|" + "---|" * (len(shares) + 1))
        for method in METHODS:
            for step in STEPS:
                own = [row for row in mine if (row["method"], row["step"]) == (method, step)]
                cells = [[row["accuracy"] for row in own if row["macs"] == share] for share in shares]
                told = [f"{statistics.mean(c):.1f}" + _spread(c) if c else "—" for c in cells]
                seconds = statistics.mean(row["seconds"] for row in own) if own else 0.0
                lines.append(f"| {method} | {step} | " + " | ".join(told) + f" | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.65, 0.5])
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    data, log = Digits(), given.out / "runs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    for seed in given.seeds:
        for name, build in NETWORKS.items():
            left = [
                m
                for m in given.budgets
                if not any((r["network"], r["seed"], r["macs"]) == (name, seed, m) for r in rows)
            ]
            model = trained(build, data, given.epochs, seed) if left else None
            for macs in left:
                found = measured(name, model, data, macs, seed)
                rows += found
                with log.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in found)
    about = (
        f"Share of MACs kept; mean ± standard deviation over seeds {', '.join(map(str, given.seeds))}; "
        f"{given.epochs} epochs of training before, none after. One thread of a shared machine. "
        f"torch {torch.__version__}, {platform.machine()}. "
        f"Made by `python benchmarks/recovery_digits.py --out {given.out}`."
    )
    (given.out / "table.md").write_text(table(rows, about))
    print(table(rows, about))


if __name__ == "__main__":
    main()
