"""Backward elimination: choose units for reconstruction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.allocate import Budget
from secateurs.allocate.exact import Losses, least_loss
from secateurs.allocate.subset import Part
from secateurs.errors import BudgetError, InputError, check_choice
from secateurs.evidence import Activations, Needs, Reads, Weights, observe
from secateurs.graph import Graph, Group
from secateurs.methods.elimination.covariance import Covariance, Moments
from secateurs.methods.elimination.measured import Curves, measured_losses
from secateurs.methods.elimination.order import Array, Indices, eliminate
from secateurs.methods.one_shot import meet_budget, named, part_of
from secateurs.network import Network
from secateurs.running.batches import Batch, read_batches
from secateurs.running.untouched import device_of
from secateurs.types import Keep, Loss, Scope

Widths = Literal["measured", "modelled"]


@dataclass(frozen=True)
class BackwardElimination:
    """Remove one unit after the other: the one that the remaining units, refitted by least squares, replace best.

        cost of unit u = ‖W_u‖² · var(x_u given the units that are left)

    x: the inputs of the layers that read a group; W_u: their weights for unit u, which are refitted after each removal
    (see `eliminate`). A unit that is a linear combination of others costs nothing and is removed first. It is meant for
    `recover=Reconstruct()`, which computes these weights in the real network; labels are not read.

    widths: rule for the units that each group loses. "measured": each group alone is cut to `points` widths, with the
    removed units replaced by their regression on the others, and the change of the network's outputs on `images` images
    is measured, relative to their variance; it is interpolated linearly between widths, and the widths with the least
    total loss are chosen exactly (`least_loss`). "modelled": by the cost above, relative to the output variance of all
    layers that read the group, without further forward passes. damping: added to the diagonal of covariances, relative
    to its mean. scope: "coupled" prunes residual streams too; a group that is not read by modules (attention written in
    functions) stays whole. batches: batches for the covariances; None for all of the data.

    Ours, after the cited formula for single weights; its layer-wise form for whole structures is that of ZipLM (Kurtić,
    Frantar and Alistarh 2023, from memory). A kernel's offsets share one covariance here, that of x at one position.

    Raises InputError for values out of range, BudgetError without a budget, EvidenceError without data.

    >>> net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False))
    >>> net[0].weight.data = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])  # unit 1 is twice unit 0
    >>> net[1].weight.data = torch.ones(2, 3)
    >>> from secateurs.graph import trace
    >>> x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    >>> keep = BackwardElimination().select(trace(net, x), net, Budget(macs=0.7), data=[x])
    >>> keep["0"].tolist()  # one of the dependent two is gone
    [1, 2]
    """

    widths: Widths = "measured"
    _: KW_ONLY
    points: int = 6
    images: int = 64
    damping: float = 1e-4
    scope: Scope = "coupled"
    batches: int | None = None
    reference: ClassVar[str] = (
        "after Hassibi, Stork and Wolff. Optimal Brain Surgeon and General Network Pruning. "
        "IEEE International Conference on Neural Networks, 1993"
    )

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_choice(self, widths=Widths, scope=Scope)
        if self.points < 1 or self.images < 2 or not self.damping > 0:
            message = f"{self} measures nothing. Give points of 1 or more, images of 2 or more and a positive damping."
            raise InputError(message)

    def __repr__(self) -> str:
        """Name the settings that are not the defaults."""
        return named(self)

    @property
    def needs(self) -> Needs:
        """Covariances where the groups are read, and the weights of the readers."""
        return {"moments": Activations(Covariance, at=Reads()), "weights": Weights}

    def select(
        self,
        graph: Graph,
        model: nn.Module,
        budget: Budget | None,
        *,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
    ) -> Keep:
        """Choose by one pass over `data`, and one forward of `images` images for each measured width."""
        if budget is None:
            message = (
                f"{self!r} was given no budget. It orders removals, and does not say where to stop. "
                "Pass one, such as Budget(macs=0.5)."
            )
            raise BudgetError(message)
        losses = self.losses(graph, model, budget, data=data)
        part = Part(graph, tuple(group for group in graph.groups if group.name in losses.orders))
        return meet_budget(part, budget, lambda costed, left: least_loss(costed, left, losses), self)

    def losses(
        self,
        graph: Graph,
        model: nn.Module,
        budget: Budget,
        *,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
    ) -> Losses:
        """Return the loss at every width of the groups in scope that the budget does not exclude."""
        part = part_of(graph, budget, self.scope, at=Reads())
        held = None if data is None else list(islice(data, self.batches))
        evidence = observe(graph, model, self, data=held, groups=part.names)
        tensors = evidence["weights"].tensors
        found = {g.name: self._order(g, evidence["moments"][g.name], tensors) for g in part.groups}
        orders = {name: order for name, (order, _) in found.items()}
        if self.widths == "measured" and held and orders:
            return Losses(orders, self._measured(graph, model, held, evidence["moments"], orders))
        return Losses(orders, {name: np.append(0.0, errors.cumsum()) for name, (_, errors) in found.items()})

    def _order(self, group: Group, moments: Moments, tensors: Mapping[str, Tensor]) -> tuple[Indices, Array]:
        """Return a group's order of removal, and each unit's modelled loss relative to its readers' output variance."""
        covariance, weights = moments.covariance.cpu().numpy(), _products(group, tensors)
        order, errors = eliminate(covariance, weights, self.damping)
        whole = float((weights * covariance).sum())
        return order, errors / whole if whole > 0 else errors

    def _measured(
        self,
        graph: Graph,
        model: nn.Module,
        data: list[Any],
        moments: Mapping[str, Moments],
        orders: Mapping[str, Indices],
    ) -> dict[str, Array]:
        """Return the cumulative measured loss of every group."""
        network = Network.of(model)
        curves = Curves.of(network, _few(data, self.images, device_of(network.model)))
        read = Reads()
        return {
            name: measured_losses(
                curves, read(graph.sites(name)), moments[name], order, points=self.points, damping=self.damping
            )
            for name, order in orders.items()
        }


def _products(group: Group, tensors: Mapping[str, Tensor]) -> Array:
    """Return W'W [units, units], summed over all layers that read the group."""
    total = np.zeros((group.units, group.units))
    for s in group.slices:
        if s.role == "in":
            own = tensors[s.tensor].detach().movedim(s.dim, 0)[torch.as_tensor(s.index)]
            flat = own.reshape(group.units, -1).double()
            total += (flat @ flat.T).cpu().numpy()
    return total


def _few(data: list[Any], images: int, device: torch.device) -> list[Batch]:
    """Return the first `images` images, in their batches."""
    found: list[Batch] = []
    for batch in read_batches(data, device):
        found.append(batch if batch.size <= images else batch.rows(torch.arange(images)))
        images -= found[-1].size
        if not images:
            break
    return found
