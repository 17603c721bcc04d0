"""A trained network taken to a fraction of its time: accuracy before and after, with no training.

    SECATEURS_DATA=FOLDER OMP_NUM_THREADS=1 python benchmarks/deploy_trained.py [--runtimes onnxruntime eager]

FOLDER holds the checkpoint of CIFAR-10 ResNet-20; CIFAR-10 is read by torchvision from `--cifar ROOT`, FOLDER by
default. The latency budget is set against the network that was chosen by MACs alone, with widths rounded, and is as
fast. Both are recovered on 2,048 training images without their labels; each is tested once on the 10,000 test images,
and nothing is selected there. One point is a (runtime, method); points that are in the file are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from one_shot_cifar import CHOOSE, Bench
from torch import Tensor

import secateurs as sct

LATENCY, IMAGES = 0.6, 2048
METHODS = {"L2": sct.criteria.Magnitude(p=2), "FPGM": sct.criteria.GeometricMedian()}
OUT = Path(__file__).parents[1] / "results" / "deploy_trained"


def accuracies(bench: Bench, plan: sct.Plan, data: list[Any]) -> dict[str, float]:
    """As cut, and recovered."""
    small = sct.apply(plan, copy.deepcopy(bench.model))
    steps = (sct.Recalibrate(), sct.Reconstruct())
    found = {"as_cut": bench.accuracy(copy.deepcopy(small))}
    return found | {"recovered": bench.accuracy(sct.recover(small, bench.model, data, plan=plan, steps=steps))}


def point(bench: Bench, device: sct.Device, method: str, x: Tensor) -> dict[str, Any]:
    """One network taken to the time, and the one chosen by MACs alone that is as fast."""
    criterion, whole = METHODS[method], bench.graph.cost().macs
    result = sct.prune(bench.model, x, method=criterion, budget=sct.Budget(latency=LATENCY, device=device))
    data = bench.images(0, skip=CHOOSE, count=IMAGES)
    timing = result.timing
    row: dict[str, Any] = {
        "method": method,
        "device": device.name,
        "key": device.key,
        "dense": bench.accuracy(copy.deepcopy(bench.model)),
        "dense_ms": 1e3 * timing.dense.median,
        "ratio": timing.ratio,
        "ratio_error": timing.pruned.ratio.error,
        "clock": timing.pruned.clock,
        "macs": result.cost_after.macs / whole,
        **accuracies(bench, result.plan, data),
    }
    if timing.plain_macs:
        budget = sct.Budget(macs=timing.plain_macs, multiple_of=device.grid)
        plain = sct.plan(bench.graph, bench.model, criterion=criterion, budget=budget)
        row["by_macs_alone"] = {"macs": timing.plain_macs / whole, **accuracies(bench, plain, data)}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The points as Markdown."""
    lines = [
        f"# A trained ResNet-20 (CIFAR-10) taken to {LATENCY:.0%} of its time, without training",
        "",
        "Test accuracy, %. Recovered: BatchNorm recalibrated, then every layer reconstructed, on 2,048 training images",
        "without labels. By MACs alone: the network of rounded widths that is as fast. One thread, batch 1, 32 x 32;",
        "the machine was shared with other work. `python benchmarks/deploy_trained.py` makes this file.",
        "",
        "| device | method | dense | time | MACs | as cut | recovered | by MACs alone: MACs | as cut | recovered |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        plain = row.get("by_macs_alone")
        cells = [row["device"], row["method"], f"{row['dense']:.2f}", f"{row['ratio']:.3f} ± {row['ratio_error']:.3f}"]
        for found in (row, plain):
            cells += (
                [f"{found['macs']:.3f}", f"{found['as_cut']:.2f}", f"**{found['recovered']:.2f}**"] if found else []
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is not there yet, and write after every point."""
    folder = os.environ.get("SECATEURS_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(folder) if folder else None, help="default: $SECATEURS_DATA")
    parser.add_argument("--cifar", type=Path, help="root of torchvision's CIFAR10; default: --data")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "eager"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = OUT.with_suffix(".json")
    rows = json.loads(file.read_text()) if file.exists() else []
    bench = Bench("resnet20", given.data, given.cifar or given.data)
    for runtime in given.runtimes:
        device = sct.Device(runtime, layout="channels_last" if runtime == "eager" else "nchw")
        for method in given.methods:
            if (device.key, method) not in [(row["key"], row["method"]) for row in rows]:
                rows.append(point(bench, device, method, torch.zeros(1, 3, 32, 32)))
                file.write_text(json.dumps(rows, indent=1) + "\n")
                OUT.with_suffix(".md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
