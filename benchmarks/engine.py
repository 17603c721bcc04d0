"""Speed and memory of the engine, as ratios against Torch-Pruning in the same process.

    OMP_NUM_THREADS=1 python benchmarks/engine.py [--quick] [--out results/engine.json]

Medians of process CPU time on one thread; run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import torch_pruning as tp
import torchvision
from torch import nn

import secateurs as sct

PEER_LAYERS = [nn.Conv2d, nn.Linear]
TRACED = ["resnet50", "resnet152", "densenet201", "mobilenet_v3_large", "efficientnet_b4"]


def median_ms(work: Callable[[], object], runs: int) -> float:
    """Median CPU time of a piece of work in milliseconds, after one warm-up where there is more than one run."""
    if runs > 1:
        work()
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times)


def network(name: str) -> nn.Module:
    """A torchvision network with random weights."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval()


def row(title: str, ours: float, peer: float | None, aim: str) -> dict[str, object]:
    """Print and return one result."""
    ratio = None if peer is None else peer / ours
    shown = "" if peer is None else f"peer {peer:10.1f} ms   {ratio:6.2f}x"
    print(f"{title:44s} ours {ours:9.1f} ms   {shown:30s} aim {aim}", flush=True)
    return {"what": title, "ours_ms": ours, "peer_ms": peer, "ratio": ratio, "aim": aim}


def traces(x: torch.Tensor, runs: int) -> list[dict[str, object]]:
    """All groups of a network: trace (trial included) against build_dependency + get_all_groups."""
    rows = []
    for name in TRACED:
        model = network(name)

        def peer(model: nn.Module = model) -> None:
            graph = tp.DependencyGraph().build_dependency(model, x)
            list(graph.get_all_groups(root_module_types=PEER_LAYERS))

        ours = median_ms(lambda model=model: sct.trace(model, x), runs)
        theirs = median_ms(peer, 1 if name == "densenet201" else runs)
        rows.append(row(f"groups of {name}, {pixels(x)}", ours, theirs, "never slower"))
    return [*rows, average("groups", x, rows, "4x")]


def pixels(x: torch.Tensor) -> str:
    """The size of the input, as it stands in every row."""
    return f"{x.shape[-2]}x{x.shape[-1]}"


def average(what: str, x: torch.Tensor, rows: list[dict[str, object]], aim: str) -> dict[str, object]:
    """Print and return the geometric mean of the ratios."""
    mean = math.exp(statistics.fmean(math.log(float(str(r["ratio"]))) for r in rows))
    title = f"{what}, {pixels(x)}, geometric mean"
    print(f"{title:44s} {mean:.2f}x (aim {aim})")
    return {"what": title, "ratio": mean, "aim": aim}


def prune_once(model: nn.Module, x: torch.Tensor) -> None:
    """Trace, plan by magnitude for half the MACs, prove, apply."""
    graph = sct.trace(model, x)
    sct.apply(sct.plan(graph, model, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5)), model)


def peer_once(model: nn.Module, x: torch.Tensor) -> None:
    """The peer's pruner: it takes a share of channels, 0.3 of them being about half the MACs."""
    pruner = tp.pruner.MagnitudePruner(
        model,
        x,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.3,
        ignored_layers=_classifiers(model),
    )
    pruner.step()


def _classifiers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]


def end_to_end(x: torch.Tensor, runs: int, *, quick: bool) -> list[dict[str, object]]:
    """From a dense network to a pruned one."""
    rows = []
    for name, aim in [("resnet50", "3x"), ("mobilenet_v3_large", "3x"), ("densenet201", "20x")]:
        if quick and name == "densenet201":
            continue
        model = network(name)
        count = 1 if name == "densenet201" else runs
        ours = _fresh(lambda m: prune_once(m, x), model, max(count, 3))
        theirs = _fresh(lambda m: peer_once(m, x), model, count)
        rows.append(row(f"half the MACs of {name}, {pixels(x)}", ours, theirs, aim))
    return [*rows, average("half the MACs", x, rows, "2x")]


def _fresh(work: Callable[[nn.Module], None], model: nn.Module, runs: int) -> float:
    times = []
    for _ in range(runs):
        copied = copy.deepcopy(model)
        start = time.process_time()
        work(copied)
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times)


