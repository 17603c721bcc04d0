"""Check a plan that has no graph: what it keeps of one layer's tensors has to belong together."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from secateurs.errors import PlanError
from secateurs.surgery.plan import Plan

_ROWS = ("weight", "bias", "running_mean", "running_var")
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_LAYERS = (
    *_CONVS,
    nn.Linear,
    nn.Bilinear,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,  # noqa: SLF001
)


def check_layers(plan: Plan, model: nn.Module, settings: Mapping[tuple[str, str], object]) -> None:
    """Refuse a plan that keeps other outputs in a layer's weight than in its bias or statistics, or splits its groups.

    PlanError names the layer and both tensors. Whether the layers that read a layer lose the same units only the
    graph tells.
    """
    for path, module in model.named_modules():
        if not isinstance(module, _LAYERS):
            continue
        names = [f"{path}.{name}".lstrip(".") for name in _ROWS if getattr(module, name, None) is not None]
        first, *others = [name for name in names if name in plan.signature] or [""]
        if not isinstance(module, _TRANSPOSED):
            for other in others:
                if _rows(plan, first) != _rows(plan, other):
                    _refuse(f"it keeps {len(_rows(plan, first))} entries of {first} and others of {other}")
        if isinstance(module, _CONVS) and first:
            groups = settings.get((path, "groups"), module.groups)
            _check_groups(plan, module, first, groups if isinstance(groups, int) else 0)


def _check_groups(plan: Plan, module: nn.Module, weight: str, groups: int) -> None:
    """Refuse channels that cannot be shared out among the groups of a convolution, and another length of its bias."""
    after = [len(plan.dims(weight).get(dim, range(n))) for dim, n in enumerate(plan.signature[weight])]
    if groups < 1 or after[0] % groups:
        _refuse(f"it leaves {after[0]} channels in dimension 0 of {weight}, in {groups} groups")
    bias = f"{weight.removesuffix('weight')}bias"
    if isinstance(module, _TRANSPOSED) and bias in plan.signature and len(_rows(plan, bias)) != after[1] * groups:
        _refuse(f"it leaves {after[1] * groups} outputs in {weight} and {len(_rows(plan, bias))} in {bias}")


def _rows(plan: Plan, name: str) -> tuple[int, ...]:
    return plan.dims(name).get(0, tuple(range(plan.signature[name][0])))


def _refuse(fact: str) -> None:
    message = (
        f"the plan cannot be applied: {fact}. They belong to one layer, and it could not run. Nothing was changed. "
        "Take an undamaged plan, or make a new one on the graph of this model."
    )
    raise PlanError(message)
