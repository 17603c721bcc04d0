"""The last stage of a run: measure the network before and after, on the test split this once, and tell."""

import hashlib
import platform
from typing import Any

import torch
from torch import nn

import secateurs as sct
from secateurs.app.bench.timing import Latency, device_name, latency
from secateurs.app.cli.report_file import REPORT
from secateurs.app.cli.stages import TRAINED, Work, stages
from secateurs.app.report import Figures, Report, draw, layer_widths
from secateurs.app.training import METRICS, score
from secateurs.errors import StoreError
from secateurs.store.save import WEIGHTS

PICTURE = "report.png"


def measure(work: Work, dense: nn.Module, recovered: nn.Module) -> Report:
    """Give the report of the run, written beside the model as JSON and as a picture."""
    record = work.folder.done("pruned", "before", "after", "error")
    if record is None:
        raise StoreError(f"{work.folder.path} has no record of the pruning; start the run anew in another --out")
    device = work.device()
    times = latency([dense.to(device), recovered.to(device)], (work.loaders.example(),), seconds=4)
    files = [work.folder.path / TRAINED / WEIGHTS, work.folder.path / WEIGHTS]
    splits, device_of = work.loaders.splits, work.recipe.device
    scores = [
        score(model, work.loaders.test_dataloader(), device=device_of, splits=splits) for model in (dense, recovered)
    ]
    before, after = (
        Figures(
            accuracy=None if found is None else found.accuracy,
            top5=None if found is None else found.top5,
            **record[key],
            file_bytes=file.stat().st_size,
            latency=time.median,
        )
        for found, key, file, time in zip(scores, ("before", "after"), files, times, strict=True)
    )
    report = Report(
        title=title(work),
        before=before,
        after=after,
        widths=layer_widths(dense, recovered),
        stages=stages(work),
        conditions=_conditions(work, times, record),
        metric=METRICS[splits.task],
    )
    content = report.to_json().encode()
    work.folder.put({REPORT: content, PICTURE: draw(report)})
    work.folder.finish("measured", {"report": hashlib.sha256(content).hexdigest()})
    return report


def title(work: Work) -> str:
    """What was done, in a line."""
    recipe = work.recipe
    to = "" if work.budget is None else f" to {budget_words(work.budget)}"
    return f"{recipe.model} on {work.loaders.splits.name}, pruned{to} by {recipe.method}"


def budget_words(budget: sct.Budget) -> str:
    """Say a budget in words.

    >>> budget_words(sct.Budget(macs=0.5, params=100_000))
    '50 % of the MACs and 100,000 parameters'
    """
    parts: list[str] = []
    given = (budget.macs, budget.params, budget.memory, budget.filters)
    for value, name in zip(given, ("MACs", "parameters", "bytes of activations", "filters"), strict=True):
        if isinstance(value, int):
            parts.append(f"{value:,} {name}")
        elif value is not None:
            parts.append(f"{100 * value:g} % of the {name}")
    if budget.shares:
        parts.append(f"the filters of {', '.join(f'{name} {share:g}' for name, share in budget.shares)}")
    if budget.latency is not None:
        parts.append(f"{100 * budget.latency:g} % of the time" if budget.latency <= 1 else f"{budget.latency:g} ms")
    return " and ".join(parts)


def _conditions(work: Work, times: tuple[Latency, ...], record: dict[str, Any]) -> dict[str, str]:
    splits = work.loaders.splits
    counts = [len(part) for part in (splits.train, splits.validation, splits.test)]  # type: ignore[arg-type]
    drawn = f"{counts[0]} images to train, {counts[1]} to decide by, {counts[2]} to test once"
    if splits.task == "none":
        drawn = f"{counts[0]} images without labels, so that no accuracy was measured"
    zeros = f"{record.get('zeros', 0):,} single weights; zeros inside dense tensors do not run faster by themselves"
    return {
        "seed": str(work.recipe.seed),
        "data": f"{splits.name}: {drawn}",
        "verified": f"removal equals silence: relative error {record['error']:.1e}",
        **({"zeros": zeros} if record.get("zeros") else {}),
        "latency": f"one image; before {times[0]}; after {times[1]}",
        "trained on": f"{device_name(work.device())}, CPU threads: {torch.get_num_threads()}",
        "versions": f"secateurs {sct.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }
