"""Ultralytics YOLO: pruned networks in their trainer, validator, checkpoints and exporter.

Ultralytics is licensed under AGPL-3.0 (or a licence bought from its makers). Nothing of it is copied here: this module
calls it where you have installed it, and what you build with it falls under its terms.

A `YOLO` trains a network that its trainer builds anew from the model's yaml. So the yaml of a pruned network holds the
plan: the trainer that `train()` uses here builds the dense network from it, and replays the plan.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from secateurs.allocate import Budget
from secateurs.errors import InputError, PlanError
from secateurs.integrations.packages import needed
from secateurs.integrations.plan_file import replay
from secateurs.network import Network
from secateurs.prune import prune as prune_network
from secateurs.surgery.plan import Plan
from secateurs.types import Loss

KEY = "secateurs"
"""The entry of a pruned network's yaml: its plan, and the dense network's first layer."""

GUARD = "this network was pruned: open it with secateurs.integrations.ultralytics.load, and train that"
"""Marker in the yaml in place of the first layer, so that no other trainer builds the dense network from it."""


def prune(  # noqa: PLR0913 (the verb of the library, on a YOLO)
    yolo: Any,
    *,
    method: Any = "magnitude",
    budget: Budget,
    imgsz: int = 640,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    protect: Iterable[str] = (),
    seed: int = 0,
    recover: Any = None,
) -> Any:
    """Prune the network of a `YOLO` to a budget; the result is a `YOLO` whose `train()` keeps it pruned.

    yolo: a `YOLO` (or `RTDETR`), or the path of its `.pt` or `.yaml`; it stays untouched. imgsz: the image size that
    costs are counted at. The rest is that of `secateurs.prune`, whose `Result` is `pruned.pruning`.

    `pruned.train()` is their trainer with their arguments; `val`, `predict`, `save` and `export` are theirs too, and
    `best.pt` is a checkpoint as they write it. To train it again, open it with `load`. Classes are those of the
    network: train on your classes first, then prune.

    Raises InputError for objects that are not a YOLO, or one of an exported file; and what `secateurs.prune` raises.
    """
    given = _opened(yolo)
    network = given.model
    twin = _with_gradients(network)
    result = prune_network(
        twin,
        torch.zeros(1, network.yaml.get("channels", 3), imgsz, imgsz, device=Network.of(network).device),
        method=method,
        budget=budget,
        data=data,
        loss=loss,
        protect=protect,
        seed=seed,
        recover=recover,
    )
    small = cast("Any", result.model)
    small.yaml = _yaml_with(network.yaml, result.plan)
    pruned = _keeping(given, small)
    pruned.__dict__["pruning"] = result
    return pruned


def load(path: str | PathLike[str]) -> Any:
    """Open a checkpoint of a pruned network (`best.pt`, `last.pt`, what `save` wrote) as a `YOLO` that trains on.

    Raises InputError for a file that is no checkpoint of a pruned network; opening it runs its pickle, as `YOLO` does.
    """
    given = _opened(path)
    if KEY not in given.model.yaml:
        message = f"{path} holds a dense network: no plan lies in it. Open it with ultralytics.YOLO, or prune it first."
        raise InputError(message)
    return _keeping(given, given.model)


def plan_of(yolo: Any) -> Plan:
    """The plan that led from the dense network to the pruned one in a `YOLO`."""
    return _read(_opened(yolo).model.yaml)


def mark(network: Any, plan: Plan) -> None:
    """Write the plan of a network that was pruned in place into its yaml, as `prune` does."""
    network.yaml = _yaml_with(network.yaml, plan)


def kept(yolo: Any) -> None:
    """Let the `train()` of a `YOLO` keep its network pruned."""
    yolo.__class__ = _keeping_class(type(yolo))


# --- the yaml ---


def _yaml_with(yaml: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The yaml of the pruned network; a network pruned again gets the composed plan."""
    whole = _read(yaml).then(plan) if KEY in yaml else plan
    marked = copy.deepcopy(_dense(yaml))
    first = list(marked["backbone"][0])
    marked[KEY] = {"plan": whole.to_json(), "first": first}
    marked["backbone"][0] = [first[0], first[1], GUARD, first[3]]
    return marked


def _dense(yaml: dict[str, Any]) -> dict[str, Any]:
    """The yaml that the dense network was built from."""
    if KEY not in yaml:
        return yaml
    dense = copy.deepcopy({name: value for name, value in yaml.items() if name != KEY})
    dense["backbone"][0] = list(yaml[KEY]["first"])
    return dense


def _read(yaml: dict[str, Any]) -> Plan:
    if KEY not in yaml:
        message = (
            "the network is dense: its yaml holds no plan. Prune it first (secateurs.integrations.ultralytics.prune)."
        )
        raise InputError(message)
    return Plan.from_json(yaml[KEY]["plan"])


