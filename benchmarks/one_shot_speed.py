"""Speed of the one-shot methods, each against the formulation it replaces, in the same process.

    OMP_NUM_THREADS=1 python benchmarks/one_shot_speed.py [--only CLAIM] [--quick] [--out results/one_shot_speed.json]

Process CPU time on one thread: a ratio of two such times bears other work on the machine, its parts less so. `--quick`
takes smaller problems. A claim measured alone replaces its rows in an existing file; a table (`.md`) is written beside.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
import torch
import torchvision
from scipy.optimize import minimize
from sklearn.cluster import AffinityPropagation
from sklearn.metrics.pairwise import euclidean_distances
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.app.models import build
from secateurs.evidence import observe
from secateurs.methods import CCP, FOAD, EPruner
from secateurs.methods.ccp.quadratic import objective, relax, remove, round_to
from secateurs.methods.foad.absorb import absorb
from secateurs.methods.foad.similarity import FeatureSimilarity


def seconds(work: Callable[[], object], runs: int = 1) -> float:
    """Median CPU time of a piece of work; one warm-up where there is more than one run."""
    if runs > 1:
        work()
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def row(what: str, ours: float, peer: float, aim: str, **more: object) -> dict[str, object]:
    """Print and return one result."""
    told = "  ".join(f"{key}: {value}" for key, value in more.items())
    print(f"{what:62s} ours {ours:8.3f} s   peer {peer:8.3f} s   {peer / ours:7.2f}x   aim {aim}   {told}", flush=True)
    return {"what": what, "ours_s": ours, "peer_s": peer, "ratio": peer / ours, "aim": aim, **more}


def exemplars(filters: list[np.ndarray], betas: list[float], *, published: bool) -> list[list[int]]:
    """scikit-learn, layer by layer: as the published code calls it, or with the similarities computed only once."""
    found = []
    for a, beta in zip(filters, betas, strict=True):
        s = -euclidean_distances(a, squared=True)
        preference = np.median(s, axis=0) * beta
        if published:
            fitted = AffinityPropagation(preference=preference, random_state=0).fit(a)
        else:
            fitted = AffinityPropagation(preference=preference, affinity="precomputed", random_state=0).fit(s)
        found.append(sorted(fitted.cluster_centers_indices_.tolist()))
    return found


def epruner(*, quick: bool) -> list[dict[str, object]]:
    """All layers of a ResNet-152 with random weights, at the paper's betas."""
    name = "resnet50" if quick else "resnet152"
    return clustered(name, [("the paper's betas", EPruner.preset(name))], ">= 5x, same exemplars")


def steep(*, quick: bool) -> list[dict[str, object]]:
    """The same at steeper betas: random filters are so far apart that at the paper's most layers keep them all."""
    trials = [(f"beta {beta}", EPruner(beta=beta, scope="uncoupled")) for beta in (0.92, 1.05)]
    return clustered("resnet50" if quick else "resnet152", trials, "for information")


