"""A plan in a JSON file next to weights that another library wrote; it is replayed before these are loaded."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path

from torch import nn

from secateurs.errors import PlanError, StoreError, expect
from secateurs.network import Network
from secateurs.store.files import read_file, write_files
from secateurs.store.save import LARGEST_PLAN
from secateurs.surgery.apply import apply
from secateurs.surgery.plan import Plan
from secateurs.surgery.tensors import differences

PLAN_FILE = "pruning_plan.json"
"""Name of the file, which contains `Plan.to_json()`."""


def check_left(plan: Plan, model: nn.Module) -> None:
    """Refuse a model whose shapes are not those after the plan, since its weights could not be loaded."""
    expect("plan", plan, Plan, "Pass the plan that led to this model: result.plan, or session.plan.")
    if problem := differences(plan.signature_after(), Network.of(model).shapes):
        message = (
            f"this model is not what the plan leaves: {problem}. The plan is replayed on a dense model before its "
            "weights are read. Pass the plan from the dense model to this one, composed (first.then(second)) if there "
            "were several."
        )
        raise StoreError(message)


def write_plan(plan: Plan, directory: str | PathLike[str]) -> Path:
    """Write a plan into a folder atomically, and return the file; other files there are unchanged."""
    folder = Path(directory)
    write_files(folder, {PLAN_FILE: plan.to_json().encode()}, overwrite=True)
    return folder / PLAN_FILE


def read_plan(place: Plan | str | PathLike[str]) -> Plan:
    """Return a plan, or read it from its file or folder.

    Raises DamageError (a StoreError) for a file that is missing or not readable, PlanError for one without a plan.
    """
    if isinstance(place, Plan):
        return place
    expect("plan", place, (str, PathLike), "Pass a Plan, or the path of the file or folder that write_plan wrote.")
    path = Path(place)
    content = read_file(path / PLAN_FILE if path.is_dir() else path, most=LARGEST_PLAN)
    try:
        return Plan.from_json(content.decode())
    except UnicodeDecodeError as cause:
        message = f"{path} holds no plan: it is no text. Pass the {PLAN_FILE} that lies beside the weights."
        raise PlanError(message) from cause


def without_graph(plan: Plan) -> Plan:
    """Return the plan without its graph, to be stored on a model or in a checkpoint."""
    return replace(plan, graph=None)


def replay(plan: Plan, model: nn.Module) -> nn.Module:
    """Prune a dense model to the shapes after a plan, before its weights are loaded; also on meta."""
    return apply(plan, model, proof=False)
