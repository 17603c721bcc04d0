"""What a budget is worth in milliseconds: half of the MACs, and half of the time, on the runtimes that are there.

    python benchmarks/deploy.py --networks mobilenet_v2 --runtimes onnxruntime --tables DIR

Random weights, batch 1, 224 x 224, one thread. All versions of a network are measured in turns in one process; a row is
a time over the dense network's. Every (network, runtime) is written when it is done, into results/deploy.json and
results/deploy.md, and not measured again unless --again. --half leaves the budget of time out. --runtimes executorch is
measured where that package is installed. --survey measures half of the MACs by default settings on torchvision
classifiers of every family instead.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from importlib.metadata import version
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
RUNTIMES = ("onnxruntime", "openvino", "eager")
FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf"),
    *("regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2"),
)
RESULTS = Path(__file__).parents[1] / "results"
LATENCY = 0.5


def half(model: nn.Module, graph: sct.Graph, x: Tensor) -> dict[str, tuple[nn.Module, float]]:
    """Versions of half of the MACs: name -> network, and its share of the MACs."""
    l2, whole = sct.criteria.Magnitude(p=2), graph.cost().macs
    plans = {
        "half, any width": sct.plan(graph, model, criterion=l2, budget=sct.Budget(macs=0.5)),
        "half, default": sct.prune(model, x, method=l2, budget=sct.Budget(macs=0.5)).plan,
        "half, multiples of 16": sct.plan(graph, model, criterion=l2, budget=sct.Budget(macs=0.5, multiple_of=16)),
        "half, every layer alike, multiples of 8 (as timm rounds)": sct.plan(
            graph, model, criterion=l2, budget=sct.Budget(macs=0.5, multiple_of=8), allocator=Uniform()
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


def measured(device: sct.Device, model: nn.Module, x: Tensor, seconds: float) -> list[dict[str, Any]]:
    """Rows of one network on one device, measured in turns."""
    graph = sct.trace(model, x)
    builder = Builder(device, model, x)
    found = half(model, graph, x)
    if pruned := peer(model, x):
        found["half, Torch-Pruning, round_to=8"] = pruned
    programs = [builder.program(model)] + [builder.program(network) for network, _ in found.values()]
    times = device.race(programs, seconds=seconds)
    rows = [{"version": "dense", "macs": 1.0, **told(times[0])}]
    for (name, (_, share)), took in zip(found.items(), times[1:], strict=True):
        rows.append({"version": name, "macs": share, **told(took)})
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


def to_time(device: sct.Device, model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """The network taken to half of its time; and the MACs of the network chosen by MACs alone that is as fast."""
    start = time.perf_counter()
    result = sct.prune(model, x, method="l2", budget=sct.Budget(latency=LATENCY, device=device))
    timing, whole = result.timing, result.cost_before.macs
    row = {
        "version": f"latency={LATENCY}",
        "macs": result.cost_after.macs / whole,
        **told(timing.pruned),
        "predicted_ms": timing.predicted and 1e3 * timing.predicted,
        "predicted_over_measured": timing.predicted and timing.predicted / timing.dense.median / timing.ratio,
        "calibration_error": timing.calibration_error,
        "gap": timing.gap,
        "macs_of_the_macs_plan_as_fast": timing.plain_macs and timing.plain_macs / whole,
        "seconds": time.perf_counter() - start,
    }
    return [row]


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A torchvision network with random weights, and an input."""
    torch.manual_seed(0)
    side = 299 if name == "inception_v3" else 224
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some initialise slowly, and say so
        return torchvision.models.get_model(name, weights=None).eval(), torch.zeros(1, 3, side, side)


