"""Set the removed units of a plan to zero in a copy of the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateurs.network import Network
from secateurs.running.caches import stored_tensors
from secateurs.running.process import all_or_nothing
from secateurs.surgery.apply import check_signature
from secateurs.surgery.plan import Plan
from secateurs.surgery.tensors import duplicate


@all_or_nothing
def mask(plan: Plan, model: nn.Module | Network) -> nn.Module:
    """Return a copy of a model with all removed units set to zero: filters, biases, norm parameters and statistics.

    The copy has the shapes of the model, and computes what the pruned model computes wherever removal is exact. The
    direction v of a weight norm stays, since it is divided by its norm; its scale is zeroed instead. If a plan inserts
    units, a unit and its copies are one unit here, with the sum of their shares.

    Raises PlanError if the plan was made for another network.

    >>> import torch
    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> plan = Plan.from_keep(trace(net, torch.ones(1, 2)), {"0": [0, 2]})
    >>> mask(plan, net)[0].weight[1].tolist()
    [0.0, 0.0]
    """
    network = Network.of(model)
    check_signature(plan, network)
    copy = duplicate(network.model)
    silence(plan, copy)
    return copy


def silence(plan: Plan, model: nn.Module) -> None:
    """Zero the removed entries of every tensor of a model, in place."""
    network = Network.of(model)
    for store, key in stored_tensors(network) if plan.graph is not None and plan.graph.refills else ():
        del store[key]
    with torch.no_grad():
        for name, tensor in network.named.items():
            loud = plan.directions.get(plan.aliases.get(name, name), ())
            for dim, kept in plan.dims(name).items():
                if dim not in loud:
                    tensor.index_fill_(dim, _removed(tensor, dim, kept), 0)
            for dim, shares in plan.shares.get(plan.aliases.get(name, name), {}).items():
                tensor.mul_(_whole(shares, tensor, dim, plan.dims(name)[dim]))


def _whole(shares: tuple[float, ...], tensor: Tensor, dim: int, kept: tuple[int, ...]) -> Tensor:
    """Return, for each entry, the sum of the kept shares of it and its copies."""
    total = torch.zeros(tensor.shape[dim], dtype=torch.float64)
    total.index_add_(0, torch.tensor(kept), torch.tensor(shares, dtype=torch.float64))
    return total.to(tensor).view([-1 if d == dim else 1 for d in range(tensor.dim())])


def _removed(tensor: Tensor, dim: int, kept: tuple[int, ...]) -> Tensor:
    gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
    gone[list(kept)] = False
    return gone.nonzero().squeeze(1).to(tensor.device)
