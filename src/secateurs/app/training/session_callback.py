"""A Lightning callback that attaches a session when training starts, and finishes it when training ends."""

from collections.abc import Sequence
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from typing_extensions import override

from secateurs.session import Session


@final
class SessionCallback(Callback):
    """`Trainer(callbacks=[SessionCallback(session)])`: module and loop need no other change.

    The model is pruned when `fit` returns; `session.plan` and `session.history` say how. Costs are logged each epoch as
    `prune/macs` and `prune/params`, events as they happen. Checkpoints hold the session's state; resuming from one cuts
    the fresh module to the saved widths before its weights are loaded. `early` finishes a run that was stopped early.
    """

    def __init__(self, session: Session, *, ema: Sequence[nn.Module] = (), early: bool = False) -> None:
        self.session = session
        self._ema = tuple(ema)
        self._early = early
        self._told = 0
        self._restored = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            # Lightning restores the module before its callbacks, and the weights of a smaller network would not fit.
            def before_loading(*_: Any) -> None:
                self._restore(trainer)

            pl_module.register_load_state_dict_pre_hook(before_loading)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.session.attach(*trainer.optimizers, ema=self._ema)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cost = self.session.cost
        pl_module.log_dict({"prune/macs": float(cost.macs), "prune/params": float(cost.params)})
        for event in self.session.history[self._told :]:
            rank_zero_info(str(event))
        self._told = len(self.session.history)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.session.finish(early=self._early)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.session.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._restored:
            self.session.load_state_dict(state_dict)
            self._restored = True

    def _restore(self, trainer: Trainer) -> None:
        if trainer.ckpt_path is None or self._restored:
            return
        saved = torch.load(trainer.ckpt_path, map_location="cpu", weights_only=True)
        state = saved.get("callbacks", {}).get(self.state_key)
        if state is not None:
            self.load_state_dict(state)