# --- a YOLO that keeps its network ---


def _opened(yolo: Any) -> Any:
    """The `YOLO` that an object or a path means, once it is known to hold a PyTorch network."""
    ultralytics = needed("ultralytics", extra="ultralytics")
    if isinstance(yolo, (str, PathLike)):
        kind = ultralytics.RTDETR if Path(yolo).name.lower().startswith("rtdetr") else ultralytics.YOLO
        yolo = kind(str(yolo))
    if not isinstance(yolo, needed("ultralytics.engine.model", extra="ultralytics").Model):
        message = f"a {type(yolo).__name__} is no YOLO. Pass ultralytics.YOLO(...), or the path of its .pt or .yaml."
        raise InputError(message)
    if not isinstance(yolo.model, nn.Module):
        message = (
            f"this {type(yolo).__name__} holds {str(yolo.model)!r}, an exported file that cannot be cut. "
            "Prune the .pt that it was exported from, then export again."
        )
        raise InputError(message)
    if not isinstance(getattr(yolo.model, "yaml", None), dict):
        message = (
            f"the {type(yolo.model).__name__} in this {type(yolo).__name__} was not built from a yaml, and a trainer "
            "could not build it again. Prune the network itself with secateurs.prune."
        )
        raise InputError(message)
    return yolo


def _with_gradients(network: Any) -> Any:
    """A copy whose weights may learn: a checkpoint has them frozen until a trainer takes it."""
    twin = copy.deepcopy(network).float()
    twin.criterion = None
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.dtype.is_floating_point)
    return twin


def _keeping(given: Any, network: Any) -> Any:
    """A `YOLO` like the one given, with this network in it."""
    kind = _keeping_class(type(given))
    made = object.__new__(kind)
    made.__dict__.update(given.__dict__)
    made.__dict__["_modules"] = {**given.__dict__["_modules"], "model": network}
    made.__dict__["overrides"] = dict(given.overrides)
    made.__dict__["callbacks"] = {event: list(calls) for event, calls in given.callbacks.items()}
    made.__dict__["predictor"] = made.__dict__["trainer"] = None
    # their `train` passes the present network to the trainer if the YOLO has a checkpoint, and else reads the yaml
    made.__dict__["ckpt"] = {"epoch": -1, **(given.ckpt or {})}
    return made


@cache
def _keeping_class(kind: Any) -> Any:
    """The class of YOLO whose `train` uses a trainer that keeps networks pruned."""
    if hasattr(kind, "keeps_pruned"):
        return kind

    def train(self: Any, trainer: Any = None, **arguments: Any) -> Any:
        return kind.train(self, trainer=keeping_trainer(trainer or self._smart_load("trainer")), **arguments)

    return type(kind.__name__, (kind,), {"train": train, "keeps_pruned": True, "__module__": kind.__module__})


@cache
def keeping_trainer(kind: Any) -> Any:
    """A trainer of Ultralytics (its class) that builds the pruned network where a yaml holds a plan."""

    def get_model(self: Any, cfg: Any = None, weights: Any = None, verbose: Any = True) -> Any:  # noqa: FBT002
        yaml = cfg if isinstance(cfg, dict) else getattr(weights, "yaml", None)
        if not isinstance(yaml, dict) or KEY not in yaml:
            return kind.get_model(self, cfg=cfg, weights=weights, verbose=verbose)
        return _rebuilt(self, kind, cast("dict[str, Any]", yaml), weights, verbose=verbose)

    return type(f"Keeping{kind.__name__}", (kind,), {"get_model": get_model, "__module__": __name__})


def _rebuilt(trainer: Any, kind: Any, yaml: dict[str, Any], weights: Any, *, verbose: bool) -> Any:
    """The dense network of the yaml as the trainer builds it, cut by the plan, with the weights given."""
    dense = _dense(yaml)
    before = dense.get("nc")
    network = kind.get_model(trainer, cfg=dense, weights=None, verbose=verbose)
    try:
        replay(_read(yaml), network)
    except PlanError as cause:
        now = network.yaml.get("nc")
        told = f"the network has {before} classes and the data {now}" if now != before else str(cause)
        message = (
            f"the pruned network does not fit this data: {told}. Its widths were chosen for the classes that it has. "
            "Train the dense network on this data first, prune that, then train on."
        )
        raise PlanError(message) from cause
    network.yaml = {**yaml, "nc": network.yaml.get("nc"), "channels": network.yaml.get("channels", 3)}
    if weights is not None:
        network.load_state_dict(weights.float().state_dict())
    return network
