"""Which option a rule takes where it has several: collecting decides, the trial moves on, checking repeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from secateurs.graph.labels import Labels

    Moment = tuple[int, int, str]
    """Recording, operator and kind of choice."""


@dataclass
class Choice:
    """A place in the source where a rule had a choice: its options, what it took, the labels it decides about."""

    options: int
    labels: list[Labels] = field(default_factory=list)
    at: list[tuple[int, int]] = field(default_factory=list)
    taken: list[Any] = field(default_factory=list)


class Choices:
    """Takes options, and remembers where."""

    def __init__(
        self,
        numbers: Mapping[Any, int] | None = None,
        *,
        before: Mapping[Any, Choice] | None = None,
        picked: dict[Moment, Any] | None = None,
    ) -> None:
        """`numbers`: place -> which option to take, the first by default.

        `before`: what another pass took at each place, to be taken here where it is an option; `picked`: what it took
        at every moment, to be taken again.
        """
        self.numbers = numbers or {}
        self.before = before or {}
        self.given = picked is not None
        self.picked: dict[Moment, Any] = picked if picked is not None else {}
        self.sites: dict[Any, Choice] = {}

    def take(self, moment: Moment, place: Any, labels: Any, options: list[Any]) -> Any:
        """The option for this moment at this place of the source."""
        if self.given:
            return self.picked[moment]
        site = self.sites.setdefault(place, Choice(len(options)))
        site.options = max(site.options, len(options))
        site.at.append(moment[:2])
        if isinstance(labels, np.ndarray):
            site.labels.append(labels)
        option = options[min(self.numbers.get(place, 0), len(options) - 1)]
        earlier = self.before[place].taken if place in self.before else ()
        option = self.picked[moment] = next((o for o in options if o in earlier), option)
        if option not in site.taken:
            site.taken.append(option)
        return option
