"""The best checkpoint of a pruning run, chosen among pruned ones only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from secateurs.errors import SessionError


class Watched(Protocol):
    """The part of a session that choosing needs."""

    @property
    def ready(self) -> bool:
        """True if the model is the pruned one at this step."""
        ...

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        ...


@dataclass(eq=False)
class Best:
    """Stores the weights with the highest score among steps at which the model is pruned.

    The best validation score of a whole run is often that of the unpruned model of an early epoch; `offer` ignores
    steps before the model is pruned. Call it after each validation, right after the epoch's last step.

    session: a `Session`. score: the highest score so far, None before the first.
    """

    session: Watched
    score: float | None = field(default=None, init=False)
    _weights: dict[str, Any] = field(default_factory=dict[str, Any], init=False)

    def offer(self, score: float) -> bool:
        """Store the weights if the model is pruned and the score is the highest so far; return True if stored."""
        if not self.session.ready or (self.score is not None and score <= self.score):
            return False
        self.score = score
        self._weights = {
            name: value.detach().clone() if isinstance(value, torch.Tensor) else value
            for name, value in self.session.model.state_dict().items()
        }
        return True

    def restore(self) -> float:
        """Load the stored weights, before `finish`, and return their score; SessionError if there are none."""
        if self.score is None:
            raise SessionError(
                "no pruned model was offered. An unpruned one cannot be chosen. Offer scores after epochs at which "
                "session.ready is True, which the last epoch is."
            )
        self.session.model.load_state_dict(self._weights)
        return self.score
