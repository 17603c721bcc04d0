"""Derivatives of parameters beyond the gradient of the loss: squared gradients of each class, and Hessian products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from secateurs.errors import EvidenceError

Named = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Differentiable:
    """A batch of `size` samples to differentiate: leaves by name, the forward, and the loss summed over the samples.

    The model runs in eval mode.
    """

    parameters: Mapping[str, Tensor]
    size: int
    outputs: Callable[[], Any]
    loss: Callable[[Any], Tensor]

    def gradients(self, value: Tensor, *, again: bool = False, graph: bool = False) -> Named:
        """Return d value / d parameter; zero where the value does not depend on it."""
        leaves = list(self.parameters.values())
        found = torch.autograd.grad(value, leaves, retain_graph=again or graph, create_graph=graph, allow_unused=True)
        named = zip(self.parameters.items(), found, strict=True)
        return {name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in named}


class Statistic(Protocol):
    """A statistic of every parameter, updated batch by batch in `passes` passes over the data."""

    passes: ClassVar[int]

    def update(self, batch: Differentiable, turn: int) -> None:
        """Update with a batch in pass `turn`, counted from 0."""
        ...

    def result(self) -> Mapping[str, Tensor]:
        """Return the statistic by the name of the parameter."""
        ...


@dataclass(frozen=True)
class Derivatives:
    """A need: the statistic that `make()` creates is updated with every batch; `evidence[name]` is its result."""

    make: Callable[[], Statistic]


class ClassFisher:
    """F(w) = mean over batches, weighted by their sizes, of Σ_k p_k (d log p_k / dw)²: both are means over the batch.

    p_k is the probability of class k. One backward pass per class and batch.
    """

    passes: ClassVar[int] = 1

    def __init__(self) -> None:
        self._sums: Named = {}
        self._samples = 0

    def update(self, batch: Differentiable, turn: int) -> None:
        """Update with a batch."""
        logits = _logits(batch.outputs())
        log_p = logits.log_softmax(1).mean(0)
        p = logits.detach().softmax(1).mean(0)
        for k in range(len(p)):
            for name, g in batch.gradients(log_p[k], again=k + 1 < len(p)).items():
                square = p[k] * g.square() * batch.size
                self._sums[name] = self._sums[name] + square if name in self._sums else square
        self._samples += batch.size

    def result(self) -> Named:
        """Return the means."""
        return {name: total / self._samples for name, total in self._sums.items()}


@dataclass(eq=False)
class HessianGradient:
    """H g: the product of the Hessian and the gradient of the mean loss at logits / `temperature`. Two passes."""

    temperature: float = 1.0
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self._g: Named = {}
        self._hg: Named = {}
        self._samples = 0

    def update(self, batch: Differentiable, turn: int) -> None:
        """Add a batch to g in the first pass, and to H g in the second."""
        value = batch.loss(_logits(batch.outputs()) / self.temperature)
        found = batch.gradients(value, graph=turn == 1)
        if turn == 0:
            self._samples += batch.size
        else:
            along = torch.stack([(g * self._g[name] / self._samples).sum() for name, g in found.items()]).sum()
            found = batch.gradients(along)
        total = self._hg if turn else self._g
        for name, g in found.items():
            total[name] = total[name] + g.detach() if name in total else g.detach()

    def result(self) -> Named:
        """Return H g of the mean loss."""
        return {name: total / self._samples for name, total in self._hg.items()}


def _logits(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        shown = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        message = (
            f"the model put out {shown}, and derivatives of classes need logits [samples, classes]. "
            "Use another criterion, or wrap the model so that it returns its logits."
        )
        raise EvidenceError(message)
    return outputs
