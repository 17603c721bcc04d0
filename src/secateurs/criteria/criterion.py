"""The criterion interface, and a function that scores all groups with one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from secateurs.errors import EvidenceError, InputError
from secateurs.evidence.kinds import Evidence, Needs
from secateurs.graph.groups import Group


@runtime_checkable
class Criterion(Protocol):
    """Score the units of a group from its evidence: float64 of shape [units], larger is more important.

    A criterion is a frozen dataclass whose fields are its settings. It receives slices and tensors by name, never a
    module, so that one implementation serves every kind of layer. `needs` maps names of its own choice to evidence,
    which it reads as `evidence[name]`. If it is requested by name, a field called `seed` is set to the run's seed.
    """

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        ...

    def __call__(self, group: Group, evidence: Evidence, /) -> Tensor:
        """Return the importance of every unit of a group."""
        ...


def score(criterion: Criterion, groups: Iterable[Group], evidence: Evidence) -> dict[str, Tensor]:
    """Score every group: group name -> importance [units], float64.

    groups: those of a graph. evidence: what `observe` returned. Raises EvidenceError that names all groups which the
    criterion cannot score, and InputError for scores that are not one float64 a unit.
    """
    scores: dict[str, Tensor] = {}
    refused: dict[str, EvidenceError] = {}
    for group in groups:
        try:
            scores[group.name] = _checked(criterion(group, evidence), criterion, group)
        except EvidenceError as error:
            refused[group.name] = error
    if len(refused) > 1:
        names = ", ".join(refused)
        msg = f"{next(iter(refused.values()))} The same holds for {len(refused)} groups: {names}."
        raise EvidenceError(msg)
    if refused:
        raise next(iter(refused.values()))
    return scores


def _checked(scores: Tensor, criterion: Criterion, group: Group) -> Tensor:
    """Refuse scores that are not one float64 a unit."""
    if scores.shape != (group.units,) or scores.dtype != torch.float64:
        msg = (
            f"{criterion!r} gave {scores.dtype} of shape {tuple(scores.shape)} for group {group.name!r} of "
            f"{group.units} units. A criterion returns float64 of shape [units]."
        )
        raise InputError(msg)
    return scores
