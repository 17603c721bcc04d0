"""Plans as JSON: a versioned document, read back with every part checked."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from secateurs.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from secateurs.surgery.plan import Indices, Plan, Setting

FORMAT = 1
_RUNS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


class Parts(TypedDict):
    """The fields of a plan that a document holds."""

    keep: dict[str, Indices]
    units: dict[str, int]
    tensors: dict[str, dict[int, Indices]]
    aliases: dict[str, str]
    attributes: dict[str, Setting]
    signature: dict[str, tuple[int, ...]]
    directions: dict[str, tuple[int, ...]]


def write_plan(plan: Plan) -> str:
    """Write a plan as a JSON document; `read_plan` gives back an equal one."""
    document = {
        "format": FORMAT,
        "groups": {n: {"units": plan.units[n], "keep": to_runs(keep)} for n, keep in plan.keep.items()},
        "tensors": {n: {str(d): to_runs(i) for d, i in dims.items()} for n, dims in plan.tensors.items()},
        "aliases": dict(plan.aliases),
        "attributes": dict(plan.attributes),
        "signature": dict(plan.signature),
        "directions": dict(plan.directions),
    }
    return json.dumps(document, indent=1)


def read_plan(text: str) -> Parts:
    """Read the parts of a plan; PlanError says which one is not what it should be."""
    try:
        document = json.loads(text)
    except ValueError as error:
        message = f"this is not a plan: not JSON ({error}). Read what Plan.to_json wrote."
        raise PlanError(message) from error
    version = document.get("format") if isinstance(document, dict) else None
    if version != FORMAT:
        message = (
            f"the plan has format {version!r}, and this version reads format {FORMAT}. "
            "It was written by another version, or by something else. Read it with the version that wrote it."
        )
        raise PlanError(message)
    try:
        parts = _parts(cast("dict[str, Any]", document))
        _check(parts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"the plan is damaged: {error!r}. Its numbers cannot be trusted. Take an undamaged copy."
        raise PlanError(message) from error
    return parts


def _parts(document: Mapping[str, Any]) -> Parts:
    groups = document["groups"].items()
    return Parts(
        keep={name: from_runs(group["keep"]) for name, group in groups},
        units={name: int(group["units"]) for name, group in groups},
        tensors={n: {int(d): from_runs(i) for d, i in dims.items()} for n, dims in document["tensors"].items()},
        aliases={str(alias): str(name) for alias, name in document["aliases"].items()},
        attributes={name: _setting(value) for name, value in document["attributes"].items()},
        signature={name: _shape(shape) for name, shape in document["signature"].items()},
        directions={name: _shape(dims) for name, dims in document["directions"].items()},
    )


def _setting(value: object) -> Setting:
    return _shape(value) if isinstance(value, list) else _whole(value)


def _shape(value: object) -> tuple[int, ...]:
    return tuple(_whole(n) for n in cast("list[object]", value))


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        message = f"{value!r} is not a whole number"
        raise TypeError(message)
    return value


def _check(parts: Parts) -> None:
    """Refuse indices outside their group or tensor, and names that the signature does not have."""
    for name, keep in parts["keep"].items():
        if keep[-1] >= parts["units"][name]:
            message = f"group {name!r} keeps unit {keep[-1]} of {parts['units'][name]}"
            raise ValueError(message)
    for name, dims in parts["tensors"].items():
        shape = parts["signature"][name]
        for dim, index in dims.items():
            if not 0 <= dim < len(shape) or index[-1] >= shape[dim]:
                message = f"{name} keeps index {index[-1]} along dimension {dim} of {shape}"
                raise ValueError(message)
    for alias, name in parts["aliases"].items():
        if parts["signature"][alias] != parts["signature"][name]:
            message = f"{alias} and {name} are one tensor of two shapes"
            raise ValueError(message)


def to_runs(indices: Sequence[int]) -> str:
    """Write ascending indices as inclusive runs.

    >>> to_runs((0, 1, 2, 3, 5, 7, 8))
    '0-3,5,7-8'
    """
    array = np.asarray(indices, dtype=np.int64)
    starts = np.flatnonzero(np.diff(array, prepend=-2) != 1)
    ends = np.append(starts[1:], array.size) - 1
    pairs = zip(array[starts].tolist(), array[ends].tolist(), strict=True)
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def from_runs(text: str) -> tuple[int, ...]:
    """Read what `to_runs` wrote; a ValueError says what is not ascending runs.

    >>> from_runs("0-3,5,7-8")
    (0, 1, 2, 3, 5, 7, 8)
    """
    if not _RUNS.fullmatch(text):
        message = f"{text[:40]!r} is not a list of runs such as '0-3,5,7-9'"
        raise ValueError(message)
    indices: list[int] = []
    for run in text.split(","):
        first, _, last = run.partition("-")
        start, stop = int(first), int(last or first)
        if stop < start or (indices and start <= indices[-1]):
            message = f"the runs {text[:40]!r} do not ascend at {run!r}"
            raise ValueError(message)
        indices.extend(range(start, stop + 1))
    return tuple(indices)
