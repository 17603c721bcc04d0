"""Re-estimate the running statistics of batch normalisation after surgery."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from secateurs.errors import EvidenceError, InputError, expect
from secateurs.recover.recovery import Pair
from secateurs.running.batches import Batch, read_batches
from secateurs.running.process import all_or_nothing
from secateurs.running.untouched import device_of, untouched


@all_or_nothing
def recalibrate(model: nn.Module, data: Iterable[Any], *, batches: int | None = None) -> nn.Module:
    """Replace every BatchNorm's running mean and variance by their averages over training images; return the model.

    After pruning, the inputs of norms have another distribution; a few dozen batches re-estimate it, without gradient
    steps. The average is cumulative, μ ← μ + (m_k - μ) / k over batches k = 1 … n (PyTorch's
    `momentum=None`), in a forward where only BatchNorm is in train mode: dropout stays off. Weights, mode, momentum and
    random state are unchanged; if a batch fails, the statistics are restored.

    Raises InputError if there is no batch or a statistic is not finite, EvidenceError if the model fails on a batch.

    data: batches as in a training loop: (images, labels), images alone, or dicts of keyword inputs; use the training
    set with its augmentation. batches: the most batches to read; None reads all.

    >>> norm = nn.BatchNorm1d(1)
    >>> _ = recalibrate(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    >>> norm.running_mean.item(), norm.running_var.item(), norm.momentum
    (4.0, 2.0, 0.1)
    """
    expect("model", model, nn.Module, "Pass the pruned torch.nn.Module.")
    expect("data", data, Iterable, "Pass a DataLoader or a list of batches.")
    expect("batches", batches, (int, type(None)), "Pass a whole number, or None for all of the data.")
    if batches is not None and batches < 1:
        message = f"batches={batches} estimates nothing. Pass 1 or more, or None for all of the data."
        raise InputError(message)
    return _recalibrated(model, read_batches(data, device_of(model), batches))


@dataclass(frozen=True)
class Recalibrate:
    """A step of `recover` that re-estimates BatchNorm's running statistics: `recalibrate` on its images.

    >>> Recalibrate()
    Recalibrate()
    """

    def recover(self, pair: Pair) -> None:
        """Change the running statistics of `pair.small`."""
        _recalibrated(pair.small, pair.batches)
        pair.say("running statistics re-estimated")


def _recalibrated(model: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return model
    seen = False
    with untouched(model), _averaging(norms), torch.no_grad():
        for number, batch in enumerate(batches):
            seen = True
            _forward(model, batch, number)
        if not seen:
            message = (
                "the data gave no batch. Running statistics cannot be estimated from nothing. "
                "Pass a DataLoader or a list of batches; an exhausted generator is empty the second time."
            )
            raise InputError(message)
        _check_finite(model, norms)
    return model


def _forward(model: nn.Module, batch: Batch, number: int) -> None:
    try:
        model(*batch.args, **batch.kwargs)
    except Exception as error:
        message = (
            f"the model did not run on batch {number}: {type(error).__name__}: {error}. The old statistics are back. "
            "Check the structure, shapes and dtypes of the data."
        )
        raise EvidenceError(message) from error


def _check_finite(model: nn.Module, norms: list[_BatchNorm]) -> None:
    """Refuse statistics that are NaN or infinite, by the name of the first norm in execution order."""
    broken = [m for m in norms if not all(bool(torch.isfinite(b).all()) for b in m.buffers())]
    if broken:
        paths = {id(module): path for path, module in model.named_modules()}
        message = (
            f"the running statistics of {paths[id(broken[0])]!r} and of {len(broken) - 1} more became NaN or infinite. "
            "Images, or weights before it, hold such values, and every output would be NaN from now on. "
            "The old statistics are back. Check the images: torch.isfinite(images).all()."
        )
        raise InputError(message)


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Generator[None]:
    """Reset the norms' statistics to average anew; restore them after an error."""
    momenta = [norm.momentum for norm in norms]
    before = [{n: b.clone() for n, b in norm.named_buffers(recurse=False)} for norm in norms]
    try:
        for norm in norms:
            norm.training = True
            norm.momentum = None
            norm.reset_running_stats()
        yield
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in norm.named_buffers(recurse=False):
                buffer.copy_(buffers[name])
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
