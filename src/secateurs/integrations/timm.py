"""timm: `create_model` with a plan, for checkpoints of pruned models that `CheckpointSaver` wrote.

timm's checkpoints have weights and the model's name; the plan is next to them in `pruning_plan.json` (`write_plan`).
"""

from __future__ import annotations

from os import PathLike
from typing import Any

from torch import nn

from secateurs.errors import InputError
from secateurs.integrations.packages import needed
from secateurs.integrations.plan_file import read_plan, replay, write_plan
from secateurs.surgery.plan import Plan

__all__ = ["create_model", "write_plan"]


def create_model(
    name: str,
    *,
    plan: Plan | str | PathLike[str],
    checkpoint_path: str | PathLike[str] = "",
    use_ema: bool = True,
    **options: Any,
) -> nn.Module:
    """Build timm's model of this name, replay the plan, and read a checkpoint of the pruned model, if there is one.

    plan: a plan, its file, or the folder that `write_plan` wrote it to. checkpoint_path: what timm's `CheckpointSaver`
    wrote (or a file of weights); use_ema takes the averaged weights in it where there are some. options are those of
    `timm.create_model`.

    Raises PlanError where the plan is another model's, InputError for `pretrained=True`: dense weights do not fit.
    """
    timm = needed("timm", extra="timm")
    if options.get("pretrained"):
        message = (
            f"pretrained=True are the dense weights of {name}, and the plan leaves a smaller network. "
            "Give checkpoint_path=, the weights of the pruned one."
        )
        raise InputError(message)
    model = replay(read_plan(plan), timm.create_model(name, **options))
    if checkpoint_path:
        needed("timm.models", extra="timm").load_checkpoint(model, str(checkpoint_path), use_ema=use_ema)
    return model
