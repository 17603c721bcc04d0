"""The last stage of a run: evaluate both networks on the test split, once, measure latency, and report."""

import hashlib
import platform
from typing import Any

import torch
from torch import nn

import secateurs as sct
from secateurs.app.bench.timing import device_name
from secateurs.app.choices import BUDGETS
from secateurs.app.cli.pretrained import image_words, reads_files
from secateurs.app.cli.report_file import REPORT
from secateurs.app.cli.stages import stages
from secateurs.app.cli.work import LAST, TRAINED, Work
from secateurs.app.report import (
    Figures,
    LayerTimes,
    Proof,
    Report,
    Settings,
    draw,
    kept_whole,
    layer_widths,
    page,
    timed,
)
from secateurs.app.training import METRICS, Score, score
from secateurs.deploy import Measurement
from secateurs.errors import StoreError
from secateurs.store.save import WEIGHTS

PICTURE, PAGE = "report.png", "report.html"

SECONDS, RUNS = 4.0, 10
"""Seconds for the comparison of two networks on one device, and forward passes of a profile."""


def measure(work: Work, dense: nn.Module, recovered: nn.Module) -> Report:
    """Return the report of the run, and write it next to the model as JSON, picture and HTML page."""
    record = work.folder.done("pruned", "before", "after", "error", "tolerance")
    if record is None:
        raise StoreError(f"{work.folder.path} has no record of the pruning; start the run anew in another --out")
    example = work.loaders.example()
    devices = _devices(work)
    times = [device.compare([dense, recovered], (example,), seconds=SECONDS) for device in devices]
    files = [work.folder.path / TRAINED / WEIGHTS, work.folder.path / WEIGHTS]
    scores = [_scored(work, model) for model in (dense, recovered)]
    before, after = (
        Figures(
            accuracy=None if found is None else found.accuracy,
            top5=None if found is None else found.top5,
            **record[key],
            peak_memory=sct.deploy.activation_memory(model.cpu(), (example,)).peak,
            file_bytes=file.stat().st_size,
            latency=time.median,
        )
        for model, found, key, file, time in zip(
            (dense, recovered), scores, ("before", "after"), files, times[0], strict=True
        )
    )
    report = Report(
        title=title(work),
        before=before,
        after=after,
        widths=layer_widths(dense, recovered),
        stages=stages(work),
        settings=_settings(work),
        proof=Proof(record["error"], record["tolerance"], record.get("zeros", 0)),
        latency=tuple(timed(device, *found) for device, found in zip(devices, times, strict=True)),
        layers=_layers(devices, dense, recovered, example),
        protected=kept_whole(sct.trace(dense, example, protect=work.recipe.protect)),
        conditions=_conditions(work, times[0], record),
        last=_last(work, after.accuracy),
        metric=METRICS[work.loaders.splits.task],
    )
    _write(work, report)
    return report


def _write(work: Work, report: Report) -> None:
    """Write the report next to the model, as JSON, picture and page, and record the stage as finished."""
    content = report.to_json().encode()
    work.folder.put({REPORT: content, PICTURE: draw(report), PAGE: page(report)})
    work.folder.finish("measured", {"report": hashlib.sha256(content).hexdigest()})


def _last(work: Work, picked: float | None) -> float | None:
    """Return test accuracy after the last epoch, if its weights were kept or it is the chosen epoch."""
    if not (work.folder.path / LAST).is_dir():
        return picked
    scored = _scored(work, work.again(work.folder.path / LAST)[0])
    return None if scored is None else scored.accuracy


def _scored(work: Work, model: nn.Module) -> Score | None:
    """Score on the test split; None without labels."""
    loaders = work.loaders
    return score(model, loaders.test_dataloader(), device=work.recipe.device, splits=loaders.splits)


def _devices(work: Work) -> list[sct.Device]:
    """Devices on which latency is measured: the budget's, and PyTorch on the device that trained."""
    eager = sct.Device("cuda" if work.device().type == "cuda" else "eager", threads=work.recipe.threads or 1)
    asked = None if work.budget is None else work.budget.device
    return [asked, eager] if isinstance(asked, sct.Device) and asked != eager else [eager]


