"""What a budget is worth in milliseconds: half of the MACs, and a fraction of the time, on the runtimes that are there.

    python benchmarks/deploy.py --runtimes onnxruntime eager --networks mobilenet_v2 resnet50

Random weights, batch 1, 224 x 224, one thread. All versions of a network are measured in turns in one process; a row is
a time over the dense network's. Writes results/deploy.json and results/deploy.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import secateurs as sct
from secateurs.allocate import Uniform
from secateurs.deploy.builder import Builder
from secateurs.deploy.device import Device
from secateurs.deploy.stopwatch import Measurement
from secateurs.surgery.tensors import duplicate

NETWORKS = ("resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0")
RESULTS = Path(__file__).parents[1] / "results"


def half(model: nn.Module, graph: sct.Graph, x: Tensor) -> dict[str, tuple[nn.Module, float]]:
    """Versions of half of the MACs: name -> network, and its share of the MACs."""
    l2, whole = sct.criteria.Magnitude(p=2), graph.cost().macs
    plans = {
        "half, any width": sct.plan(graph, model, l2, sct.Budget(macs=0.5)),
        "half, default": sct.prune(model, x, method=l2, budget=sct.Budget(macs=0.5)).plan,
        "half, multiples of 16": sct.plan(graph, model, l2, sct.Budget(macs=0.5, multiple_of=16)),
        "half, every layer alike, multiples of 8 (as timm rounds)": sct.plan(
            graph, model, l2, sct.Budget(macs=0.5, multiple_of=8), allocator=Uniform()
        ),
    }
    return {
        name: (sct.apply(p, duplicate(model), proof=False), graph.cost(p).macs / whole) for name, p in plans.items()
    }


def peer(model: nn.Module, x: Tensor, target: float = 0.5) -> tuple[nn.Module, float] | None:
    """Torch-Pruning with round_to=8, at the smallest ratio in steps of 1 % that leaves at most `target` of the MACs."""
    import torch_pruning as tp

    whole, _ = tp.utils.count_ops_and_params(model, x)
    low, high = 0, 90
    best = None
    while high - low > 1:
        middle = (low + high) // 2
        copy = duplicate(model)
        last = [m for m in copy.modules() if isinstance(m, nn.Linear)][-1]
        pruner = tp.pruner.MetaPruner(
            copy,
            x,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=middle / 100,
            global_pruning=True,
            round_to=8,
            ignored_layers=[last],
        )
        pruner.step()
        macs, _ = tp.utils.count_ops_and_params(copy, x)
        if macs <= target * whole:
            high, best = middle, (copy, macs / whole)
        else:
            low = middle
    return best


def measured(
    device: sct.Device, model: nn.Module, x: Tensor, seconds: float, *, with_peer: bool
) -> list[dict[str, Any]]:
    """Rows of one network on one device, measured in turns."""
    graph = sct.trace(model, x)
    builder = Builder(device, model, x)
    found = half(model, graph, x)
    if with_peer and (pruned := peer(model, x)):
        found["half, Torch-Pruning, round_to=8"] = pruned
    programs = [builder.program(model)] + [builder.program(network) for network, _ in found.values()]
    times = device.race(programs, seconds=seconds)
    rows = [{"version": "dense", "macs": 1.0, **told(times[0])}]
    for (name, (_, share)), time in zip(found.items(), times[1:], strict=True):
        rows.append({"version": name, "macs": share, **told(time)})
    return rows


def told(time: Measurement) -> dict[str, Any]:
    """One measurement as a row."""
    ratio = time.ratio
    return {
        "ms": 1e3 * time.median,
        "quartiles_ms": [1e3 * time.low, 1e3 * time.high],
        "runs": time.runs,
        "clock": time.clock,
        "disturbed": time.disturbed,
        "ratio": ratio and ratio.value,
        "ratio_error": ratio and ratio.error,
    }


def to_time(device: sct.Device, model: nn.Module, x: Tensor, latency: float) -> dict[str, Any]:
    """The network taken to a fraction of its time, and the MACs plan that is as fast as it."""
    result = sct.prune(model, x, method="l2", budget=sct.Budget(latency=latency, device=device))
    timing, whole = result.timing, result.cost_before.macs
    return {
        "version": f"latency={latency}",
        "macs": result.cost_after.macs / whole,
        **told(timing.pruned),
        "ratio": timing.pruned.median / timing.dense.median,
        "predicted_ms": timing.predicted and 1e3 * timing.predicted,
        "calibration_error": timing.calibration_error,
        "gap": timing.gap,
    }


def table(records: list[dict[str, Any]]) -> str:
    """The records as Markdown."""
    lines = [
        "# Half of the MACs, and a fraction of the time, in milliseconds",
        "",
        "Random weights, batch 1, 224 x 224, one thread; times over the dense network's, in turns in one process: the",
        "median and its standard error. Clock: `processor` is the processor time of the one thread, taken where other",
        "work of the machine disturbed the runs. `python benchmarks/deploy.py` makes this file.",
    ]
    for record in records:
        dense = record["rows"][0]
        lines += ["", f"## {record['network']}, {record['device']}", "", f"Dense: {dense['ms']:.2f} ms.", ""]
        lines += ["| version | MACs | time | ± | clock | predicted |", "|---|---|---|---|---|---|"]
        for row in record["rows"][1:]:
            error = f"{row['ratio_error']:.3f}" if row.get("ratio_error") else ""
            predicted = f"{row['predicted_ms'] / row['ms']:.2f} of measured" if row.get("predicted_ms") else ""
            cells = [row["version"], f"{row['macs']:.3f}", f"**{row['ratio']:.3f}**", error, row["clock"], predicted]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write; a record of the same network and device is replaced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--runtimes", nargs="+", default=("onnxruntime", "eager"))
    parser.add_argument("--latency", type=float)
    parser.add_argument("--peer", action="store_true", help="also Torch-Pruning")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "deploy")
    given = parser.parse_args()
    file = given.out.with_suffix(".json")
    records = json.loads(file.read_text()) if file.exists() else []
    for name in given.networks:
        for runtime in given.runtimes:
            torch.manual_seed(0)
            model, x = torchvision.models.get_model(name, weights=None).eval(), torch.zeros(1, 3, 224, 224)
            device = Device(runtime, threads=1)
            rows = measured(device, model, x, given.seconds, with_peer=given.peer)
            if given.latency:
                rows.append(to_time(device, model, x, given.latency))
            record = {"network": name, "device": device.name, "key": device.key, "rows": rows}
            records = [r for r in records if (r["network"], r["key"]) != (name, record["key"])] + [record]
            print(table([record]), flush=True)
            file.write_text(json.dumps(records, indent=1) + "\n")
            given.out.with_suffix(".md").write_text(table(records))


if __name__ == "__main__":
    main()
