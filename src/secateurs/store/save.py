"""Save a pruned model and load it back onto its own class: safetensors for weights, JSON for the plan, no pickle.

A saved model is a directory of two files. `model.safetensors` holds every parameter and buffer once; `plan.json` holds
the plan, with the dense model's tensor names and shapes, and the SHA-256 of the weights. `load` applies the plan to a
newly built dense model, so that the result is an ordinary model of the user's own class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.errors import DamageError, PlanError, StoreError, expect
from secateurs.network import Network
from secateurs.store.descriptions import descriptions, warn_if_other
from secateurs.store.files import pending, read_file, write_files
from secateurs.store.manifest import Manifest, read_manifest
from secateurs.store.weights import from_bytes, layouts, tied, to_bytes
from secateurs.surgery.apply import Swap, refuse_shared_memory, settings_of, write
from secateurs.surgery.layer_check import check_layers
from secateurs.surgery.plan import Plan
from secateurs.surgery.plan_json import MOST_GROWTH
from secateurs.surgery.tensors import differences
from secateurs.surgery.transaction import Transaction

WEIGHTS = "model.safetensors"
PLAN = "plan.json"
LARGEST_PLAN = 2**28
"""Bytes of plan.json; that of 20,000 layers has some 10 MB."""
STATISTICS = ("running_mean", "running_var")


def save(model: nn.Module, plan: Plan, directory: str | PathLike[str], *, overwrite: bool = False) -> Path:
    """Save a pruned model and its plan into a directory; return the directory.

    Every parameter and buffer is stored, in its dtype and memory order, tied ones once. plan: from the dense model to
    this one; after several prunings the composed plan (`first.then(second)`), for a model of unchanged shape (masked,
    unstructured) `Plan.identity`. overwrite: replace files in a directory that is not empty.

    Files are written atomically: after a kill at any moment, the directory has the old model or the new one. Raises
    StoreError if the model does not have the plan's shapes or has NaN or infinite weights, if the directory is not
    empty, or if the disk is full.
    """
    network = Network.of(model)
    expect("plan", plan, Plan, "Pass the plan that led to this model; Plan.identity(graph) if nothing was removed.")
    directory = _path(directory)
    if problem := differences(plan.signature_after(), network.shapes):
        message = (
            f"this model is not what the plan leaves: {problem}. Load replays the plan on a dense model. "
            "Save the pruned model with the plan applied to it, composed (first.then(second)) if there were several."
        )
        raise StoreError(message)
    named = network.named
    weights = to_bytes(named)
    _check_finite(network, named, "cannot be saved")
    manifest = Manifest(
        plan=plan,
        dtypes={name: str(tensor.dtype).removeprefix("torch.") for name, tensor in named.items()},
        aliases=tied(named),
        orders=layouts(named),
        states=_extra_states(network.model),
        sha256=hashlib.sha256(weights).hexdigest(),
        size=len(weights),
        modules=descriptions(network.model),
    )
    files = {PLAN: manifest.to_bytes(), WEIGHTS: weights}
    write_files(directory, files, overwrite=overwrite, named=(WEIGHTS, manifest.sha256))
    return directory


def load(model: nn.Module, directory: str | PathLike[str]) -> nn.Module:
    """Turn a newly built dense model into the one saved in `directory`, in place, and return it.

    Its outputs equal those of the saved model bit for bit. Dtypes are the saved ones; device, mode and `requires_grad`
    are those of the given model. All files are checked, and every tensor is read, before the model is changed.

    Raises StoreError for a model of another class or configuration (naming the tensors that differ) or on the meta
    device, for missing files, and for an unknown format; DamageError, a StoreError, for truncated, changed or wrong
    files, pickles, and NaN or infinite weights. Warns if all shapes match but a module has another class or other
    settings (such as a stride) than when it was saved.

    >>> import tempfile
    >>> from secateurs.graph import trace
    >>> from secateurs.surgery import apply
    >>> def build():
    ...     return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> net = build()
    >>> plan = Plan.from_keep(trace(net, torch.zeros(1, 2)), {"0": [0, 2]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save(apply(plan, net), plan, folder)
    ...     load(build(), folder)[0]
    Linear(in_features=2, out_features=2, bias=True)
    """
    network = Network.of(model)
    directory = _path(directory)
    manifest = _manifest(directory)
    model, plan = network.model, manifest.plan
    if problem := differences(plan.signature, network.shapes):
        pruned = not differences(plan.signature_after(), network.shapes)
        message = (
            f"the model given is not the one that was saved: {problem}. "
            + ("It has the pruned shapes already. " if pruned and plan.tensors else "")
            + "Build the dense model as it was before pruning (same class, same arguments), then load."
        )
        raise StoreError(message)
    _check_values(network)
    _check_states(model, manifest)
    saved = from_bytes(_weights(directory, manifest), manifest.aliases, manifest.orders)
    with torch.inference_mode(mode=False):
        swaps = _swaps(network, manifest, saved)
    _check_finite(network, saved, "are damaged")
    settings = _settings(plan, model)
    with torch.inference_mode(mode=False), torch.no_grad(), Transaction() as transaction:
        write(transaction, model, swaps, settings)
        for path, state in manifest.states.items():
            transaction.restate(model.get_submodule(path), state)
    warn_if_other(model, manifest.modules)
    return model


def load_plan(directory: str | PathLike[str]) -> Plan:
    """Read the plan of the model saved in `directory`, without its weights; raises what `load` raises for its files."""
    return _manifest(_path(directory)).plan


def checked_files(directory: str | PathLike[str]) -> dict[str, bytes]:
    """Read the files of a saved model and check that they belong together; raises what `load` raises for damage."""
    directory = _path(directory)
    plan = read_file(directory / PLAN, most=LARGEST_PLAN)
    return {PLAN: plan, WEIGHTS: _weights(directory, read_manifest(plan))}


def _path(directory: str | PathLike[str]) -> Path:
    expect("directory", directory, (str, PathLike), "Pass the path of the saved model's folder.")
    return Path(directory)


def _manifest(directory: Path) -> Manifest:
    return read_manifest(read_file(directory / PLAN, most=LARGEST_PLAN))


def _weights(directory: Path, manifest: Manifest) -> bytes:
    """Read the weights that the plan names, also if a kill prevented their last rename."""
    waiting = pending(directory, WEIGHTS, manifest.sha256)
    content = read_file(waiting if waiting.is_file() else directory / WEIGHTS, most=manifest.most_bytes())
    manifest.check(content)
    return content


def _settings(plan: Plan, model: nn.Module) -> dict[tuple[str, str], object]:
    """Return the attributes that the plan sets; with a plan that only removes, they may only decrease."""
    modules = dict(model.named_modules(remove_duplicate=False))
    try:
        settings = settings_of(plan, model)
        check_layers(plan, model, settings)
    except PlanError as error:
        message = f"the saved plan does not fit the model given: {error} Nothing was loaded."
        raise DamageError(message) from error
    for (path, name), value in settings.items():
        held = vars(modules[path]).get(name)
        if isinstance(held, int) != isinstance(value, int) and not isinstance(held, (list, tuple, dict, type(None))):
            fact = f"is {held}, and the plan sets it to {value}"
        elif isinstance(held, int) and isinstance(value, int) and value > held * (MOST_GROWTH if plan.copies else 1):
            fact = f"is {held}, and the plan raises it to {value}"
        else:
            continue
        message = f"plan.json is damaged: {name} of {path or 'the model'} {fact}. Nothing was loaded. Save again."
        raise DamageError(message)
    return settings


def _check_values(network: Network) -> None:
    """Refuse a model on the meta device."""
    for name, tensor in network.named.items():
        if tensor.is_meta:
            message = (
                f"{name} of the model given is on the meta device and has no memory for the saved values. "
                "Every parameter and buffer is in the file, so give it some first: "
                "secateurs.load(model.to_empty(device='cpu'), directory)."
            )
            raise StoreError(message)


def _check_states(model: nn.Module, manifest: Manifest) -> None:
    """Refuse extra state of modules that the model does not have, or that take none."""
    modules = dict(model.named_modules())
    for path in manifest.states:
        if path not in modules or type(modules[path]).set_extra_state is nn.Module.set_extra_state:
            message = (
                f"the saved model has extra state for the module {path!r}, and the model given takes none there. "
                "Nothing was loaded. Build the model with the class that it was saved with."
            )
            raise StoreError(message)


def _check_finite(network: Network, values: Mapping[str, Tensor], fact: str) -> None:
    """Refuse NaN or infinite parameters and running statistics; masks of -inf among other buffers are harmless."""
    watched = {n: t for n, t in values.items() if n in network.parameters or n.rpartition(".")[2] in STATISTICS}
    for name, tensor in watched.items():
        whole = tensor.detach() if tensor.element_size() > 1 else tensor.detach().float()  # 8-bit floats have no sum
        if not bool(torch.isfinite(whole.sum())) and not bool(torch.isfinite(whole).all()):
            count = int((~torch.isfinite(whole)).sum())
            message = (
                f"the weights {fact}: {name} holds {count} values of {tensor.numel()} that are NaN or infinite, "
                "and no network computes with them. Take weights from before the training diverged."
            )
            raise DamageError(message)


def _swaps(network: Network, manifest: Manifest, saved: Mapping[str, Tensor]) -> list[Swap]:
    """Pair every tensor of the model with its saved contents, on the model's device."""
    after = manifest.plan.signature_after()
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in saved.items()}
    problem = differences(after, found) or ("types differ" if types != manifest.dtypes else "")
    if problem:
        message = f"plan.json and the weights file do not agree: {problem}. Nothing was loaded. Save the model again."
        raise DamageError(message)
    named = network.named
    refuse_shared_memory(network, named)
    other_names = tied(named)
    for other, name in other_names.items():
        if saved[other] is not saved[name] and not saved[other].equal(saved[name]):
            message = (
                f"{name} and {other} are one tensor in the model given, and were two different ones when saved. "
                "One of them would be lost. Build the model without this tie, then load."
            )
            raise StoreError(message)
    return [Swap(t, saved[name].to(t.device, copy=True), None) for name, t in named.items() if name not in other_names]


def _extra_states(model: nn.Module) -> dict[str, Any]:
    """Return the modules' extra state (`get_extra_state`), if it can be written as JSON."""
    states: dict[str, Any] = {}
    for path, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            state = module.get_extra_state()
            try:
                faithful = json.loads(json.dumps(state)) == state
            except (TypeError, ValueError):
                faithful = False
            if not faithful:
                message = (
                    f"module {path!r} keeps extra state of type {type(state).__name__}, which JSON cannot hold. "
                    "Only a pickle could, and it would run code when read. Return numbers, strings, lists and dicts."
                )
                raise StoreError(message)
            states[path] = state
    return states
