"""Values that no change of structure may change: plans, costs and weights, and the command that records them.

    python -m tests.frozen.record

writes plans.json, trained.json and runs.json beside this file. Record anew only where numbers are meant to change, and
say so in that commit. Only public names are used here, so that modules may move beneath.

plans.json: every criterion and every one-shot method on small but real networks, and the settings of each on one of
them: units kept, costs after, SHA-256 of the pruned weights. trained.json: every training-time method on handwritten
digits, in single and in double precision: the same, and the sums of each tensor to read a difference by. runs.json:
what the command line reports of two whole runs (accuracies, costs, file sizes, widths), without what is timed: latency
and seconds.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.frozen.networks import BUILDERS, Batches, Pupil, cast, digits, filled, subject
from torch import nn
from torch.nn import functional as F

import secateurs as sct

FOLDER = Path(__file__).parent
HALF = sct.Budget(macs=0.5, multiple_of=1)
BUDGETS = {"vit": sct.Budget(macs=0.8, multiple_of=1)}
"""Where half cannot be reached: most of this network is protected."""

by, of = sct.criteria, sct.methods

CRITERIA = {
    "magnitude": by.Magnitude(),
    "magnitude-p2": by.Magnitude(p=2),
    "batch-norm-scale": by.BatchNormScale(fallback=by.Magnitude()),
    "geometric-median": by.GeometricMedian(),
    "random": by.Random(0),
    "taylor": by.Taylor(),
}
ONE_SHOT = {
    "foad": of.FOAD(scope="uncoupled"),
    "epruner": of.EPruner(scope="uncoupled"),
    "ccp": of.CCP(scope="uncoupled"),
}
LEFT_OUT = {
    # EPruner takes seconds where layers are wide.
    "resnet18": {"epruner"},
    "mobilenet_v2": {"epruner"},
    # Groups that one operator produces are too few for half of the cost.
    "efficientnet_b0": {*ONE_SHOT, "magnitude-p2", "geometric-median", "random"},
    "shufflenet_v2_x0_5": {"epruner", "magnitude-p2", "geometric-median", "random"},
    # No norm that is pruned has a scale.
    "squeezenet1_1": {"epruner", "batch-norm-scale"},
    "vit": {"batch-norm-scale"},
}
"""What some networks cannot have, or need not because others have it."""

SETTINGS: dict[str, tuple[Any, sct.Budget | None]] = {
    "magnitude, params": (by.Magnitude(), sct.Budget(params=0.4, multiple_of=1)),
    "magnitude, memory": (by.Magnitude(), sct.Budget(memory=0.6, multiple_of=1)),
    "magnitude, absolute": (by.Magnitude(), sct.Budget(macs=20_000_000, multiple_of=1)),
    "magnitude, floors": (by.Magnitude(), sct.Budget(macs=0.6, params=0.7, multiple_of=4, min_keep_fraction=0.3)),
    "magnitude, exclude": (by.Magnitude(), sct.Budget(macs=0.7, exclude=("layer1.0.conv1",))),
    "magnitude, out": (by.Magnitude(roles=("out",)), HALF),
    "random, seed 3": (by.Random(3), HALF),
    "taylor, all roles": (by.Taylor(roles=None), HALF),
    "foad, no budget": (of.FOAD(scope="uncoupled"), None),
    "foad, energy": (of.FOAD(order="energy", neighbors=2, scope="coupled"), HALF),
    "epruner, no budget": (of.EPruner(scope="uncoupled"), None),
    "epruner, uniform": (of.EPruner(uniform=True, reset_bn=True, scope="uncoupled"), HALF),
    "epruner, coupled": (of.EPruner(preference="overall", scope="coupled"), HALF),
    "epruner, random": (of.EPruner(initialisation="random", scope="uncoupled"), HALF),
    "epruner, random_project": (of.EPruner(initialisation="random_project", scope="uncoupled"), HALF),
    "ccp, no budget": (of.CCP(keep=0.5, scope="uncoupled"), None),
    "ccp, by loss": (of.CCP(gate="activation", sizes="by_loss", scope="uncoupled"), HALF),
    "ccp, logits": (of.CCP(curvature="logits", scope="coupled"), HALF),
    "ccp, sampled": (of.CCP(curvature="sampled", scope="uncoupled"), HALF),
    "ccp, auxiliary": (of.CCP(auxiliary=2, scope="uncoupled"), HALF),
}
"""Settings other than the default ones, all on ResNet-20."""

UNIFORM = "magnitude, uniform"

PER_EPOCH, EPOCHS, BATCH = 6, 10, 32
STEPS = PER_EPOCH * EPOCHS

TRAINED: dict[str, tuple[Any, dict[str, Any]]] = {
    "GReg1": (of.GReg1(), {}),
    "GReg2": (of.GReg2(), {}),
    "IncReg": (of.IncReg(), {}),
    "OrthoReg": (of.OrthoReg(samples=64), {}),
    "SFP": (of.SFP(), {}),
    "ASFP": (of.ASFP(), {}),
    "SRFP": (of.SRFP(), {}),
    "ASRFP": (of.ASRFP(), {}),
    "GroupFisher": (of.GroupFisher(), {}),
    "AdaptivePruning": (of.AdaptivePruning(batches=2, probe_samples=16), {}),
    "GReg1, masked": (of.GReg1(), {"shrink": False}),
    "GReg2, uncoupled": (of.GReg2(scope="uncoupled", norms=True), {}),
    "IncReg, columns": (of.IncReg(unit="column"), {"budget": sct.Budget(params=0.5, multiple_of=1)}),
    "GroupFisher, masked": (of.GroupFisher(normaliser="macs"), {"shrink": False}),
    "AdaptivePruning, no budget": (of.AdaptivePruning(batches=2, probe_samples=16), {"budget": None}),
}
"""Methods, and options of the session that are not the usual ones."""

PRECISIONS = {"single": torch.float32, "double": torch.float64}

RUNS = {
    "magnitude": ["--method", "magnitude", "--train-epochs", "2", "--epochs", "2"],
    "greg1": ["--method", "greg1", "--train-epochs", "1", "--prune-epochs", "4", "--epochs", "1"],
}
"""Flags of `secateurs prune`."""


def exact(method: str) -> bool:
    """Whether a method chooses by weights or by its seed alone, in sums that round alike on any machine.

    EPruner sees weights only, too; but it repeats its sums hundreds of times, until they settle.
    """
    return not method.startswith(("taylor", "foad", "epruner", "ccp"))


def pairs() -> list[tuple[str, str]]:
    """All (network, method), network by network."""
    ways = [(network, method) for network in BUILDERS for method in (*CRITERIA, *ONE_SHOT)]
    left = [(network, method) for network, method in ways if method not in LEFT_OUT.get(network, ())]
    extra = [("resnet20", method) for method in (*SETTINGS, UNIFORM)]
    return sorted(left + extra + [("convnext", UNIFORM)], key=lambda pair: [*BUILDERS].index(pair[0]))


# --- values ---


def groups(network: str) -> dict[str, Any]:
    """What is found in a network: the units of each group, in order, and what the network costs."""
    model, example, _ = subject(network)
    graph = sct.trace(model, example)
    return {"units": {group.name: group.units for group in graph.groups}, "cost": _cost(graph.cost())}


def pruned(network: str, method: str) -> dict[str, Any]:
    """What one method makes of a network: the units kept where not all are, the cost, the weights' hash."""
    model, example, data = subject(network)
    budget = BUDGETS.get(network, HALF)
    if method == UNIFORM:
        graph = sct.trace(model, example)
        plan = sct.plan(graph, model, criterion=by.Magnitude(), budget=budget, allocator=sct.allocate.Uniform())
        return _told(plan, sct.apply(plan, filled(BUILDERS[network]())), graph.cost(plan))
    chosen, budget = SETTINGS.get(method, ({**CRITERIA, **ONE_SHOT}.get(method), budget))
    result = sct.prune(model, example, method=chosen, budget=budget, data=data, seed=0)
    return _told(result.plan, result.model, result.cost_after)


