"""`secateurs export`: write the pruned and the dense network of a run for a runtime, and compare them."""

import json
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import secateurs as sct
from secateurs.app import data, models
from secateurs.app.cli.arguments import compose, read_file
from secateurs.app.cli.pretrained import classes_of
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.requests import ExportOrder
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.cli.work import TRAINED
from secateurs.app.training import Loaders, evaluate
from secateurs.deploy import Exported, Loaded
from secateurs.deploy.executorch_form import LARGEST_BATCH
from secateurs.deploy.export import RUNTIME
from secateurs.errors import InputError
from secateurs.store.files import write_files

FIGURES = "export.json"


def export(order: ExportOrder, console: Console) -> None:
    """Write the dense and the pruned network of a finished run as files that run without this library."""
    folder = RunFolder(order.run)
    recipe_file = folder.recipe()
    if recipe_file is None or not folder.done("recovered"):
        raise InputError(f"{order.run} holds no finished run; name the --out folder of a secateurs prune")
    recipe = compose(Recipe(), read_file(recipe_file))
    if order.int8 and order.to in ("executorch", "torch-export"):
        raise InputError(f"--int8 is written as onnx or openvino, not as {order.to}; add --to onnx")
    runtime: Any = RUNTIME[order.to]
    device = sct.Device(runtime, threads=order.threads)
    splits = data.load(recipe.data, how=recipe.preprocessing())
    loaders = Loaders(splits, batch_size=recipe.batch_size, workers=recipe.workers, seed=recipe.seed)

    def fresh() -> nn.Module:
        return models.build(recipe.model, in_channels=splits.shape[0], num_classes=classes_of(recipe, splits)).eval()

    out = order.out or order.run / "export"
    out.mkdir(parents=True, exist_ok=True)
    networks = {"dense": sct.load(fresh(), order.run / TRAINED), "pruned": sct.load(fresh(), order.run)}
    figures: dict[str, tuple[Exported, float | None]] = {}
    for name, network in networks.items():
        for int8 in (False, True)[: 1 + order.int8]:
            kind = f"{name} int8" if int8 else name
            calibration = loaders.calibration(recipe.calibration_batches) if int8 else None
            file = sct.export(
                network,
                loaders.example(),
                out / kind.replace(" ", "-"),
                to=order.to,
                dynamic_batch=max(LARGEST_BATCH, recipe.batch_size),
                int8=calibration,
                device=device,
            )
            accuracy = evaluate(
                Loaded(file.path, threads=order.threads), loaders.test_dataloader(), device="cpu", splits=splits
            )
            figures[kind] = file, accuracy
            console.print(f"[green]✓[/] {kind:<12} {file.path}", highlight=False)
    rows = {name: {**asdict(file), "path": str(file.path), "accuracy": a} for name, (file, a) in figures.items()}
    write_files(out, {FIGURES: json.dumps({"device": device.key, "files": rows}, indent=2).encode()}, overwrite=True)
    console.print(_shown(figures, device))


def _shown(figures: dict[str, tuple[Exported, float | None]], device: sct.Device) -> Table:
    shown = Table(title=device.name, box=box.SIMPLE_HEAVY, title_style="bold", title_justify="left", pad_edge=False)
    shown.add_column("")
    for heading in ("on the test split", "latency", "file size", "error to eager"):
        shown.add_column(heading, justify="right")
    for name, (file, accuracy) in figures.items():
        took = "–" if file.latency is None else f"{1e3 * file.latency.median:.2f} ms"
        measured = "–" if accuracy is None else f"{100 * accuracy:.2f} %"
        shown.add_row(name, measured, took, f"{file.bytes / 2**20:.2f} MiB", f"{file.error:.1e}")
    return shown