def table(records: list[dict[str, Any]]) -> str:
    """The records as Markdown."""
    lines = [
        "# Half of the MACs, and half of the time",
        "",
        "Random weights, batch 1, 224 x 224, one thread; times over the dense network's, turn by turn in one process:",
        "the median and its standard error. The machine was shared with other work: `processor` is the processor time",
        "of the one thread, taken where that disturbed the runs. MACs plan as fast: the share of the MACs that the",
        "network has which is chosen by MACs alone, with widths rounded, and takes the same time.",
        "`python benchmarks/deploy.py` makes this file.",
    ]
    for record in records:
        dense, versions = record["rows"][0], record["versions"]
        packages = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines += ["", f"## {record['network']}, {record['device']}", ""]
        lines += [f"Dense: {dense['ms']:.2f} ms. {packages}.", ""]
        lines += [
            "| version | MACs | time | ± | clock | predicted / measured | MACs plan as fast |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in record["rows"][1:]:
            predicted, plain = row.get("predicted_over_measured"), row.get("macs_of_the_macs_plan_as_fast")
            cells = [row["version"], f"{row['macs']:.3f}", f"**{row['ratio']:.3f}**", f"{row['ratio_error']:.3f}"]
            cells += [row["clock"], f"{predicted:.2f}" if predicted else "", f"{plain:.3f}" if plain else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def survey_table(rows: list[dict[str, Any]]) -> str:
    """The survey as Markdown."""
    lines = [
        "# Half of the MACs by default settings, torchvision classifiers of every family",
        "",
        f"{rows[0]['device']}. Random weights, batch 1, time over the dense network's, turn by turn.",
        "`python benchmarks/deploy.py --survey` makes this file.",
        "",
        "| network | dense, ms | MACs | time | ± |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["network"]):
        cells = [row["network"], f"{row['dense_ms']:.2f}", f"{row['macs']:.3f}", f"**{row['ratio']:.3f}**"]
        lines.append(f"| {' | '.join(cells)} | {row['ratio_error']:.3f} |")
    return "\n".join(lines) + "\n"


def survey(device: sct.Device, name: str, seconds: float) -> dict[str, Any]:
    """One network at half of its MACs by default settings."""
    model, x = network(name)
    result = sct.prune(model, x, method="l2", budget=sct.Budget(macs=0.5))
    builder = Builder(device, model, x)
    dense, small = device.race([builder.program(model), builder.program(result.model)], seconds=seconds)
    share = result.cost_after.macs / result.cost_before.macs
    return {"network": name, "device": device.name, "dense_ms": 1e3 * dense.median, "macs": share, **told(small)}


def put(file: Path, rows: list[dict[str, Any]], text: str) -> None:
    """Write the rows and their table."""
    file.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    file.with_suffix(".md").write_text(text)


def taken(file: Path) -> list[dict[str, Any]]:
    """What was measured before."""
    found = file.with_suffix(".json")
    return json.loads(found.read_text()) if found.exists() else []


def main() -> None:
    """Measure what is not there yet, and write after every point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--survey", action="store_true")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--tables", type=Path, help="folder that keeps the measured segments of each runtime")
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    if given.survey:
        file = RESULTS / "deploy_families"
        rows = [] if given.again else taken(file)
        for name in given.networks or FAMILIES:
            if name not in {row["network"] for row in rows}:
                rows.append(survey(Device("onnxruntime"), name, given.seconds))
                put(file, rows, survey_table(rows))
        return
    file = RESULTS / "deploy"
    records = taken(file)
    for runtime in given.runtimes:
        for name in given.networks or NETWORKS:
            layout = "channels_last" if runtime == "eager" else "nchw"
            kept = given.tables and given.tables / f"{runtime}.json"
            device = Device(runtime, threads=1, layout=layout, table=kept)
            known = [r for r in records if (r["network"], r["key"]) == (name, device.key)]
            if known and not given.again:
                continue
            model, x = network(name)
            rows = measured(device, model, x, given.seconds) + ([] if given.half else to_time(device, model, x))
            packages = {package: version(package) for package in ("torch", "torchvision", "torch-pruning", "secateurs")}
            packages[runtime] = device.key["version"]
            record = {"network": name, "device": device.name, "key": device.key, "versions": packages, "rows": rows}
            records = [r for r in records if r not in known] + [record]
            put(file, records, table(records))
            print(table([record]), flush=True)


if __name__ == "__main__":
    main()
