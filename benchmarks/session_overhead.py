"""What a session costs per training step: the same loop with and without it, in one process, on ResNet-56.

    python benchmarks/session_overhead.py [--device cpu] [--batch 128] [--steps 6] [--out results/session_overhead]

For every method, a plain loop and the loop with the session run alternately, a step of each in turn, so that other
work on the machine falls on both; on a CPU the process's own time is taken. The figure is the ratio of the medians.
Sessions are in the phase that costs most (penalty growing, taps on, nothing physically removed yet). Adaptive
Pruning works in rounds, a quarter of an epoch apart: its figure is the time of a round divided by the plain time of
the steps between two rounds of CIFAR-10 (98 at batch 128).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.methods.adaptive import AdaptivePruning
from secateurs.methods.greg import GReg1, GReg2
from secateurs.methods.group_fisher import GroupFisher
from secateurs.methods.increg import IncReg
from secateurs.methods.orthoreg import OrthoReg
from secateurs.methods.soft import ASRFP, SFP
from secateurs.models import resnet56

CEILING = {
    "GReg1": 0.03, "GReg2": 0.03, "IncReg": 0.03, "SFP": 0.03, "ASRFP": 0.03, "OrthoReg": 0.10, "GroupFisher": 0.15,
    "AdaptivePruning": 0.25,
}  # fmt: skip
"""Share of a plain step that a method may add."""

IMAGES = 50_000


def clock(x: Tensor) -> float:
    """Seconds of this process's own work on a CPU, so that other work on the machine does not count; else wall time."""
    if x.is_cuda:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Loop:
    """One model, its optimizer and one batch."""

    def __init__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        self.model, self.batch = model, batch
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
        model.train()

    def step(self) -> float:
        x, y = self.batch
        begin = clock(x)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()
        return clock(x) - begin


def methods() -> list[object]:
    return [
        GReg1(), GReg2(), IncReg(), SFP(), ASRFP(), OrthoReg(), GroupFisher(every=1_000_000, within=1.0),
        AdaptivePruning(after=0.0),
    ]  # fmt: skip


def measure(method: object, model: nn.Module, batch: tuple[Tensor, Tensor], steps: int) -> dict[str, float | str]:
    between = max(1, round(0.25 * IMAGES / len(batch[0])))
    data = [batch] * 8
    # long enough for every paper's schedule, so that nothing is removed while the clock runs
    twin = copy.deepcopy(model)
    session = sct.Session(
        twin, method, sct.Budget(macs=0.5), batch[0][:1], steps_per_epoch=4 * between, epochs=1200, data=data
    )
    plain, pruned = Loop(copy.deepcopy(model), batch), Loop(twin, batch)
    session.attach(pruned.optimizer)
    times: tuple[list[float], list[float]] = ([], [])
    for step in range(steps + 1):
        pair = plain.step(), pruned.step()
        if step:  # the first step allocates
            times[0].append(pair[0])
            times[1].append(pair[1])
    base = statistics.median(times[0])
    extra = statistics.median(b - a for a, b in zip(*times, strict=True))
    if isinstance(method, AdaptivePruning):
        begin = clock(batch[0])
        session._driver._round()  # noqa: SLF001
        extra = (clock(batch[0]) - begin) / between
    session.detach()
    return {
        "method": type(method).__name__,
        "plain_seconds": base,
        "extra_seconds": extra,
        "overhead": extra / base,
        "ceiling": CEILING[type(method).__name__],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet56().to(given.device)
    batch = (
        torch.randn(given.batch, 3, 32, 32, device=given.device),
        torch.randint(0, 10, (given.batch,), device=given.device),
    )
    rows = []
    print(f"ResNet-56, batch {given.batch}, {given.device}, one thread, torch {torch.__version__}")
    for method in methods():
        if given.only and type(method).__name__ not in given.only:
            continue
        row = measure(method, model, batch, given.steps)
        rows.append(row)
        verdict = "ok" if row["overhead"] <= row["ceiling"] else "OVER"
        print(
            f"{row['method']:<16} plain {row['plain_seconds']:.3f} s  extra {1000 * row['extra_seconds']:8.1f} ms  "
            f"{100 * row['overhead']:6.2f} %  (at most {100 * row['ceiling']:.0f} %) {verdict}",
            flush=True,
        )
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        about = {"device": given.device, "batch": given.batch, "steps": given.steps, "torch": torch.__version__}
        (given.out / "overhead.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
