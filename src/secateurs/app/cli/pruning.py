"""`secateurs prune`: check all arguments, then run the stages."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

import secateurs as sct
from secateurs.app import data, models
from secateurs.app.choices import BUDGETS
from secateurs.app.cli.amounts import with_classes
from secateurs.app.cli.arguments import Invocation, chosen_method, compose, read_file
from secateurs.app.cli.consent import check_consent
from secateurs.app.cli.controls import check_control, in_place_of
from secateurs.app.cli.cutting import session_of
from secateurs.app.cli.from_recipe import PARTS, augmentation, in_rounds, optimisation
from secateurs.app.cli.measure import measure
from secateurs.app.cli.method_file import absolute
from secateurs.app.cli.pretrained import (
    check_pickle,
    image_words,
    initialise,
    names_weights,
    reads_files,
    with_preprocessing,
)
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.report_file import finished
from secateurs.app.cli.run_folder import RunFolder, check_folder, check_space, held
from secateurs.app.cli.stages import cut, recover, train
from secateurs.app.cli.task_check import check_task
from secateurs.app.cli.work import Work
from secateurs.app.report import Report, table
from secateurs.app.training import Loaders, loss_of
from secateurs.app.training.fit import check_precision
from secateurs.app.training.machines import early_rank, once, rank
from secateurs.app.training.score import accelerator
from secateurs.criteria import Criterion
from secateurs.errors import InputError, SecateursError
from secateurs.prune import round_widths
from secateurs.session import TrainingMethod


class WorkError(SecateursError):
    """Raised if an input turns out to be unusable during work; finished stages are kept."""


def prune(invocation: Invocation, console: Console) -> None:
    """Train a network (or load its weights), prune it to a budget, recalibrate its BatchNorm, fine-tune and measure."""
    started_by_another = early_rank() > 0
    folder = check_folder(invocation.out, resume=invocation.resume or started_by_another)
    recipe = settled(invocation, folder)
    recipe.machines().launch(accelerator(recipe.device))
    console = console if rank() == 0 else Console(quiet=True)
    if not once(lambda: folder.done("trained")):
        check_pickle(recipe, allowed=bool(invocation.flags.get("allow_pth")))
    report = once(lambda: finished(folder)) or _worked(recipe, folder, console)
    console.print(table(report))
    place = escape(str(folder.path))
    written = "the model, its plan and recipe, and the report: report.html, report.json, report.png"
    console.print(f"[bold]{place}[/] holds {written}.", emoji=False)


def _worked(recipe: Recipe, folder: RunFolder, console: Console) -> Report:
    """Run the remaining stages."""
    _check_numbers(recipe)
    before = torch.get_num_threads()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    try:
        work = prepare(recipe, folder, console)
        with held(folder) if rank() == 0 else nullcontext():
            once(lambda: folder.put_recipe(recipe))
            once(lambda: _same_data(folder, work.loaders.splits.fingerprint))
            return _report(work)
    finally:
        torch.set_num_threads(before)


def _report(work: Work) -> Report:
    """Run every stage that is not finished."""
    with told_as_failure():
        dense = train(work)
        recovered = recover(work, *cut(work, dense), dense)
        return once(lambda: measure(work, dense, recovered))


def _same_data(folder: RunFolder, found: Mapping[str, str]) -> None:
    """Refuse to resume on changed data: the splits, and so the test images, could differ."""
    record = folder.done("data")
    if record is None:
        folder.finish("data", dict(found))
        return
    for place in sorted(record.keys() | found.keys()):
        was, now = record.get(place, "nothing"), found.get(place, "nothing")
        if was != now:
            raise InputError(
                f"the images in {place} are not those that this run began with: {str(was)[:24]} then, "
                f"{now[:24]} now (or other names or sizes); put them back, or start anew in another --out"
            )


@contextmanager
def told_as_failure() -> Generator[None]:
    """Turn an InputError raised during work into a failure of the work."""
    try:
        yield
    except InputError as cause:
        raise WorkError(f"{cause}") from cause


def settled(invocation: Invocation, folder: RunFolder) -> Recipe:
    """Return the recipe: of the run to resume, which flags must not contradict, or else the given one."""
    asked = resolved(invocation.recipe)
    stored = folder.recipe()
    if stored is None:
        return asked
    keys = read_file(stored)
    check_consent(keys, invocation.flags, stored)
    recipe = compose(Recipe(), keys)
    for f in fields(Recipe):
        if f.name in invocation.given and getattr(asked, f.name) != getattr(recipe, f.name):
            stands, wanted = getattr(recipe, f.name), getattr(asked, f.name)
            raise InputError(
                f"the run in {folder.path} has {f.name} {stands}, and {wanted} was asked for; "
                "resume it as it is, or choose another --out"
            )
    return recipe


def resolved(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths, so that it works in any directory."""
    kind, colon, root = recipe.data.partition(":")
    weights = recipe.weights
    if weights is not None and not names_weights(recipe):
        weights = str(Path(weights).expanduser().absolute())
    folder = colon and root and kind != "digits"
    name = f"{kind}:{Path(root).expanduser().absolute()}" if folder else recipe.data
    file, colon, function = recipe.model.rpartition(":")
    model = f"{Path(file).expanduser().absolute()}:{function}" if colon and file.endswith(".py") else recipe.model
    like = None if recipe.like is None else recipe.like.expanduser().absolute()
    placed = replace(recipe, weights=weights, data=name, model=model, method=absolute(recipe.method), like=like)
    return with_preprocessing(placed)