def trained(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What a training-time method makes of the pupil in sixty steps: the same, and the sums of each tensor."""
    method, options = TRAINED[name]
    data = cast(digits(PER_EPOCH, BATCH), dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = filled(Pupil()).to(dtype).train()
        given = {"budget": HALF, "steps_per_epoch": PER_EPOCH, "epochs": EPOCHS, "data": data, **options}
        fitted = method.fitted(PER_EPOCH, EPOCHS)
        session = sct.Session(model, torch.zeros(1, 1, 8, 8, dtype=dtype), method=fitted, **given)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        session.attach(optimizer)
        _train(model, optimizer, data)
        small = session.finish()
    return {**_told(session.plan, small, session.cost), "sums": _sums(small.state_dict())}


def reported(name: str, out: Path) -> dict[str, Any]:
    """What the command line reports of a run on the digits, its plan and the hash of its weights."""
    from safetensors.torch import load_file

    fixed = ["--model", "resnet20", "--data", "digits", "--macs", "0.5", "--device", "cpu", "--threads", "1"]
    fixed += ["--multiple-of", "1"]
    if (status := _command()(["prune", *fixed, *RUNS[name], "--out", str(out)])) != 0:
        message = f"the run ended with {status}"
        raise RuntimeError(message)
    report = json.loads((out / "report.json").read_text())
    return {
        **{side: {key: value for key, value in report[side].items() if key != "latency"} for side in SIDES},
        "widths": {width["name"]: width["after"] for width in report["widths"]},
        "stages": {stage["name"]: stage["accuracy"] for stage in report["stages"]},
        "keep": _kept(sct.load_plan(out)),
        "sha256": _sha256(load_file(out / "model.safetensors")),
    }


SIDES = ("before", "after")


def _command() -> Callable[[list[str]], int]:
    """What the installed command calls, wherever that lies."""
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["secateurs"].partition(":")
    return getattr(import_module(module), name)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Batches) -> None:
    for step in range(STEPS):
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def _told(plan: sct.Plan, model: nn.Module, cost: sct.Cost) -> dict[str, Any]:
    return {"keep": _kept(plan), "cost": _cost(cost), "sha256": _sha256(model.state_dict())}


def _kept(plan: sct.Plan) -> dict[str, str]:
    return {name: runs(units) for name, units in plan.keep.items() if len(units) < plan.units[name]}


def _cost(cost: sct.Cost) -> list[int]:
    return [int(cost.macs), int(cost.params), int(cost.memory)]


def _sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Of names, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _sums(state: Mapping[str, torch.Tensor]) -> dict[str, list[float]]:
    """Of each tensor's entries and of their magnitudes, to nine digits: the hash has the rest."""
    values = {name: tensor.double().flatten().tolist() for name, tensor in sorted(state.items())}
    return {name: [_nine(math.fsum(each)), _nine(math.fsum(map(abs, each)))] for name, each in values.items()}


def _nine(value: float) -> float:
    return float(f"{value:.9g}")


def runs(units: Sequence[int]) -> str:
    """Ascending numbers, the way a printer is told its pages.

    >>> runs((0, 1, 2, 3, 5, 7, 8))
    '0-3,5,7-8'
    """
    found: list[list[int]] = []
    for unit in units:
        if found and unit == found[-1][1] + 1:
            found[-1][1] = unit
        else:
            found.append([unit, unit])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


# --- files ---


def machine() -> dict[str, str]:
    """What the last bits of a float may depend on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = re.search(r"^model name\s*: *(.*)$", text, re.MULTILINE)
    return {
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "avx512": str("avx512f" in text),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def recorded(kind: str) -> dict[str, Any]:
    """What was written: `plans`, `trained` or `runs`."""
    return json.loads((FOLDER / f"{kind}.json").read_text())


def _write(kind: str, content: Mapping[str, Any]) -> None:
    (FOLDER / f"{kind}.json").write_text("\n".join(_lines({"machine": machine(), **content})) + "\n")


def _lines(value: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """JSON with a line for each value three levels down, so that a difference is read by its line."""
    yield "{"
    for at, (key, part) in enumerate(value.items()):
        inside = [*_lines(part, depth + 1)] if isinstance(part, dict) and part and depth < 3 else [json.dumps(part)]
        inside[0] = f"{json.dumps(key)}: {inside[0]}"
        inside[-1] += "," * (at < len(value) - 1)
        yield from (f" {line}" for line in inside)
    yield "}"


def main(out: Path) -> None:
    """Compute everything and write it down; `out` is a folder for run folders."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {network: {"groups": groups(network), "methods": {}} for network in BUILDERS}
    for network, method in pairs():
        found[network]["methods"][method] = pruned(network, method)
    _write("plans", found)
    _write("trained", {name: {kind: trained(name, dtype) for kind, dtype in PRECISIONS.items()} for name in TRAINED})
    _write("runs", {name: reported(name, out / name) for name in RUNS})


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        main(Path(folder))
