"""History of a session: frozen events that can be read, logged and saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from secateurs.graph.groups import Cost


@dataclass(frozen=True)
class Event:
    """An event after `step` optimizer steps, at the fractional `epoch`.

    what: its kind ("removed", "grown", "picked", "zeroed", "phase", "skipped", …); note: a sentence.
    removed: group -> units, by the numbers they had when the session began; grown: group -> units added;
    cost: of the network that remains.
    """

    step: int
    epoch: float
    what: str
    note: str
    cost: Cost
    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    grown: Mapping[str, int] = field(default_factory=dict[str, int])

    def __str__(self) -> str:
        """One line for a log.

        >>> print(Event(20, 2.0, "removed", "at the ceiling", Cost(5, 4, 3), {"conv1": (1, 2)}))
        step 20 (epoch 2.0) removed 2 units: at the ceiling
        """
        units = sum(map(len, self.removed.values()))
        size = f" {units} units" if units else ""
        return f"step {self.step} (epoch {self.epoch:.1f}) {self.what}{size}: {self.note}"


@dataclass(eq=False)
class History(Sequence[Event]):
    """The `events` of a session in order, as a sequence."""

    events: list[Event] = field(default_factory=list[Event])

    def add(self, event: Event) -> None:
        """Append an event."""
        self.events.append(event)

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, at: Any) -> Any:
        return self.events[at]

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __str__(self) -> str:
        """Every event on its line."""
        return "\n".join(map(str, self.events))

    def of(self, what: str) -> tuple[Event, ...]:
        """Return the events of the kind `what`."""
        return tuple(event for event in self.events if event.what == what)

    def rows(self) -> list[dict[str, Any]]:
        """Return plain values, for JSON and checkpoints."""
        return [
            {**asdict(event), "removed": {name: list(units) for name, units in event.removed.items()}}
            for event in self.events
        ]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> History:
        """Make a history from the values of `rows`."""
        return cls([_event(row) for row in rows])


def _event(row: Mapping[str, Any]) -> Event:
    values = dict(row)
    values["cost"] = Cost(**values["cost"])
    values["removed"] = {name: tuple(units) for name, units in values["removed"].items()}
    return Event(**values)