def prepare(recipe: Recipe, folder: RunFolder, console: Console) -> Work:
    """Refuse arguments that cannot work, before any work."""
    models.check_name(recipe.model)
    data.check_name(recipe.data)
    check_control(recipe)
    replaced = in_rounds(recipe, chosen_method(recipe))
    method, budget = in_place_of(recipe, replaced, budget_of(recipe, replaced))
    images = data.load(recipe.data, how=recipe.preprocessing()).augmented(augmentation(recipe))
    if reads_files(recipe):
        published = f", as {recipe.weights} of {recipe.model} expects" if names_weights(recipe) else ""
        console.print(f"images: {image_words(recipe, images)}{published}", highlight=False, markup=False, emoji=False)
    loaders = Loaders(
        images.first(recipe.images),
        batch_size=recipe.batch_size,
        workers=recipe.workers,
        seed=recipe.seed,
        machines=recipe.machines(),
    )
    work = Work(recipe, method, replaced, budget, loaders, folder, console)
    model = work.fresh()
    check_task(recipe, loaders, model, method)
    if recipe.weights and not folder.done("trained"):
        initialise(model, recipe, loaders.splits)
    graph = sct.trace(model, loaders.example(), protect=recipe.protect)
    if budget is not None:
        budget, note = round_widths(graph, budget, method)
        work = replace(work, budget=budget)
        if note:
            console.print(note, highlight=False)
        # A budget that exact costs cannot meet is refused before any training.
        sct.plan(graph, model, criterion=sct.criteria.Magnitude(), budget=budget.exact)
    _try(work, graph, model)
    # Checkpoints hold weights, momentum and the best weights, twice while they are replaced; three models are saved.
    check_space(folder.path, 15 * sum(t.nbytes for t in model.state_dict().values()) + 2**25)
    return work


def _try(work: Work, graph: sct.Graph, model: nn.Module) -> None:
    """Refuse a method that cannot start, or not with this budget."""
    recipe, method, budget = work.recipe, work.method, work.budget
    if recipe.control in ("scratch", "dense"):
        return
    if isinstance(method, TrainingMethod):
        if recipe.recover == "reconstruct":
            raise InputError(
                f"--recover reconstruct fits weights that come from the dense network as it was, and {recipe.method} "
                "trains them meanwhile; leave it out, or choose a method that prunes at once"
            )
        session_of(work, model)
    elif not isinstance(method, Criterion):
        exact = None if budget is None else budget.exact
        data, loss = work.loaders.calibration(1), loss_of(work.loaders.splits)
        method.select(graph, model, exact, data=data, loss=loss, seed=recipe.seed)


def budget_of(recipe: Recipe, method: object) -> sct.Budget | None:
    """Return the recipe's budget; None if the method decides how much is removed."""
    given: dict[str, Any] = {name: getattr(recipe, name) for name in BUDGETS}
    if not recipe.shares and all(value is None for value in given.values()):
        limits = ("min_keep", "min_keep_fraction", "multiple_of")
        limited = [name for name in limits if getattr(recipe, name) != getattr(Recipe, name)]
        shares = getattr(method, "remove", None) is not None  # a method with explicit shares for every layer
        if (isinstance(method, (Criterion, TrainingMethod)) and not shares) or limited:
            raise InputError("no budget is given, so nothing says what should remain; add one, for example --macs 0.5")
        return None
    if recipe.latency is not None and recipe.runtime is None:
        raise InputError(
            "--latency is a time on a runtime, and none is named; add --runtime onnxruntime, or eager, compile, "
            "openvino, executorch, cuda or cuda-compile"
        )
    return sct.Budget(
        **given,
        shares=recipe.shares,
        min_keep=with_classes(recipe.min_keep),
        min_keep_fraction=recipe.min_keep_fraction,
        multiple_of=with_classes(recipe.multiple_of),
        device=None if recipe.runtime is None else sct.Device(recipe.runtime, threads=recipe.threads or 1),
    )


def _check_numbers(recipe: Recipe) -> None:
    _check_counts(recipe)
    if not 0 <= recipe.distil <= 1:
        raise InputError(f"--distil {recipe.distil} is no part of the loss; give a number from 0 to 1")
    for name in BUDGETS:
        if name != "latency" and getattr(recipe, name) == 1:
            raise InputError(
                f"--{name.replace('_', '-')} 1 could mean all of it or a single one, and either way nothing is pruned; "
                "give a fraction below 1, or a whole number above it"
            )
    for part in PARTS:
        optimisation(recipe, part)
    augmentation(recipe)
    check_precision(recipe.precision, recipe.device)
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu")


def _check_counts(recipe: Recipe) -> None:
    least = {
        "batch_size": 1,
        "image_size": 1,
        "calibration_batches": 1,
        "prune_epochs": 1,
        "rounds": 0,
        "workers": 0,
        "threads": 0,
        "seed": 0,
    }
    # A method that prunes while the network trains may do so from the first step on.
    least["train_epochs"] = 0 if recipe.weights or isinstance(chosen_method(recipe), TrainingMethod) else 1
    most = {
        "rounds": 10_000,
        "seed": 2**32 - 1,
        "threads": max(64, 4 * (os.cpu_count() or 1)),
        "workers": 4096,
        "image_size": 2**14,
    }
    for name, bound in least.items():
        flag, value = f"--{name.replace('_', '-')}", getattr(recipe, name)
        if value is None:  # what stands in its place is settled from what there is
            continue
        if value < bound:
            raise InputError(f"{flag} {value} is too few; give a whole number of {bound} or more")
        if value > most.get(name, 2**31):
            raise InputError(f"{flag} {value} is too many; give a whole number of {most.get(name, 2**31)} or less")
