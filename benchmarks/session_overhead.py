"""What a session costs per training step: the same loop with and without it, in one process, on ResNet-56.

    python benchmarks/session_overhead.py [--device cpu] [--batch 128] [--steps 9] [--out results/session_overhead.json]

For every method, a plain loop and the loop with the session run alternately, a step of each in turn, each first in
every other pair, so that drift and other work on the machine fall on both; on a CPU the process's own time is taken.
Two figures, both over the median plain step. "own": the time inside the session's hooks and taps, mean over steps,
plus the time of an event divided by the steps between two; it is what counts, since other work on a shared machine
makes whole steps vary by more than a session costs. "paired": median and quartiles of the differences of pairs.
Sessions are in the phase that costs most (penalty growing, taps on, nothing physically removed
yet). Events: soft pruning's of an epoch (391 steps of CIFAR-10 at batch 128), the removal of a unit by Group Fisher
(25 steps), a round of Adaptive Pruning (98 steps), an update of GReg's factors (10 steps).
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.app.models import resnet56
from secateurs.methods.adaptive import AdaptivePruning
from secateurs.methods.greg import GReg1, GReg2
from secateurs.methods.group_fisher import GroupFisher
from secateurs.methods.group_fisher import gradients as taps
from secateurs.methods.increg import IncReg
from secateurs.methods.orthoreg import OrthoReg
from secateurs.methods.soft import ASRFP, SFP
from secateurs.session.schedule import Position

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


def timed(work: Callable[[], object], x: Tensor) -> float:
    """Seconds of one call."""
    begin = clock(x)
    work()
    return clock(x) - begin


def methods() -> list[object]:
    return [
        GReg1(), GReg2(), IncReg(), SFP(), ASRFP(), OrthoReg(), GroupFisher(every=1_000_000, until=1.0),
        AdaptivePruning(after=0.0),
    ]  # fmt: skip


def events(session: sct.Session, epoch: int) -> tuple[Callable[[], object], int]:
    """What a session does now and then, beside its steps, and how many steps lie between; 0 for nothing."""
    driver = session._driver  # noqa: SLF001
    match session.method:
        case AdaptivePruning():
            return driver._round, max(1, epoch // 4)  # noqa: SLF001
        case SFP() | ASRFP():
            return lambda: driver._event(100), epoch  # noqa: SLF001
        case GroupFisher():
            return driver._event, 25  # noqa: SLF001
        case GReg1() | GReg2():
            applied = driver._applied  # noqa: SLF001
            return lambda: applied.penalty.update(
                applied.units, applied.state, Position(0, 1)
            ), applied.penalty.growth.every
        case _:
            return lambda: None, 0


@contextmanager
def stopwatch(session: sct.Session, x: Tensor) -> Generator[list[float], None, None]:
    """Seconds spent in a session's hooks and taps while the context lasts, as the one entry of a list."""
    spent = [0.0]

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = clock(x)
            try:
                return work(*args, **kwargs)
            finally:
                spent[0] += clock(x) - begin

        return call

    places = ((session, "_before"), (session, "_after"), (taps._Begin, "__call__"), (taps._Tap, "__call__"))  # noqa: SLF001
    with ExitStack() as stack:
        for owner, name in (*places, (taps, "gate_gradient"), (taps.Pass, "add")):
            stack.enter_context(patch.object(owner, name, watched(getattr(owner, name))))
        yield spent


def measure(method: object, model: nn.Module, batch: tuple[Tensor, Tensor], steps: int) -> dict[str, Any]:
    epoch = max(1, IMAGES // len(batch[0]))
    data = [batch] * 8
    # long enough for every paper's schedule, so that nothing is removed while the clock runs
    twin = copy.deepcopy(model)
    session = sct.Session(
        twin, batch[0][:1], method=method, budget=sct.Budget(macs=0.5), steps_per_epoch=epoch, epochs=1200, data=data
    )
    plain, pruned = Loop(copy.deepcopy(model), batch), Loop(twin, batch)
    session.attach(pruned.optimizer)
    times: tuple[list[float], list[float]] = ([], [])
    plain.step(), pruned.step()  # the first step allocates
    with stopwatch(session, batch[0]) as spent:
        for step in range(steps):
            if step % 2:
                pair = plain.step(), pruned.step()
            else:
                second = pruned.step()
                pair = plain.step(), second
            times[0].append(pair[0])
            times[1].append(pair[1])
    base = statistics.median(times[0])
    paired = statistics.quantiles([b - a for a, b in zip(*times, strict=True)], n=4, method="inclusive")
    event, every = events(session, epoch)
    event_seconds = timed(event, batch[0]) if every else 0.0
    extra = spent[0] / steps + event_seconds / max(every, 1)
    session.detach()
    return {
        "method": type(method).__name__,
        "plain_seconds": base,
        "event_seconds": event_seconds,
        "event_every": every,
        "extra_seconds": extra,
        "overhead": extra / base,
        "paired": [difference / base for difference in paired],
        "ceiling": CEILING[type(method).__name__],
    }


def table(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The figures as Markdown."""
    where = (
        f"{about['model']}, batch {about['batch']}, {about['device']}, one thread, {about['pairs']} pairs, torch "
        f"{about['torch']}, seed {about['seed']}. Made by `{about['command']}`."
    )
    lines = [
        where,
        "",
        "| method | plain step, ms | session a step, ms | overhead % | at most % | paired difference % (quartiles) |",
        "|---" * 6 + "|",
    ]
    for row in rows:
        low, middle, high = (100 * share for share in row["paired"])
        lines.append(
            f"| {row['method']} | {1000 * row['plain_seconds']:.0f} | {1000 * row['extra_seconds']:.1f} | "
            f"{100 * row['overhead']:.2f} | {100 * row['ceiling']:.0f} | {middle:.1f} ({low:.1f} to {high:.1f}) |"
        )
    return "\n".join(lines) + "\n"


def inserted(page: Path, name: str, text: str) -> None:
    """Replace what stands between a page's markers."""
    before, rest = page.read_text().split(f"<!-- {name} -->\n", 1)
    after = rest.split(f"<!-- /{name} -->", 1)[1]
    page.write_text(f"{before}<!-- {name} -->\n{text}<!-- /{name} -->{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--into", type=Path, default=None, help="a page that shows the table between its markers")
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
        low, middle, high = (100 * share for share in row["paired"])
        print(
            f"{row['method']:<16} plain {row['plain_seconds']:.3f} s  extra {1000 * row['extra_seconds']:7.1f} ms "
            f"{100 * row['overhead']:6.2f} % (at most {100 * row['ceiling']:.0f} %) {verdict}  "
            f"paired {middle:.1f} % ({low:.1f} to {high:.1f})",
            flush=True,
        )
    if given.out:
        about = {
            "command": f"python benchmarks/session_overhead.py --device {given.device} --batch {given.batch} "
            f"--steps {given.steps} --out {given.out}",
            "model": "ResNet-56",
            "device": given.device,
            "batch": given.batch,
            "pairs": given.steps,
            "threads": 1,
            "seed": 0,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        kept = json.loads(given.out.read_text())["rows"] if given.only and given.out.is_file() else []
        rows = [row for row in kept if row["method"] not in {r["method"] for r in rows}] + rows
        rows.sort(key=lambda row: list(CEILING).index(row["method"]))
        given.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        if given.into:
            inserted(given.into, "overhead", table(rows, about))


if __name__ == "__main__":
    main()