def rounds(x: torch.Tensor, count: int = 20) -> list[dict[str, object]]:
    """Twenty pruning rounds in a row on resnet50."""

    def ours(model: nn.Module) -> None:
        graph = sct.trace(model, x)
        dense = graph.cost().macs
        for k in range(1, count + 1):
            budget = sct.Budget(macs=int(dense * (1 - 0.5 * k / count)))
            plan = sct.plan(graph, model, criterion=sct.criteria.Magnitude(), budget=budget)
            sct.apply(plan, model)
            graph = graph.shrink(plan.keep)

    def theirs(model: nn.Module) -> None:
        pruner = tp.pruner.MagnitudePruner(
            model,
            x,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.3,
            iterative_steps=count,
            ignored_layers=_classifiers(model),
        )
        for _ in range(count):
            pruner.step()

    model = network("resnet50")
    return [row(f"twenty rounds on resnet50, {pixels(x)}", _fresh(ours, model, 3), _fresh(theirs, model, 3), "5x")]


def scaling(runs: int) -> list[dict[str, object]]:
    """Depth: at most 1.3 times linear; width 8 times: at most twice the time."""
    x = torch.randn(1, 3, 64, 64)
    rows = []
    depths = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3), 400: (6, 48, 72, 6)}
    block = torchvision.models.resnet.Bottleneck
    times = {}
    for depth, layers in depths.items():
        with torch.device("meta"):
            model = torchvision.models.ResNet(block, list(layers)).eval()
        times[depth] = median_ms(lambda model=model: sct.trace(model, x), runs)
        blocks = sum(layers) / sum(depths[50])
        factor = times[depth] / (times[50] * blocks)
        rows.append(
            row(f"ResNet of {depth} layers, {pixels(x)} ({factor:.2f} of linear)", times[depth], None, "1.3 of linear")
        )
    for width in (16, 128):
        model = wide(width)
        times[width] = median_ms(lambda model=model: sct.trace(model, x), runs)
    factor = times[128] / times[16]
    rows.append(row(f"trace 8 times wider, {pixels(x)} ({factor:.2f}x the time)", times[128], None, "2x"))
    return rows


def growth(layers: tuple[int, ...] = (2000, 4000, 8000, 20000)) -> list[dict[str, object]]:
    """Prune chains of more and more layers: CPU time as n^e between neighbours, e at most 1.2."""
    x = torch.randn(1, 3, 8, 8)
    half = sct.Budget(macs=0.5)
    rows: list[dict[str, object]] = []
    before = (0, 0.0)
    for count in layers:
        model = nn.Sequential(
            *(layer for k in range(count // 2) for layer in (nn.Conv2d(8 if k else 3, 8, 1), nn.ReLU())),
            nn.Conv2d(8, 4, 1),
        ).eval()

        spent = median_ms(lambda model=model: sct.prune(model, x, method="l2", budget=half), 1)
        power = math.log(spent / before[1]) / math.log(count / before[0]) if before[0] else math.nan
        rows.append(row(f"prune of {count} layers, {pixels(x)} (n^{power:.2f})", spent, None, "n^1.2"))
        before = (count, spent)
    return rows


def wide(width: int) -> nn.Module:
    """A ResNet-50 whose stages start at `width` channels times 4."""
    with torch.device("meta"):
        return torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [3, 4, 6, 3], width_per_group=width
        ).eval()


def memory(x: torch.Tensor) -> list[dict[str, object]]:
    """Storage held by a trace: nothing of the size of an activation or a weight."""
    import tracemalloc

    model = network("resnet152")
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    before = peak_rss()
    tracemalloc.start()
    sct.trace(model, x)
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    grown = max(peak_rss() - before, 0)
    allowed = 0.2 * weights + 100e6
    print(f"{'memory of tracing resnet152':44s} {grown / 1e6:.1f} MB more at the peak (allowed {allowed / 1e6:.0f} MB)")
    return [
        {"what": "memory of tracing resnet152", "peak_bytes": grown, "python_bytes": python_peak, "allowed": allowed}
    ]


def peak_rss() -> int:
    """Peak resident memory of this process in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def commit() -> str:
    """The commit that is measured; with a + where the files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found, changed = (
        subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    return found + ("+" if changed else "")


def main() -> None:
    """Run everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the peer's slowest network")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    small, large = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 224, 224)
    results = memory(large)  # first: the peak of a process never falls
    for x in (small, large):
        results += traces(x, options.runs)
        results += end_to_end(x, 3, quick=options.quick)
    results += rounds(large)
    results += scaling(options.runs)
    results += growth()
    if options.out:
        facts = {
            "command": "OMP_NUM_THREADS=1 python benchmarks/engine.py",
            "commit": commit(),
            "inputs": [list(small.shape), list(large.shape)],
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "torch_pruning": version("torch-pruning"),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, one thread",
            "results": results,
        }
        options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
