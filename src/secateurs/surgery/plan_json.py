"""Plans as JSON: a versioned document, every part of which is checked when it is read."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from secateurs.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from secateurs.surgery.plan import Indices, Plan, Setting

FORMAT, COPYING = 1, 2
"""Format versions: of plans that only remove, and of those that also insert units, which older versions cannot read."""
MOST_GROWTH = 16
"""Largest growth factor of a dimension that is accepted from a file; more means a damaged file."""
MOST_DIMS, LONGEST, MOST_INDICES = 64, 2**48, 2**24
"""Most dimensions of a tensor, largest size, and most distinct indices; larger numbers mean a damaged file."""
_RUNS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*", re.ASCII)
_PLACE = re.compile(r"[^:]*:[^\W\d]\w*.*", re.DOTALL)


class Parts(TypedDict):
    """The fields of a plan in a document."""

    keep: dict[str, Indices]
    units: dict[str, int]
    tensors: dict[str, dict[int, Indices]]
    aliases: dict[str, str]
    attributes: dict[str, Setting]
    signature: dict[str, tuple[int, ...]]
    directions: dict[str, tuple[int, ...]]
    shares: dict[str, dict[int, tuple[float, ...]]]


def write_plan(plan: Plan) -> str:
    """Write a plan as a JSON document, which `read_plan` reads as an equal plan."""
    copying = bool(plan.copies or plan.shares)  # of a unit and its copy, one may be left, with its share
    document: dict[str, Any] = {
        "format": COPYING if copying else FORMAT,
        "groups": {n: {"units": plan.units[n], "keep": to_runs(keep)} for n, keep in plan.keep.items()},
        "tensors": {n: {str(d): to_runs(i) for d, i in dims.items()} for n, dims in plan.tensors.items()},
        "aliases": dict(plan.aliases),
        "attributes": dict(plan.attributes),
        "signature": dict(plan.signature),
        "directions": dict(plan.directions),
    }
    if copying:
        document["shares"] = {n: {str(d): list(s) for d, s in dims.items()} for n, dims in plan.shares.items()}
    return json.dumps(document, indent=1)


def read_plan(text: str) -> Parts:
    """Read the parts of a plan; PlanError names the invalid part."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        message = f"this is not a plan: not JSON ({error}). Read what Plan.to_json wrote."
        raise PlanError(message) from error
    version = document.get("format") if isinstance(document, dict) else None
    if version not in (FORMAT, COPYING) or isinstance(version, (bool, float)):
        message = (
            f"the plan has format {version!r}, and this version reads formats {FORMAT} and {COPYING}. "
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
    units = {name: _whole(group["units"]) for name, group in groups}
    signature = {name: _shape(shape) for name, shape in document["signature"].items()}
    reader = _Reader(copies=document["format"] == COPYING)
    shares: Mapping[str, Mapping[str, object]] = document["shares"] if reader.copies else {}
    return Parts(
        keep={name: reader.read(group["keep"], units[name]) for name, group in groups},
        units=units,
        tensors={
            name: {_dim(d, signature[name]): reader.read(i, signature[name][int(d)]) for d, i in dims.items()}
            for name, dims in document["tensors"].items()
        },
        aliases={alias: _text(name) for alias, name in document["aliases"].items()},
        attributes={_place(name): _setting(value) for name, value in document["attributes"].items()},
        signature=signature,
        directions={name: _shape(dims) for name, dims in document["directions"].items()},
        shares={n: {_dim(d, signature[n]): _fractions(s) for d, s in dims.items()} for n, dims in shares.items()},
    )


class _Reader:
    """Reads runs of indices: equal ones only once, so that tensors share tuples, and limited in total number."""

    def __init__(self, *, copies: bool) -> None:
        self.copies = copies
        self.known: dict[str, Indices] = {}
        self.left = MOST_INDICES

    def read(self, text: object, limit: int) -> Indices:
        """The indices, all below the limit."""
        found = self.known.get(_text(text))
        if found is None:
            most = min(limit * (MOST_GROWTH if self.copies else 1), self.left)
            found = self.known[_text(text)] = from_runs(_text(text), most, ascending=not self.copies)
            self.left -= len(found)
        last = max(found) if self.copies else found[-1]
        if last >= limit or len(found) > MOST_GROWTH * limit:
            message = f"{len(found)} indices up to {last} of {limit}"
            raise ValueError(message)
        return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = f"{value!r} is no text"
        raise TypeError(message)
    return value


def _dim(text: str, shape: tuple[int, ...]) -> int:
    if text not in map(str, range(len(shape))):
        message = f"{text!r} is no dimension of {shape}"
        raise ValueError(message)
    return int(text)


def _place(text: str) -> str:
    if not _PLACE.fullmatch(text):
        message = f"{text!r} is no module:attribute"
        raise ValueError(message)
    return text


def _setting(value: object) -> Setting:
    setting = _shape(value) if isinstance(value, list) else _whole(value)
    if setting in ((), 0) or (isinstance(setting, tuple) and 0 in setting):
        message = f"{value!r} counts nothing"
        raise ValueError(message)
    return setting


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_DIMS:
        message = f"{str(value)[:40]} is no list of at most {MOST_DIMS} numbers"
        raise TypeError(message)
    return tuple(_whole(n) for n in cast("list[object]", value))


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LONGEST:
        message = f"{str(value)[:40]} is not a whole number of 0 or more"
        raise TypeError(message)
    return value


def _fractions(values: object) -> tuple[float, ...]:
    found = cast("list[Any]", values) if isinstance(values, list) else []
    if not 0 < len(found) <= MOST_INDICES or not all(type(n) in (int, float) and 0 < n <= 1 for n in found):
        message = f"{str(values)[:40]} are no shares from 0 to 1"
        raise ValueError(message)
    return tuple(float(n) for n in found)


def _check(parts: Parts) -> None:
    """Refuse names that the signature lacks, and aliases, directions and shares that do not match it."""
    for name, dims in parts["shares"].items():
        for dim, shares in dims.items():
            if len(shares) != len(parts["tensors"][name][dim]):
                message = f"{name} has {len(shares)} shares for {len(parts['tensors'][name][dim])} entries"
                raise ValueError(message)
    for name, units in parts["keep"].items():
        if any(a > b for a, b in pairwise(units)):
            message = f"the units of {name} do not ascend"
            raise ValueError(message)
    for alias, name in parts["aliases"].items():
        if parts["signature"][alias] != parts["signature"][name]:
            message = f"{alias} and {name} are one tensor of two shapes"
            raise ValueError(message)
    for name, dims in parts["directions"].items():
        if any(dim >= len(parts["signature"][name]) for dim in dims):
            message = f"{name} has no dimensions {dims}"
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


def from_runs(text: str, most: int = MOST_INDICES, *, ascending: bool = True) -> tuple[int, ...]:
    """Read the text of `to_runs`; ValueError for text that is not ascending runs, or more than `most` indices.

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
        if stop < start or (ascending and indices and start <= indices[-1]):
            message = f"the runs {text[:40]!r} do not ascend at {run!r}"
            raise ValueError(message)
        if len(indices) + stop - start >= most:
            message = f"the runs {text[:40]!r} are more than {most} indices"
            raise ValueError(message)
        indices.extend(range(start, stop + 1))
    return tuple(indices)
