"""Read the batches of a data loader: inputs, targets, size and loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from secateurs.errors import EvidenceError, expect
from secateurs.types import Loss

LABELS = ("labels", "label", "targets", "target")

ENDLESS = 10_000
"""Number of batches after which data without a length causes a warning that it may be endless."""

IGNORED = -100
"""The class that PyTorch's cross entropy skips."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: `model(*args, **kwargs)` against `targets` (None where the data has none)."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: Any
    size: int

    def rows(self, rows: Tensor) -> Batch:
        """Return the batch of these samples: every tensor that has one row a sample is indexed."""

        def pick(leaf: Any) -> Any:
            batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == self.size
            return leaf[rows.to(leaf.device)] if batched else leaf

        args, kwargs, targets = pytree.tree_map(pick, (self.args, dict(self.kwargs), self.targets))
        return Batch(args, kwargs, targets, len(rows))

    def singles(self) -> Iterator[Batch]:
        """Yield the samples one by one."""
        return (self.rows(torch.tensor([row])) for row in range(self.size))


def read_batches(data: Any, device: torch.device, batches: int | None = None) -> Iterator[Batch]:
    """Yield the batches of a data loader on a device: all of them, or the first `batches`.

    Raises InputError for data that cannot be iterated over. Warns once if data without a length has yielded 10,000
    batches, since an endless iterable would never finish.
    """
    expect("data", data, Iterable, "Pass a DataLoader or a list of batches.")
    for number, raw in enumerate(islice(data, batches)):
        if number == ENDLESS and batches is None and not isinstance(data, Sized):
            warnings.warn(
                f"data has no length and has yielded {ENDLESS:,} batches so far. If it is endless, this never ends. "
                "Pass a part of it: itertools.islice(data, 100).",
                stacklevel=2,
            )
        yield read_batch(raw, number, device)


def read_batch(raw: Any, number: int, device: torch.device) -> Batch:
    """Read (x, y), x alone, or a mapping of keyword inputs; x may be a tensor, a sequence of arguments or a mapping.

    In a mapping, the entry named `labels`, `label`, `targets` or `target` holds the targets.

    >>> batch = read_batch((torch.zeros(4, 3), torch.zeros(4)), 0, torch.device("cpu"))
    >>> len(batch.args), batch.size
    (1, 4)
    """
    moved = pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, raw)
    args, kwargs, targets = _split(moved, number)
    leaves: list[Any] = [*pytree.tree_leaves(targets), *pytree.tree_leaves((args, kwargs))]
    sizes = [int(leaf.shape[0]) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 0]
    if not sizes or sizes[0] == 0:
        msg = f"batch {number} holds no sample: {_shape(raw)}. Evidence is averaged over samples. {_REMEDY}"
        raise EvidenceError(msg)
    return Batch(args, kwargs, targets, sizes[0])


_REMEDY = "Yield (inputs, targets) with one row a sample, or a dict of keyword inputs with an entry 'labels'."


def _split(raw: Any, number: int) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Separate inputs from targets."""
    if isinstance(raw, Mapping):
        named = {str(key): value for key, value in cast("Mapping[Any, Any]", raw).items()}
        labels = [key for key in LABELS if key in named]
        if len(labels) > 1:
            msg = f"batch {number} has several entries that could be the targets: {', '.join(labels)}. {_REMEDY}"
            raise EvidenceError(msg)
        return (), named, named.pop(labels[0]) if labels else None
    parts = (raw,) if isinstance(raw, Tensor) else raw
    if not isinstance(parts, tuple | list) or not 1 <= len(cast("tuple[Any, ...]", parts)) <= 2:
        msg = f"batch {number} is {_shape(raw)}, which does not say what is input and what is target. {_REMEDY}"
        raise EvidenceError(msg)
    inputs, targets = (*parts, None)[:2]
    if isinstance(inputs, Mapping):
        return (), {str(key): value for key, value in cast("Mapping[Any, Any]", inputs).items()}, targets
    if isinstance(inputs, tuple | list):
        return tuple(cast("tuple[Any, ...]", inputs)), {}, targets
    return (inputs,), {}, targets


def _shape(raw: Any) -> str:
    """Describe a batch briefly, for messages."""
    if isinstance(raw, Tensor):
        return f"a tensor of shape {tuple(raw.shape)}"
    if isinstance(raw, Mapping):
        return f"a mapping of {', '.join(map(str, cast('Mapping[Any, Any]', raw)))}"
    if isinstance(raw, tuple | list):
        entries = cast("tuple[Any, ...]", raw)
        return f"a {type(entries).__name__} of {len(entries)}"
    return f"a {type(raw).__name__}"


def cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """Mean cross entropy of `outputs` (a tensor, or an object with `.logits`) against class targets.

    >>> cross_entropy(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 1])).item()
    0.6931471824645996
    """
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
        msg = (
            f"the default loss, cross entropy, compares a tensor with a tensor; the model returned "
            f"{type(outputs).__name__} and the targets are {type(targets).__name__}. "
            "Pass loss=a function of (outputs, targets)."
        )
        raise EvidenceError(msg)
    if targets.dtype in (torch.int64, torch.uint8) and targets.numel() and logits.dim() > 0:
        _check_classes(targets, logits.shape[min(1, logits.dim() - 1)])
    return F.cross_entropy(logits, targets)


def _check_classes(targets: Tensor, classes: int) -> None:
    """Refuse labels outside the model's classes; on a GPU they would abort the process instead of raising an error."""
    wrong = targets[((targets < 0) | (targets >= classes)) & (targets != IGNORED)]
    if wrong.numel():
        msg = (
            f"label {wrong[0].item()} is no class: the model tells {classes} classes apart, 0 to {classes - 1}. "
            "Check the labels, or the width of the model's last layer."
        )
        raise EvidenceError(msg)


def check_loss(loss: Loss | None) -> Loss | None:
    """Return the loss; raise InputError if it is not callable."""
    if loss is not None and not callable(loss):
        expect("loss", loss, (), "Pass a function of (outputs, targets), or None for cross entropy.")
    return loss


def summed_loss(outputs: Any, batch: Batch, loss: Loss, number: int) -> Tensor:
    """Sum the losses of the samples: a scalar is taken as their mean (PyTorch's default), a vector as one for each.

    Raises EvidenceError, naming the batch, if the loss fails, has another shape, or is not finite.
    """
    wanted = batch.targets if batch.targets is not None or not batch.kwargs else batch.kwargs
    try:
        value = loss(outputs, wanted)
    except Exception as error:
        msg = (
            f"the loss of batch {number} cannot be computed: {type(error).__name__}: {error} "
            "Check that the targets fit the model's outputs, or pass loss=a function of (outputs, targets)."
        )
        raise EvidenceError(msg) from error
    if not isinstance(value, Tensor) or (value.dim() > 0 and value.shape != (batch.size,)):
        got = _shape(value)
        msg = (
            f"the loss of batch {number} is {got}. Gradients need one number, or one a sample ({batch.size}). "
            "Reduce the loss to its mean over samples."
        )
        raise EvidenceError(msg)
    total = value.sum() if value.dim() else value * batch.size
    if not torch.isfinite(total):
        msg = (
            f"the loss of batch {number} is {total.item()}. Its gradients would make every score meaningless. "
            "Check the inputs of that batch and the weights of the model."
        )
        raise EvidenceError(msg)
    return total
