"""Re-initialise weights at the pruned widths, for the ablations of EPruner's paper."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from secateurs.errors import ModelError, PlanError
from secateurs.surgery.plan import Plan


def reset_norms(pruned: nn.Module, plan: Plan) -> None:
    """Reset every BatchNorm that lost units: scale 1, shift 0, mean 0, variance 1."""
    for name, module in pruned.named_modules():
        if isinstance(module, _BatchNorm) and any(
            plan.dims(f"{name}.{entry}") for entry, _ in (*module.named_parameters(), *module.named_buffers())
        ):
            module.reset_parameters()


def restart(pruned: nn.Module, seed: int) -> None:
    """Draw all weights anew, by each module's own initialisation; the global generators are not advanced."""
    drawn: set[int] = set()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in pruned.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                drawn |= {id(p) for p in module.parameters()}
    missing = [name for name, p in pruned.named_parameters() if id(p) not in drawn]
    if missing:
        message = (
            f"{', '.join(missing[:5])} belongs to a module without reset_parameters(). No rule draws it anew. "
            "Write that method, or build the model afresh and apply the plan to it."
        )
        raise ModelError(message)


def project_consumers(pruned: nn.Module, dense: nn.Module, plan: Plan, seed: int) -> None:
    """Replace the weights that read pruned units by a sparse random projection of the dense ones.

    A consumer's dense weight, rows kept as planned, is a matrix of I·k·k columns; K·k·k columns remain, K the kept
    units. Its projection has entries ± sqrt(D) / sqrt(K·k·k) with probability 1 / 2D each, D = sqrt(I·k·k), else 0 (Li,
    Hastie and Church 2006, as in scikit-learn's SparseRandomProjection, which the published code calls).
    """
    if plan.graph is None:
        message = "the plan was read from a file. It does not say what reads what. Pass the plan that chose the units."
        raise PlanError(message)
    readers = {(s.tensor, s.dim) for group in plan.graph.groups for s in group.slices if s.role == "in"}
    before, after = dict(dense.named_parameters()), dict(pruned.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, dim in sorted(readers):
            kept = plan.dims(name)
            if dim not in kept or name not in before:
                continue
            weight = before[name].detach()
            for other, index in kept.items():
                if other != dim:
                    weight = weight.index_select(other, torch.tensor(index, device=weight.device))
            after[name].copy_(_projected(weight, dim, len(kept[dim]), generator))


def _projected(weight: Tensor, dim: int, kept: int, generator: torch.Generator) -> Tensor:
    """Project the columns of a weight, dimension `dim` and all behind the first, to `kept` of that dimension."""
    front = weight.movedim(dim, 1)
    rest = math.prod(front.shape[2:])
    features, parts = front.shape[1] * rest, kept * rest
    density = 1 / math.sqrt(features)
    draw = torch.rand(features, parts, generator=generator, dtype=torch.float64)
    signs = (draw < density / 2).double() - (draw > 1 - density / 2).double()
    projection = (signs / math.sqrt(density * parts)).to(weight)
    return (front.flatten(1) @ projection).view(front.shape[0], kept, *front.shape[2:]).movedim(1, dim)
