"""A `Session` inside the trainer of Ultralytics, by its callbacks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from secateurs.allocate import Budget
from secateurs.errors import InputError
from secateurs.graph import Graph
from secateurs.integrations.ultralytics import kept, mark
from secateurs.session import Session, TrainingMethod


@dataclass(eq=False)
class Pruning:
    """Prunes a `YOLO` while it trains: `Pruning("sfp", Budget(macs=0.5)).attach(yolo)`, then `yolo.train(...)`.

    The session begins with the first epoch and follows the optimizer and the averaged weights. The last cut is made at
    the end of the last epoch at the latest, before its validation: `best.pt` is chosen among pruned networks only, and
    patience counts from then on. options are further arguments of `Session`; imgsz is the size that costs are counted
    at, the training's own where it is None. early: finish a run that was stopped early.

    Ultralytics accumulates gradients over fewer batches during warm-up: the schedule is laid out over as many steps as
    a run has without warm-up, so that it never ends after the run. A run limited by `time=` has no known length and is
    refused, and so is one with fewer steps than epochs.
    """

    method: TrainingMethod | str
    budget: Budget | None = None
    imgsz: int | None = None
    early: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    session: Session | None = field(init=False, default=None)
    _seen: Graph | None = field(init=False, default=None)
    _patience: float = field(init=False, default=math.inf)
    _was_ready: bool = field(init=False, default=False)

    def attach(self, yolo: Any) -> Pruning:
        """Register with the callbacks of a `YOLO`, whose `train()` keeps the network pruned from then on."""
        kept(yolo)
        yolo.add_callback("on_train_start", self._start)
        yolo.add_callback("on_train_batch_end", self._follow)
        yolo.add_callback("on_train_epoch_end", self._epoch_end)
        return self

    def _start(self, trainer: Any) -> None:
        if trainer.args.time:
            raise InputError(
                f"time={trainer.args.time} ends the training after hours, so its length in steps is not known and no "
                "schedule can be laid out. Give epochs= instead."
            )
        network = trainer.model
        size = self.imgsz or int(trainer.args.imgsz)
        channels = _unwrapped(network).yaml.get("channels", 3)
        steps = len(trainer.train_loader) * trainer.epochs // max(1, trainer.accumulate)
        if steps < trainer.epochs:
            raise InputError(
                f"the run has {steps} optimizer steps in {trainer.epochs} epochs: gradients of {trainer.accumulate} "
                "batches make one step. A session needs a step an epoch. Pass nbs= (their nominal batch size) as small "
                "as batch=, or train on more images."
            )
        self.session = Session(
            network,
            torch.zeros(1, channels, size, size, device=trainer.device),
            method=self.method,
            budget=self.budget,
            steps_per_epoch=max(1, steps // trainer.epochs),
            epochs=trainer.epochs,
            **self.options,
        )
        self.session.attach(trainer.optimizer, ema=() if trainer.ema is None else trainer.ema.ema)
        self._seen = self.session.graph
        self._patience, trainer.stopper.patience = trainer.stopper.patience, math.inf

    def _follow(self, trainer: Any) -> None:
        """After tensors were cut, take the tensors of the averaged (EMA) model from the pruned one again."""
        if self.session is None or self._seen is self.session.graph:
            return
        self._seen = self.session.graph
        if getattr(trainer.ema, "_pairs", None) is not None:
            trainer.ema._pairs = None  # noqa: SLF001 (their cache holds the tensors of before the cut)

    def _epoch_end(self, trainer: Any) -> None:
        session = self.session
        if session is None or session.finished:
            return
        if trainer.epoch + 1 >= trainer.epochs or trainer.stop:
            self._finish(session, trainer)
        elif session.ready and not self._was_ready:
            self._was_ready = True
            self._forget(trainer)

    def _finish(self, session: Session, trainer: Any) -> None:
        before = {name: value.shape for name, value in session.model.state_dict().items()}
        network = session.finish(early=self.early)
        self._follow(trainer)
        mark(network, session.plan)
        cut = before != {name: value.shape for name, value in network.state_dict().items()}
        if cut or not self._was_ready:
            self._forget(trainer)
        trainer.stopper.patience = self._patience

    def _forget(self, trainer: Any) -> None:
        """Forget the best fitness, which larger networks had: only the pruned network competes from here on."""
        trainer.best_fitness = None
        trainer.stopper.best_fitness, trainer.stopper.best_epoch = 0.0, trainer.epoch + 1


def _unwrapped(network: Any) -> Any:
    return getattr(network, "module", network)
