"""`secateurs prune`: check everything, then work; and `secateurs demo`, the same on a recipe of its own."""

from dataclasses import fields, replace
from pathlib import Path

import torch
from rich.console import Console

import secateurs as sct
from secateurs.app import data, models
from secateurs.app.cli.arguments import Invocation, chosen_method, compose, read_file
from secateurs.app.cli.measure import measure
from secateurs.app.cli.method_file import absolute
from secateurs.app.cli.pretrained import load_weights
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.run_folder import RunFolder, check_folder, check_space, held
from secateurs.app.cli.stages import Work, cut, recover, session_of, train
from secateurs.app.report import table
from secateurs.app.training import Loaders
from secateurs.criteria import Criterion
from secateurs.errors import InputError
from secateurs.session import TrainingMethod


def prune(invocation: Invocation, console: Console) -> None:
    """Do a run, or the rest of it, and print its table."""
    folder = check_folder(invocation.out, resume=invocation.resume)
    recipe = settled(invocation, folder)
    before = torch.get_num_threads()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    try:
        work = prepare(recipe, folder, console)
        with held(folder):
            folder.put_recipe(recipe)
            dense = train(work)
            recovered = recover(work, cut(work, dense), dense)
            report = measure(work, dense, recovered)
    finally:
        torch.set_num_threads(before)
    console.print(table(report))
    console.print(f"[bold]{folder.path}[/] holds the model, its plan and recipe, report.json and report.png.")


def settled(invocation: Invocation, folder: RunFolder) -> Recipe:
    """The recipe to follow: that of the run to resume, which the flags must not contradict, or else the one given."""
    asked = resolved(invocation.recipe)
    stored = folder.recipe()
    if stored is None:
        return asked
    recipe = compose(Recipe(), read_file(stored))
    for f in fields(Recipe):
        if f.name in invocation.given and getattr(asked, f.name) != getattr(recipe, f.name):
            stands, wanted = getattr(recipe, f.name), getattr(asked, f.name)
            raise InputError(
                f"the run in {folder.path} has {f.name} {stands}, and {wanted} was asked for; "
                "resume it as it is, or choose another --out"
            )
    return recipe


def resolved(recipe: Recipe) -> Recipe:
    """The same recipe with its paths made absolute, so that it can be run from anywhere."""
    kind, colon, root = recipe.data.partition(":")
    weights = recipe.weights.expanduser().absolute() if recipe.weights else None
    name = f"{kind}:{Path(root).expanduser().absolute()}" if colon and root else recipe.data
    file, colon, function = recipe.model.rpartition(":")
    model = f"{Path(file).expanduser().absolute()}:{function}" if colon and file.endswith(".py") else recipe.model
    return replace(recipe, weights=weights, data=name, model=model, method=absolute(recipe.method))


def prepare(recipe: Recipe, folder: RunFolder, console: Console) -> Work:
    """Refuse whatever cannot work, before any work."""
    models.check_name(recipe.model)
    data.check_name(recipe.data)
    method = chosen_method(recipe)
    budget = budget_of(recipe, method)
    _check_numbers(recipe)
    loaders = Loaders(
        data.load(recipe.data, image_size=recipe.image_size),
        batch_size=recipe.batch_size,
        workers=recipe.workers,
        seed=recipe.seed,
    )
    work = Work(recipe, method, budget, loaders, folder, console)
    model = work.fresh()
    if recipe.weights:
        load_weights(model, recipe.weights)
    graph = sct.trace(model, loaders.example(), protect=recipe.protect)
    # What cannot be reached, by this budget or this method, is said before anything is trained.
    if budget is not None:
        sct.plan(graph, model, sct.criteria.Magnitude(), budget)
    if isinstance(method, TrainingMethod):
        if recipe.recover == "reconstruct":
            raise InputError(
                f"--recover reconstruct fits weights that come from the dense network as it was, and {recipe.method} "
                "trains them meanwhile; leave it out, or choose a method that prunes at once"
            )
        session_of(work, model)
    elif not isinstance(method, Criterion):
        method.select(graph, model, budget, data=loaders.calibration(1), loss=None, seed=recipe.seed)
    # Checkpoints hold weights, momentum and the best weights, twice while they are replaced; three models are saved.
    check_space(folder.path, 15 * sum(t.nbytes for t in model.state_dict().values()) + 2**25)
    return work


def budget_of(recipe: Recipe, method: object) -> sct.Budget | None:
    """The budget that a recipe asks for; none where the method of a paper decides how much goes."""
    if recipe.macs is None and recipe.params is None and recipe.memory is None:
        limits = ("min_keep", "min_keep_fraction", "multiple_of")
        limited = [name for name in limits if getattr(recipe, name) != getattr(Recipe, name)]
        if isinstance(method, (Criterion, TrainingMethod)) or limited:
            raise InputError("no budget is given, so nothing says what should remain; add one, for example --macs 0.5")
        return None
    return sct.Budget(
        macs=recipe.macs,
        params=recipe.params,
        memory=recipe.memory,
        min_keep=recipe.min_keep,
        min_keep_fraction=recipe.min_keep_fraction,
        multiple_of=recipe.multiple_of,
    )


def _check_numbers(recipe: Recipe) -> None:
    least = {
        "batch_size": 1,
        "image_size": 1,
        "calibration_batches": 1,
        "prune_epochs": 1,
        "workers": 0,
        "threads": 0,
        "seed": 0,
    }
    least["train_epochs"] = 0 if recipe.weights else 1
    for name, bound in least.items():
        if getattr(recipe, name) < bound:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} {getattr(recipe, name)} is too few; give a whole number of {bound} or more")
    if not 0 <= recipe.distil <= 1:
        raise InputError(f"--distil {recipe.distil} is no part of the loss; give a number from 0 to 1")
    recipe.optimisation(recipe.train_epochs, recipe.train_lr)
    recipe.optimisation(recipe.epochs, recipe.lr)
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu")
