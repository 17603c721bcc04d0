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
    """Keeps the weights with the highest score among steps at which the model is pruned.

    Choosing the best validation score of the whole run would pick the unpruned model of an early epoch. `offer`
    refuses such a step, so call it where the loop validates, right after the epoch's last step.
    """

    session: Watched
    score: float | None = field(default=None, init=False)
    _weights: dict[str, Any] = field(default_factory=dict[str, Any], init=False)

    def offer(self, score: float) -> bool:
        """Keep the present weights if the model is pruned and the score is the highest so far."""
        if not self.session.ready or (self.score is not None and score <= self.score):
            return False
        self.score = score
        self._weights = {
            name: value.detach().clone() if isinstance(value, torch.Tensor) else value
            for name, value in self.session.model.state_dict().items()
        }
        return True

    def restore(self) -> float:
        """Put the kept weights back, before `finish`, and return their score."""
        if self.score is None:
            raise SessionError(
                "no pruned model was offered. An unpruned one cannot be chosen. Offer scores after epochs at which "
                "session.ready is True, which the last epoch is."
            )
        self.session.model.load_state_dict(self._weights)
        return self.score