def _layers(devices: list[sct.Device], dense: nn.Module, pruned: nn.Module, example: torch.Tensor) -> LayerTimes:
    """Profile both networks, on the first device that can time layers."""
    device = next(device for device in devices if "compile" not in device.runtime or device is devices[-1])
    before, after = (device.profile(model, (example,), runs=RUNS).layers for model in (dense, pruned))
    return LayerTimes(device.name, before, after)


def _settings(work: Work) -> Settings:
    """The request and the environment of the run, for its report."""
    recipe, splits = work.recipe, work.loaders.splits
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    named = (*BUDGETS, "runtime", "min_keep", "min_keep_fraction", "multiple_of")
    multiple = None if work.budget is None else work.budget.multiple_of
    rounded = f"multiples of {multiple}" if isinstance(multiple, int) else str(multiple or "any width")
    return Settings(
        method={"name": recipe.method, **recipe.options},
        budget={} if work.budget is None else {name: getattr(recipe, name) for name in named},
        widths=rounded,
        epochs={"train": recipe.train_epochs, "prune": recipe.prune_epochs, "fine_tune": recipe.epochs},
        device=device_name(work.device()),
        threads=torch.get_num_threads(),
        data={"name": splits.name, **{name: len(part) for name, part in parts.items()}},  # type: ignore[arg-type]
        recipe=recipe.as_keys(),
        versions={"secateurs": sct.__version__, "torch": torch.__version__, "python": platform.python_version()},
    )


def title(work: Work) -> str:
    """Title of the report: model, budget and method in one line."""
    recipe = work.recipe
    to = "" if work.budget is None else f" to {budget_words(work.budget)}"
    return f"{recipe.model} on {work.loaders.splits.name}, pruned{to} by {recipe.method}"


_WORDS = {
    "macs": "MACs",
    "params": "parameters",
    "memory": "bytes of activations",
    "peak_memory": "bytes of activations alive at once",
    "filters": "filters",
}


def budget_words(budget: sct.Budget) -> str:
    """Describe a budget in words.

    >>> budget_words(sct.Budget(macs=0.5, params=100_000))
    '50 % of the MACs and 100,000 parameters'
    >>> budget_words(sct.Budget(peak_memory=0.5))
    '50 % of the bytes of activations alive at once'
    """
    parts: list[str] = []
    for field, name in _WORDS.items():
        value = getattr(budget, field)
        if isinstance(value, int):
            parts.append(f"{value:,} {name}")
        elif value is not None:
            parts.append(f"{100 * value:g} % of the {name}")
    if budget.shares:
        parts.append(f"the filters of {', '.join(f'{name} {share:g}' for name, share in budget.shares)}")
    if budget.latency is not None:
        parts.append(f"{100 * budget.latency:g} % of the time" if budget.latency <= 1 else f"{budget.latency:g} ms")
    return " and ".join(parts)


def _conditions(work: Work, times: tuple[Measurement, ...], record: dict[str, Any]) -> dict[str, str]:
    splits = work.loaders.splits
    counts = [len(part) for part in (splits.train, splits.validation, splits.test)]  # type: ignore[arg-type]
    drawn = f"{counts[0]} images to train, {counts[1]} to decide by, {counts[2]} to test once"
    if splits.task == "none":
        drawn = f"{counts[0]} images without labels, so that no accuracy was measured"
    zeros = f"{record.get('zeros', 0):,} single weights; zeros inside dense tensors do not run faster by themselves"
    return {
        "seed": str(work.recipe.seed),
        "data": f"{splits.name}: {drawn}",
        **({"images": image_words(work.recipe, splits)} if reads_files(work.recipe) else {}),
        "verified": f"removal equals silence: relative error {record['error']:.1e}",
        **({"zeros": zeros} if record.get("zeros") else {}),
        "latency": f"one image; before {times[0]}; after {times[1]}",
        "trained on": f"{device_name(work.device())}, CPU threads: {torch.get_num_threads()}",
        "versions": f"secateurs {sct.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }
