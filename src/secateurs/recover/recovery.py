"""`recover`, and the interface of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateurs.errors import EvidenceError, InputError, ModelError, PlanError
from secateurs.network import Network
from secateurs.running.batches import Batch, read_batches
from secateurs.running.compare import output_of
from secateurs.running.nested import find_tensors
from secateurs.running.process import all_or_nothing
from secateurs.surgery.apply import check_shapes
from secateurs.surgery.plan import Plan
from secateurs.surgery.tensors import duplicate

LEAST = 8
"""Fewest images: a quarter of them is held out for validation."""

ROWS = 128
"""Images in one forward pass."""


@dataclass(frozen=True, eq=False)
class Pair:
    """The arguments of a recovery step.

    small: the pruned network, which the step changes. dense: the network before pruning, which it reads. plan: the plan
    between them. batches: the images. say: prints one line of progress.
    """

    small: nn.Module
    dense: nn.Module
    plan: Plan
    batches: tuple[Batch, ...]
    say: Callable[[str], None]


@runtime_checkable
class Recovery(Protocol):
    """Interface of a recovery step: a frozen value whose fields are its settings."""

    def recover(self, pair: Pair) -> None:
        """Change the weights of `pair.small` in place."""
        ...


@all_or_nothing
def recover(
    small: nn.Module | Network,
    dense: nn.Module | Network,
    data: Iterable[Any],
    *,
    plan: Plan,
    steps: Recovery | Iterable[Recovery] | None = None,
    images: int = 2048,
    progress: Callable[[str], None] | None = None,
) -> nn.Module:
    """Restore a pruned network's accuracy from unlabelled images; return a new model and leave both networks unchanged.

    small: the pruned network, `apply(plan, copy of dense)`. dense: the network before pruning. plan: the plan between
    them. data: batches as in a training loop (a tensor, (images, labels), a dict of keyword inputs); labels are not
    read. steps: run in order, of Recalibrate(), FoldMeans(), RepairVariance(), Reconstruct(), Distil() or your own;
    Reconstruct() by default. images: the most images used, which are held in memory. progress: called with one line of
    text at a time.

    If the plan keeps every unit, no bit changes; the same arguments give the same result.

    Raises InputError for too few, constant or non-finite images; PlanError if the networks do not belong to the plan or
    their outputs do not match; ModelError for a model that cannot be recovered.

    >>> from secateurs import Budget, prune
    >>> from secateurs.recover import Reconstruct
    >>> seeded = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> images = torch.rand(64, 4)
    >>> cut = prune(net, images[:1], method="l2", budget=Budget(macs=0.5))
    >>> better = recover(cut.model, net, [images], plan=cut.plan, steps=Reconstruct())
    >>> bool((better(images) - net(images)).square().sum() < (cut.model(images) - net(images)).square().sum())
    True
    """
    chosen = read_steps(steps)
    cut, whole = Network.of(small).with_values, Network.of(dense).with_values
    _check_pair(cut, whole, plan)
    batches = _read(data, images, cut.device)
    recovered = duplicate(cut.model)
    if not plan.tensors or not chosen:
        return recovered
    pair = Pair(recovered, whole.model, plan, batches, progress or (lambda line: None))
    _check_outputs(pair)
    for step in chosen:
        step.recover(pair)
    return recovered


def read_steps(steps: Recovery | Iterable[Recovery] | None) -> tuple[Recovery, ...]:
    """Return the steps as a tuple; InputError for objects that are not steps."""
    if steps is None:
        from secateurs.recover.reconstruct import Reconstruct

        return (Reconstruct(),)
    several = steps if isinstance(steps, Iterable) and not isinstance(steps, str) else (steps,)
    found: tuple[Any, ...] = tuple(several)
    for step in found:
        if isinstance(step, type) or not isinstance(step, Recovery):
            message = (
                f"{step!r} is no step of recovery. A step is a value with its settings. "
                "Pass one or several of Recalibrate(), FoldMeans(), RepairVariance(), Reconstruct(), Distil()."
            )
            raise InputError(message)
    return found


def _check_pair(small: Network, dense: Network, plan: Plan) -> None:
    """Refuse networks that do not belong to the plan."""
    if not isinstance(plan, Plan):
        message = (
            f"plan={type(plan).__name__} does not say which channels of the dense network are left. "
            "Pass the plan that the small network was made with, such as result.plan."
        )
        raise InputError(message)
    check_shapes(plan.signature, dense)
    check_shapes(plan.signature_after(), small)
    if small.device != dense.device:
        message = (
            f"the small network is on {small.device} and the dense one on {dense.device}. "
            "Layers are compared with each other. Move one of them."
        )
        raise ModelError(message)


def _read(data: Iterable[Any], images: int, device: torch.device) -> tuple[Batch, ...]:
    """Read at most `images` images, in batches of one forward pass."""
    if images < LEAST:
        message = f"images={images} are too few to learn from and to judge by. Allow {LEAST} or more."
        raise InputError(message)
    found: list[Batch] = []
    count = 0
    for number, batch in enumerate(read_batches(data, device)):
        _check_images(batch, number)
        found.extend(batch.rows(rows) for rows in torch.arange(batch.size)[: images - count].split(ROWS))
        count += batch.size
        if count >= images:
            break
    if count < LEAST:
        message = (
            f"the data gave {count} images, and recovery needs {LEAST} or more (a few hundred do well). Weights are "
            "fitted on three quarters and judged on the rest. Pass more images of the kind that the network was "
            "trained on; an exhausted generator is empty the second time."
        )
        raise InputError(message)
    return tuple(found)


def _check_images(batch: Batch, number: int) -> None:
    """Refuse inputs that are constant or not finite."""
    inputs = [t for t in find_tensors((batch.args, dict(batch.kwargs))) if t.is_floating_point() and t.numel() > 1]
    for tensor in inputs:
        if not bool(torch.isfinite(tensor).all()):
            message = (
                f"batch {number} of the images holds NaN or infinite numbers. Every layer would be fitted to them. "
                "Check the loader and the normalisation."
            )
            raise InputError(message)
    if inputs and all(bool((t == t.flatten()[0]).all()) for t in inputs):
        message = (
            f"batch {number} of the images is constant ({inputs[0].flatten()[0].item():g} everywhere). "
            "Nothing about a network shows on it. Pass images of the kind that it was trained on."
        )
        raise InputError(message)


def _check_outputs(pair: Pair) -> None:
    """Refuse a dense network whose outputs do not have the shapes of the small one's."""
    batch = pair.batches[0].rows(torch.arange(min(2, pair.batches[0].size)))
    shapes: list[list[tuple[int, ...]]] = []
    for name, model in (("small", pair.small), ("dense", pair.dense)):
        try:
            outputs = _outputs(model, batch)
        except Exception as error:
            message = (
                f"the {name} network did not run on the images: {type(error).__name__}: {error}. They are passed on "
                "as the data yields them. Check their shape, type and normalisation."
            )
            raise EvidenceError(message) from error
        shapes.append([tuple(t.shape) for t in outputs])
    if shapes[0] != shapes[1]:
        message = (
            f"the small network puts out {shapes[0]} and the dense one {shapes[1]}. What they put out is compared. "
            "Pass the dense network that the small one was cut from."
        )
        raise PlanError(message)


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    return find_tensors(output_of(model, (batch.args, dict(batch.kwargs))))
