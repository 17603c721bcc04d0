"""Saving and continuing a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from secateurs.errors import InputError
from secateurs.session.history import History
from secateurs.session.method import Driver, TrainingMethod
from secateurs.session.run import Run

FORMAT = 3
PARTS = (
    "method", "budget", "clock", "signature", "step", "kept", "shares", "alive", "masks", "history", "driver", "skipped"
)  # fmt: skip
"""Keys of a session state, besides its format."""


def save_state(run: Run, driver: Driver, method: TrainingMethod) -> dict[str, Any]:
    """Return the state of a session as tensors and plain values, for `load_state`."""
    return {
        "format": FORMAT,
        "method": repr(method),
        "budget": repr(run.budget),
        "clock": [run.clock.steps_per_epoch, run.clock.epochs],
        "signature": {name: list(shape) for name, shape in run.origin.signature.items()},
        "step": run.step,
        "kept": {name: units.tolist() for name, units in run.kept.items()},
        "shares": {name: shares.tolist() for name, shares in run.shares.items()} if run.grew else {},
        "alive": {name: alive.tolist() for name, alive in run.alive.items()},
        "masks": run.masks,
        "history": run.history.rows(),
        "driver": driver.state(),
    }


def load_state(run: Run, driver: Driver, method: TrainingMethod, state: Mapping[str, Any]) -> None:
    """Check that the state belongs to this session, cut the network to the saved widths, and restore the method.

    Raises InputError for a state of another session or format, and for one that lacks a part.
    """
    _check(run, method, state)
    kept = {name: np.asarray(units, dtype=np.int64) for name, units in state["kept"].items()}
    if state["shares"]:
        run.become(kept, {name: np.asarray(shares) for name, shares in state["shares"].items()})
    elif any(len(kept[name]) != len(units) for name, units in run.kept.items()):
        place = {name: {int(u): at for at, u in enumerate(units)} for name, units in run.kept.items()}
        for name, units in kept.items():
            run.alive[name] = np.isin(run.kept[name], units)
            if any(int(u) not in place[name] for u in units):
                raise InputError(
                    f"the state keeps units of {name!r} that this model has already lost. A state continues the run "
                    f"it "
                    "came from. Load it into a fresh model of the original widths, before training."
                )
        driver.shrink()
    run.history = History.from_rows(state["history"])
    run.step = int(state["step"])
    for name, alive in state["alive"].items():
        run.alive[name] = np.asarray(alive, dtype=bool)
    run.hold(state["masks"])
    driver.restore(state["driver"])


def _check(run: Run, method: TrainingMethod, state: Mapping[str, Any]) -> None:
    found = state.get("format") if isinstance(state, Mapping) else type(state).__name__
    if found != FORMAT:
        raise InputError(
            f"the session state has format {found!r}; this version reads {FORMAT}. It was written by another version "
            "or is no session state. Pass what Session.state_dict() returned."
        )
    lacking = [part for part in PARTS if part not in state]
    if lacking:
        raise InputError(
            f"the session state lacks {', '.join(map(repr, lacking))}. A part of it was lost, and the run would go on "
            "as another one. Pass what Session.state_dict() returned, whole."
        )
    mine = {name: list(shape) for name, shape in run.origin.signature.items()}
    if mine != state["signature"]:
        names = sorted(n for n in mine.keys() | state["signature"].keys() if mine.get(n) != state["signature"].get(n))
        first = names[0]
        raise InputError(
            f"the state belongs to another model: {first!r} is {mine.get(first, 'missing')} here and "
            f"{state['signature'].get(first, 'missing')} there. Units would be mistaken for others. "
            "Build the model as it was when the session began."
        )
    pairs = (
        ("method", repr(method)),
        ("budget", repr(run.budget)),
        ("clock", [run.clock.steps_per_epoch, run.clock.epochs]),
    )
    for what, here in pairs:
        if state[what] != here:
            raise InputError(
                f"the state was saved with {what} {state[what]}, and this session has {here}. Its counters would "
                f"mean "
                f"something else. Make the session with the same {what}."
            )
