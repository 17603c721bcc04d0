"""The exception tree.

SecateursError
├── InputError          the arguments cannot be used (wrong type, shape, name, value)
│   ├── ModelError      the model cannot be pruned as it is (wrapped, compiled, scripted, quantised, non-finite)
│   ├── DeviceError     the runtime is not installed, or cannot run the model
│   ├── BudgetError     the budget is malformed or cannot be reached
│   │   └── ScheduleError   a schedule cannot reach its budget in the steps given
│   └── RecipeError     a method, model, data or option name is unknown
├── TraceError          the model did not run on the example inputs
├── PlanError           a plan does not fit the graph or model it is used with
│   └── ProofError      the pruned network would not compute what the masked model computes
├── EvidenceError       a criterion needs evidence that was not, or cannot be, gathered
├── SessionError        the session is not in the state that a call needs
└── StoreError          a saved model cannot be written or read back
    └── DamageError     a saved file was truncated, changed, or is of another kind
"""

from __future__ import annotations

from difflib import get_close_matches
from operator import index
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable


class SecateursError(Exception):
    """Base of every error that this library raises on purpose."""


class InputError(SecateursError):
    """The arguments cannot be used; nothing was touched."""


class ModelError(InputError):
    """The model cannot be pruned as it is; the message says how to make it so."""


class DeviceError(InputError):
    """The runtime is not installed, or cannot run the model; the message names the missing package or the operator."""


class BudgetError(InputError):
    """The budget is malformed, or cannot be reached; the message names the binding constraint."""


class RecipeError(InputError):
    """A method, model, data set or option has an unknown name; the message lists near matches."""


class ScheduleError(BudgetError):
    """A schedule that cannot reach its budget in the steps given; `needed` says how many would do."""

    needed: int = 0


class TraceError(SecateursError):
    """The model did not run on the example inputs; the cause is chained."""


class PlanError(SecateursError):
    """The plan does not fit the graph or the model it is used with."""


class ProofError(PlanError):
    """The pruned network would not compute what the masked model computes; nothing was changed."""


class EvidenceError(SecateursError):
    """A criterion needs evidence that was not gathered; the message says how to provide it."""


class SessionError(SecateursError):
    """The session is not in the state that the call needs; the model is usable and unharmed."""


class StoreError(SecateursError):
    """A saved model cannot be written or read back; nothing was half-loaded."""


class DamageError(StoreError):
    """A saved file was truncated, changed, or is of another kind; nothing of it was used."""


def expect(argument: str, value: object, kinds: type | tuple[type, ...], remedy: str) -> None:
    """Refuse an argument of another type, by its name, before anything is done.

    >>> expect("plan", None, int, "Pass what secateurs.plan returned.")
    Traceback (most recent call last):
    secateurs.errors.InputError: plan=None is a NoneType. Pass what secateurs.plan returned.
    """
    if not isinstance(value, kinds):
        shown = repr(value)
        message = f"{argument}={shown[:60]}{'…' if len(shown) > 60 else ''} is a {type(value).__name__}. {remedy}"
        raise InputError(message)


def check_seed(seed: Any) -> None:
    """Refuse a seed that random generators do not take: anything but a whole number from 0 to 2**63 - 1.

    >>> check_seed(1.5)
    Traceback (most recent call last):
    secateurs.errors.InputError: seed=1.5 is no seed. Pass a whole number from 0 to 2**63 - 1, such as seed=0.
    """
    whole = hasattr(type(seed), "__index__") and not isinstance(seed, bool)
    if not whole or not 0 <= index(seed) < 2**63:
        message = f"seed={str(seed)[:40]} is no seed. Pass a whole number from 0 to 2**63 - 1, such as seed=0."
        raise InputError(message)


def check_choice(value: object, **allowed: Any) -> None:
    """Refuse settings of a value that are not among the strings of their `Literal` type.

    allowed: field name -> its `Literal`. InputError names the value that was given and the nearest ones that exist.

    >>> from typing import Literal, NamedTuple
    >>> Input = NamedTuple("Input", [("layout", str)])
    >>> check_choice(Input("nhcw"), layout=Literal["nchw", "nhwc"])
    Traceback (most recent call last):
    secateurs.errors.InputError: Input(layout='nhcw') is not an option: did you mean 'nhwc' or 'nchw'? Known: nchw, nhwc
    """
    for name, literal in allowed.items():
        given, known = getattr(value, name), get_args(literal)
        if not isinstance(given, str) or given not in known:
            message = f"{type(value).__name__}({name}={given!r}) is not an option: {near(str(given), known)}"
            raise InputError(message)


def near(name: str, known: Iterable[str]) -> str:
    """Say which known names are near an unknown one.

    >>> near("greg-1", ["greg1", "foad"])
    "did you mean 'greg1'? Known: foad, greg1"
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}Known: {', '.join(names)}"
