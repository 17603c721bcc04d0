"""Measure the error of the outputs when a group loses units and the layers that read it are refitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.errors import EvidenceError
from secateurs.graph.groups import Site
from secateurs.methods.elimination.covariance import Moments
from secateurs.methods.elimination.order import Array, Indices, express
from secateurs.network import Network
from secateurs.running.batches import Batch
from secateurs.running.compare import output_of
from secateurs.running.hooks import hooked
from secateurs.running.nested import find_tensors
from secateurs.running.replica import Replica
from secateurs.running.untouched import untouched


@dataclass(frozen=True, eq=False)
class Curves:
    """The network, a few images, and the dense outputs on them."""

    model: nn.Module
    batches: Sequence[Batch]
    outputs: Sequence[Sequence[Tensor]]
    spread: float

    @staticmethod
    def of(network: Network, batches: Sequence[Batch]) -> Curves:
        """Run the dense network once."""
        model = Replica(network, around=False).model
        with untouched(model), torch.no_grad():
            outputs = [_floats(model, batch) for batch in batches]
        together = [torch.cat([rows.flatten(1) for rows in part]).double() for part in zip(*outputs, strict=True)]
        spread = sum(float((part - part.mean(0)).square().sum()) for part in together)
        if not spread > 1e-12 * sum(float(part.square().sum()) for part in together):
            message = (
                "the network puts out the same for all images that widths are measured on. No loss shows. "
                "Pass several different images of the kind that it was trained on."
            )
            raise EvidenceError(message)
        return Curves(model, batches, outputs, spread)

    def loss(self, sites: Sequence[Site], moments: Moments, gone: Indices, damping: float) -> float:
        """Return the squared change of outputs over their variance, if units are regressed on the others."""
        mean, covariance = moments.mean.cpu().numpy(), moments.covariance.cpu().numpy()
        slope, shift, kept = express(mean, covariance, gone, damping)
        total = 0.0
        with untouched(self.model), torch.no_grad(), ExitStack() as stack:
            for site in sites:
                change = _replacing(site, (slope, shift), (kept, gone))
                stack.enter_context(hooked(self.model, (site.module, site.port), change))
            for batch, dense in zip(self.batches, self.outputs, strict=True):
                found = _floats(self.model, batch)
                total += sum(float((a - b).double().square().sum()) for a, b in zip(found, dense, strict=True))
        return total / self.spread


def _floats(model: nn.Module, batch: Batch) -> list[Tensor]:
    return [t for t in find_tensors(output_of(model, (batch.args, dict(batch.kwargs)))) if t.is_floating_point()]


def _replacing(site: Site, line: tuple[Array, Array], units: tuple[Indices, Indices]) -> Callable[[Tensor], Tensor]:
    """Return a function that replaces removed units by their regression on the kept ones."""
    kept, gone = (torch.as_tensor(site.index[u]) for u in units)  # [units, entries of each]

    def change(x: Tensor) -> Tensor:
        slope, shift = (torch.as_tensor(part).to(x) for part in line)
        moved = x.movedim(site.dim, 0)
        seen = moved[kept.to(x.device)]  # [kept, entries, ...]
        said = torch.tensordot(slope, seen, dims=1) + shift.view(-1, *[1] * (seen.dim() - 1))
        return moved.index_copy(0, gone.flatten().to(x.device), said.flatten(0, 1)).movedim(0, site.dim)

    return change


def measured_losses(
    curves: Curves, sites: Sequence[Site], moments: Moments, order: Indices, *, points: int, damping: float
) -> Array:
    """Cumulative losses [0, ..., units] of removing the first k units: measured at `points` widths, linear between.

    The last unit has no regression on others; its removal is given the cost of the step before.
    """
    units = len(order)
    at = np.unique(np.round(np.linspace(0, units - 1, min(points, units - 1) + 1)).astype(np.int64))
    found = [0.0, *(curves.loss(sites, moments, order[:k], damping) for k in at[1:])]
    whole = np.interp(np.arange(units), at, np.maximum.accumulate(found))
    last = whole[-1] + (whole[-1] - whole[-2] if units > 1 else 1.0)
    return np.append(whole, last)