def clustered(name: str, trials: list[tuple[str, EPruner]], aim: str) -> list[dict[str, object]]:
    """Time the whole selection against scikit-learn's clustering of every layer."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    graph = sct.trace(model, torch.zeros(1, 3, 224, 224))
    rows = []
    for title, method in trials:
        kept = method.select(graph, model, None)
        filters = [model.get_submodule(group).weight.detach().flatten(1).numpy() for group in kept]
        betas = [method.beta_of(group) for group in kept]
        ours = seconds(lambda m=method: m.select(graph, model, None), runs=5)
        for published in (True, False):
            theirs = exemplars(filters, betas, published=published)
            peer = seconds(lambda p=published, f=filters, b=betas: exemplars(f, b, published=p), runs=3)
            same = sum(units.tolist() == other for units, other in zip(kept.values(), theirs, strict=True))
            form = "scikit-learn as published" if published else "scikit-learn, distances once"
            widths = f"{sum(map(len, theirs))} of {sum(map(len, filters))} filters kept"
            what = f"EPruner {name}, {title}, against {form}"
            rows.append(
                row(
                    what,
                    ours,
                    peer,
                    aim if published else "for information",
                    same_exemplars=f"{same} of {len(kept)} layers",
                    exemplars=widths,
                )
            )
    return rows


def double_loop(maps: torch.Tensor) -> list[int]:
    """The published formulation: for every kept channel, the similarity to every living one, pair by pair."""
    count = maps.shape[1]
    living, kept = set(range(count)), []
    for i in range(count):
        if i not in living:
            continue
        kept.append(i)
        scores, one = [], maps[:, i].detach().numpy()
        for j in range(count):
            if j == i or j not in living:
                scores.append((0.0, j))
                continue
            distance = np.linalg.norm(one - maps[:, j].detach().numpy(), axis=(1, 2))
            scores.append(((1 / (1 + distance)).mean(), j))
        nearest = max(scores, key=lambda pair: (pair[0], -pair[1]))[1]
        living -= {nearest} - set(kept)
    return kept


def foad(*, quick: bool) -> list[dict[str, object]]:
    """512 channels of 128 maps of 16x16, after a ReLU."""
    count = 128 if quick else 512
    maps = torch.randn(128, count, 16, 16, generator=torch.Generator().manual_seed(0)).relu()

    def ours() -> list[int]:
        statistic = FeatureSimilarity(sct.Group("layer", count, ()), ())
        statistic.update(maps.flatten(2))
        return absorb(statistic.result().s.numpy(), duplicates=None)[0]

    start = time.process_time()
    theirs = double_loop(maps)
    peer = time.process_time() - start
    what = f"FOAD, {count} channels, 128 maps of 16x16, against the double loop"
    return [row(what, seconds(ours, runs=5), peer, ">= 50x", same_channels=theirs == ours())]


def ccp(*, quick: bool) -> list[dict[str, object]]:
    """Half of 512 channels, gate gradients of 1024 samples."""
    size = 128 if quick else 512
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2 * size, size)) @ rng.standard_normal((size, size)) / np.sqrt(size)
    s, u, count = z.T @ z / (4 * size), z.mean(0), size // 2
    start = time.process_time()
    solved = minimize(
        lambda a: objective(s, u, a),
        np.full(size, 0.5),
        jac=lambda a: 2 * (s @ a) - u,
        bounds=[(0, 1)] * size,
        constraints=[{"type": "eq", "fun": lambda a: a.sum() - count, "jac": lambda a: np.ones(size)}],
        method="SLSQP",
        options={"maxiter": 1000},
    )
    peer = time.process_time() - start
    values = {
        "slsqp_relaxed": solved.fun,
        "ours_relaxed": objective(s, u, relax(s, u, count)),
        "slsqp_rounded": objective(s, u, round_to(solved.x, count).astype(float)),
        "ours_rounded": objective(s, u, remove(s, u, count, solver="relax").astype(float)),
        "ours_polished": objective(s, u, remove(s, u, count).astype(float)),
    }
    shown = {key: f"{value:.6g}" for key, value in values.items()}
    what = f"CCP, half of {size} channels, against SLSQP and rounding"
    return [row(what, seconds(lambda: remove(s, u, count), runs=3), peer, ">= 100x, never worse", **shown)]


def statistics_of_a_network(*, quick: bool) -> list[dict[str, object]]:
    """One pass of statistics for all groups, as a multiple of forward + backward of the same batches."""
    rows = []
    for name, batch, side in [("resnet20", 128, 32)] + ([] if quick else [("resnet18", 16, 224)]):
        torch.manual_seed(0)
        model = build(name, in_channels=3, num_classes=10) if side == 32 else torchvision.models.resnet18()
        model = model.eval()
        graph = sct.trace(model, torch.zeros(1, 3, side, side))
        data = [(torch.randn(batch, 3, side, side), torch.randint(10, (batch,))) for _ in range(3)]

        def passes(model: nn.Module = model, data: list[tuple[torch.Tensor, torch.Tensor]] = data) -> None:
            for x, y in data:
                F.cross_entropy(model(x), y).backward()
                model.zero_grad()

        plain = seconds(passes, runs=5)
        for method in (CCP(scope="uncoupled"), CCP(gate="activation", scope="uncoupled"), FOAD(scope="uncoupled")):
            title = type(method).__name__ + (f" gate={method.gate}" if isinstance(method, CCP) else "")
            ours = seconds(lambda m=method, g=graph, n=model, d=data: observe(g, n, m, data=d), runs=5)
            what = f"statistics of {title}, {name}, 3 batches of {batch}, against forward+backward"
            rows.append(row(what, ours, plain, ">= 0.67x", passes=f"{ours / plain:.2f} (aim <= 1.5)"))
    return rows


CLAIMS = {"epruner": epruner, "steep": steep, "foad": foad, "ccp": ccp, "statistics": statistics_of_a_network}


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        "# Speed of the one-shot methods",
        "",
        f"Generated by `{record['command']}`; do not edit. CPU seconds, one thread of {record['machine']}, {versions}.",
        "",
        "| what | ours | peer | ratio | aim | found |",
        "|---|---|---|---|---|---|",
    ]
    plain = ("what", "ours_s", "peer_s", "ratio", "aim")
    for rows in record["claims"].values():
        for one in rows:
            more = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in one.items() if key not in plain)
            figures = f"{one['ours_s']:.3g} s | {one['peer_s']:.3g} s | {one['ratio']:.3g}x"
            lines.append(f"| {one['what']} | {figures} | {one['aim']} | {more} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(CLAIMS), choices=list(CLAIMS), help="measure these alone")
    parser.add_argument("--quick", action="store_true", help="smaller problems, for a look")
    parser.add_argument("--out", type=Path, default=None, help="write the results as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record: dict[str, Any] = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/one_shot_speed.py" + (" --quick" if args.quick else ""),
        "machine": platform.machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "scipy": scipy.__version__,
        },
        "claims": {},
    }
    if args.out and args.out.exists():
        before = json.loads(args.out.read_text(encoding="utf-8"))
        if {**before, "claims": {}} != record:
            raise SystemExit(f"{args.out} was measured by another command or other versions; give another --out")
        record = before
    for name in args.only:
        rows = CLAIMS[name](quick=args.quick)
        record["claims"] = {n: rows if n == name else record["claims"].get(n, []) for n in CLAIMS}
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            args.out.with_suffix(".md").write_text(table(record), encoding="utf-8")


if __name__ == "__main__":
    main()
