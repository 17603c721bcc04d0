"""Statistics for Adaptive Pruning on a few fixed batches: pooled activations, squared gate gradients, loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.errors import EvidenceError
from secateurs.evidence import Activations, GateGradients, Needs, Reads, observe
from secateurs.graph import Group
from secateurs.graph.groups import Site
from secateurs.running.batches import Batch, cross_entropy, read_batch, summed_loss
from secateurs.running.untouched import untouched
from secateurs.session.run import Run
from secateurs.types import Floats, Ints


@dataclass(eq=False)
class Pooled:
    """Activations averaged over positions, kept for all samples: [samples, units]."""

    parts: list[Tensor] = field(default_factory=list[Tensor])

    def update(self, values: Tensor) -> None:
        """Update with [samples, units, positions]."""
        self.parts.append(values.mean(2).double().cpu())

    def result(self) -> Floats:
        """All samples' means."""
        return torch.cat(self.parts).numpy()


@dataclass(eq=False)
class MeanSquare:
    """Mean over samples of squared gate gradients: F_u."""

    total: Tensor | float = 0.0
    samples: int = 0

    def update(self, values: Tensor) -> None:
        """Update with [samples, units]."""
        self.total = self.total + values.double().square().sum(0).cpu()
        self.samples += values.shape[0]

    def result(self) -> Floats:
        """Return the mean over all samples."""
        return (torch.as_tensor(self.total) / max(self.samples, 1)).numpy()


@dataclass(frozen=True)
class FirstRead:
    """Site policy: the input of the first module that reads the group's units."""

    def __call__(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """The first site that reads, of those with an input."""
        return tuple(site for site in sites if site.reads and site.port == "input")[:1]


_NEEDS: Needs = {
    "z": Activations(lambda group, sites: Pooled(), at=FirstRead()),
    "fisher": GateGradients(lambda group, sites: MeanSquare(), at=Reads()),
}


@dataclass(frozen=True, eq=False)
class Seen:
    """One pass: per group z [samples, units] and F [units]; class labels where there are any; the mean loss."""

    z: dict[str, Floats]
    fisher: dict[str, Floats]
    labels: Ints | None
    loss: float


def read_by_modules(run: Run) -> tuple[Group, ...]:
    """Groups that are read by a module, whose input a hook can record."""
    return tuple(g for g in run.groups() if any(s.reads and s.port == "input" for s in run.graph.sites(g.name)))


def fixed_batches(run: Run, count: int) -> list[Any]:
    """Return the first batches of the data, the same after a resume, without advancing the loop's random generators."""
    if run.data is None:
        raise EvidenceError(
            "Adaptive Pruning measures profits on batches of its own, and the session was given no data. "
            "Pass data=, an iterable of (inputs, targets) batches, and loss= unless it is cross entropy."
        )
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        found = list(islice(run.data, count))
    if not found:
        raise EvidenceError("data yielded no batch. Profits are means over samples. Pass a loader that is not empty.")
    return found


def look(run: Run, groups: Sequence[Group], batches: Sequence[Any]) -> Seen:
    """Gather the statistics of profits in one forward and backward pass over the batches; the model is not changed."""
    losses: list[Tensor] = []
    measure = run.loss or cross_entropy

    def heard(outputs: Any, targets: Any) -> Any:
        value = measure(outputs, targets)
        losses.append(value.detach().mean())
        return value

    names = [group.name for group in groups]
    found = observe(run.graph, run.model, _NEEDS, data=batches, loss=heard, groups=names)
    labels = _labels(run, batches)
    loss = float(torch.stack(losses).mean())
    return Seen(dict(found["z"]), dict(found["fisher"]), labels, loss)


@torch.no_grad()
def loss_rises(run: Run, group: Group, units: Sequence[int], batch: Batch) -> Floats:
    """Rise of a batch's loss when each of these units alone is set to zero in all layers that read it."""
    sites = [s for s in run.graph.sites(group.name) if s.reads and s.port == "input"]
    modules = dict(run.model.named_modules(remove_duplicate=False))
    measure = run.loss or cross_entropy
    with untouched(run.model):
        before = _loss(run.model, batch, measure)
        rises: list[float] = []
        for unit in units:
            handles = [modules[s.module].register_forward_pre_hook(_silencer(s, unit)) for s in sites]
            try:
                rises.append(_loss(run.model, batch, measure) - before)
            finally:
                for handle in handles:
                    handle.remove()
    return np.asarray(rises)


def small_batch(run: Run, raw: Any, samples: int) -> Batch:
    """The first few samples of a batch."""
    batch = read_batch(raw, 0, run.device)
    return batch if batch.size <= samples else batch.rows(torch.arange(samples))


def _loss(model: nn.Module, batch: Batch, measure: Any) -> float:
    return summed_loss(model(*batch.args, **batch.kwargs), batch, measure, 0).item() / batch.size


def _silencer(site: Site, unit: int) -> Any:
    index = torch.from_numpy(np.ascontiguousarray(site.index[unit]))

    def silence(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        quiet = args[0].clone()
        quiet.index_fill_(site.dim, index.to(quiet.device), 0.0)
        return (quiet, *args[1:])

    return silence


def _labels(run: Run, batches: Sequence[Any]) -> Ints | None:
    """Class labels of all samples, or None where targets are not one class each."""
    found: list[Tensor] = []
    for number, raw in enumerate(batches):
        targets = read_batch(raw, number, torch.device("cpu")).targets
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
            return None
        found.append(targets)
    return torch.cat(found).numpy().astype(np.int64)
