"""Budget: how much of the network remains, in MACs, parameters, memory of activations, latency or filters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Integral, Real
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from secateurs.allocate.alignment import Alignment
from secateurs.errors import BudgetError, RecipeError, near
from secateurs.graph.groups import Cost, Group

RESOURCES = ("macs", "params", "memory")
"""The constraints, in the order of a `Cost`."""

LIMITED = (*RESOURCES, "filters", "peak_memory")
"""All that is counted exactly, in the order of `Limits`."""

UNBOUNDED = np.iinfo(np.int64).max


@runtime_checkable
class Timed(Protocol):
    """Interface of a device for latency budgets: it measures, and names the width multiples at which it is fast."""

    @property
    def grid(self) -> Alignment:
        """Width multiples at which its kernels are fast."""
        ...

    def measure(self, model: Any, example_inputs: Any, /) -> Any:
        """Return the time of one forward pass."""
        ...


@dataclass(frozen=True)
class Budget:
    """The size that remains after pruning: all constraints given hold at once, and at least one is given.

    macs, params, memory: a fraction of the dense network (a float in (0, 1]) or an absolute number (an int above 1;
    bytes for memory). memory: of all activations written, added up. peak_memory: the same for the most that is alive
    at once (`Graph.peak_memory`). filters: the same for the units of all groups that may be pruned, coupled filters
    counted once.
    shares: what remains of each layer or stage: pairs (name, fraction or number of units), the name being a group, or a
    module for all groups that it writes; fractions are rounded up, and of several matching names the longest counts.
    latency: time of one forward pass measured on `device` (a `secateurs.Device`): a fraction of the dense network's, or
    milliseconds (a number above 1). With a device and no latency, `prune` only checks: it raises BudgetError for a
    network that is slower there than the dense one, unless `allow_slower`. min_keep, min_keep_fraction: least number,
    and least fraction, of units that stay in every group. multiple_of: the width of every tensor dimension that a
    pruned group writes becomes a multiple of it (see `levels`); an `Alignment` chooses the multiple by the width of the
    group. With None, `plan` and allocators use any width, and `prune` uses the multiples of the device, or
    `Alignment()`. exclude: names of groups or modules whose own outputs all stay. The layers that feed such a module
    may still shrink, and its input channels with them; `trace(..., protect=...)` is for modules that nothing may
    change.

    Raises BudgetError, by name and value, for a budget that is empty or out of range. Names that match nothing in a
    network raise RecipeError when the budget is used.

    >>> Budget(macs=0.5, params=100_000).targets(Cost(macs=2_001, params=150_000, memory=7))[:2].tolist()
    [1000, 100000]
    """

    # int comes first: the command line reads 5000000 as the first type that fits.
    _: KW_ONLY
    macs: int | float | None = None
    params: int | float | None = None
    memory: int | float | None = None
    min_keep: int = 1
    min_keep_fraction: float = 0.0
    multiple_of: int | Alignment | None = None
    exclude: tuple[str, ...] = ()
    latency: float | None = None
    device: Timed | None = None
    allow_slower: bool = False
    filters: int | float | None = None
    shares: tuple[tuple[str, float], ...] = ()
    peak_memory: int | float | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range, by name and value."""
        given = {name: value for name in LIMITED if (value := getattr(self, name)) is not None}
        if not given and self.latency is None and not self.shares:
            remedy = "Give at least one of macs=, params=, memory=, peak_memory=, filters=, shares=, latency=."
            msg = f"Budget() asks for nothing. It says what remains. {remedy}"
            raise BudgetError(msg)
        for name, value in given.items():
            _check_remaining(name, value)
        _check_latency(self.latency, self.device)
        for name in ("min_keep", "multiple_of"):
            value = getattr(self, name)
            if name == "multiple_of" and (value is None or isinstance(value, Alignment)):
                continue
            if not _is_integer(value) or value < 1:
                msg = f"{name}={value!r} is not a whole number of units. Give an int of at least 1."
                raise BudgetError(msg)
        if not _is_number(self.min_keep_fraction) or not 0 <= self.min_keep_fraction <= 1:
            msg = f"min_keep_fraction={self.min_keep_fraction!r} is not a fraction of units. Give a float in [0, 1]."
            raise BudgetError(msg)
        if isinstance(self.exclude, str) or any(not isinstance(name, str) for name in self.exclude):
            msg = f"exclude={self.exclude!r} is not a tuple of names. Write exclude=({self.exclude!r},) for one."
            raise BudgetError(msg)
        object.__setattr__(self, "exclude", tuple(self.exclude))
        object.__setattr__(self, "shares", read_shares(self.shares))

    @property
    def exact(self) -> Budget:
        """The budget without its latency, for allocators; if no exact cost is limited, all MACs may remain.

        >>> Budget(params=0.5).exact.macs
        1.0
        """
        return replace(self, latency=None, macs=self.macs or 1.0)

    def targets(self, dense: Cost) -> NDArray[np.int64]:
        """Return the most that may remain of (macs, params, memory); a fraction is rounded down to a whole number.

        Raises BudgetError if the budget has a latency, which is not a function of exact costs.
        """
        if self.latency is not None:
            msg = (
                f"latency={self.latency} is a time on a device, and only secateurs.prune measures it. "
                "Allocators, plan and sessions meet exact costs. Use prune, or give macs=, params= or memory= here."
            )
            raise BudgetError(msg)
        whole = (dense.macs, dense.params, dense.memory)
        return np.array([_target(getattr(self, n), full) for n, full in zip(RESOURCES, whole, strict=True)], np.int64)

    def most_peak(self, dense: int) -> int:
        """Return the most bytes that may be alive at once.

        >>> Budget(peak_memory=0.5).most_peak(9)
        4
        """
        return _target(self.peak_memory, dense)

    def multiple(self, units: int) -> int:
        """Return the number that the width of a group of this many units is a multiple of.

        >>> Budget(macs=0.5, multiple_of=4).multiple(64), Budget(macs=0.5).multiple(64)
        (4, 1)
        """
        if isinstance(self.multiple_of, Alignment):
            return self.multiple_of.of(units)
        return 1 if self.multiple_of is None else self.multiple_of

    def floor(self, units: int) -> int:
        """Return the fewest units that may stay in a group of this many.

        >>> Budget(macs=0.5, min_keep=2, min_keep_fraction=0.1).floor(64)
        7
        """
        # 0.07 * 100 is 7.000000000000001 in binary: rounded to nine digits first.
        return min(units, max(self.min_keep, math.ceil(round(self.min_keep_fraction * units, 9))))

    def excluded(self, groups: Iterable[Group]) -> frozenset[str]:
        """Return the names of the groups that stay whole because of `exclude`."""
        return frozenset[str]().union(*matched("exclude", self.exclude, tuple(groups)).values())

    def most_filters(self, groups: Iterable[Group]) -> int:
        """Return the most units that may remain in the groups that are not excluded.

        >>> Budget(filters=0.5).most_filters([Group("a", 7, ()), Group("b", 4, ())])
        5
        """
        groups = tuple(groups)
        excluded = self.excluded(groups)
        return _target(self.filters, sum(group.units for group in groups if group.name not in excluded))

    def shared(self, groups: Iterable[Group]) -> dict[str, int]:
        """Return the units that remain of each group that `shares` names, by the name of the group.

        >>> Budget(shares=(("a", 0.3),)).shared([Group("a", 7, ()), Group("b", 4, ())])
        {'a': 3}
        """
        groups, shares = tuple(groups), dict(self.shares)
        units, found = {group.name: group.units for group in groups}, dict[str, int]()
        hits = matched("shares", shares, groups)
        for name in sorted(shares, key=lambda name: (name in units, len(name))):
            share = shares[name]
            for group in hits[name]:
                left = share if _is_integer(share) else math.ceil(round(share * units[group], 9))
                found[group] = min(units[group], int(left))
        return found


def matched(what: str, names: Iterable[str], groups: tuple[Group, ...]) -> dict[str, frozenset[str]]:
    """Return name -> groups: the group of this name, or all groups that a module, or modules inside it, write."""
    found: dict[str, frozenset[str]] = {}
    known = {group.name for group in groups} | _modules(groups)
    for name in names:
        if name not in known:
            msg = f"{what}={name!r} matches no prunable group and no module of one: {near(name, known)}"
            raise RecipeError(msg)
        found[name] = frozenset(group.name for group in groups if group.name == name or _writes(group, name))
    return found


def read_shares(shares: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Check pairs of a name and a remaining share, and return them."""
    pairs = tuple(shares)
    if any(not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str) for pair in pairs):
        msg = f"shares={shares!r} are not pairs (name, what remains). Write shares=(('layer1', 0.5),)."
        raise BudgetError(msg)
    for name, share in pairs:
        number = _is_number(share) and (share >= 1 if _is_integer(share) else 0 < share <= 1)
        if not number:
            msg = f"the share {share!r} of {name!r} is not what remains. Give a float in (0, 1], or a number of units."
            raise BudgetError(msg)
    return tuple((name, share) for name, share in pairs)


def _writes(group: Group, module: str) -> bool:
    """True if a group has output channels of this module or of a module inside it."""
    return any(s.role != "in" and s.tensor.startswith(f"{module}.") for s in group.slices)


def _modules(groups: Iterable[Group]) -> set[str]:
    """Name every module that has a tensor in some group, and the modules around it."""
    found: set[str] = set()
    for path in {s.tensor for group in groups for s in group.slices}:
        parts = path.split(".")[:-1]
        found |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return found


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _check_remaining(name: str, value: object) -> None:
    """Refuse a constraint that is neither a fraction nor an absolute number."""
    remedy = "Give what remains: a float in (0, 1] for a fraction, or an int above 1 for an absolute number."
    if not _is_number(value) or math.isnan(value):  # pyright: ignore[reportArgumentType]
        reason = "is not a number"
    elif value <= 0:  # pyright: ignore[reportOperatorIssue]
        reason = "leaves nothing"
    elif _is_integer(value) and value == 1:
        reason = "is ambiguous: 1.0 is the whole network, the absolute number 1 is nothing"
    elif not _is_integer(value) and value > 1:  # pyright: ignore[reportOperatorIssue]
        reason = "is a fraction above the whole"
    else:
        return
    msg = f"{name}={value!r} {reason}. {remedy}"
    raise BudgetError(msg)


def _check_latency(latency: object, device: object) -> None:
    """Refuse a latency without a device, and a latency that is not a positive number."""
    if device is not None and not isinstance(device, Timed):
        msg = f"device={device!r} does not measure. Pass a secateurs.Device, such as Device('onnxruntime', threads=1)."
        raise BudgetError(msg)
    if latency is None:
        return
    if not _is_number(latency) or math.isnan(latency) or latency <= 0:  # pyright: ignore[reportArgumentType, reportOperatorIssue]
        msg = f"latency={latency!r} is no time. Give a fraction of the dense network's time, or milliseconds above 1."
        raise BudgetError(msg)
    if device is None:
        msg = (
            f"latency={latency!r} is a time on a device, and none is named. Add device=, such as Device('onnxruntime')."
        )
        raise BudgetError(msg)


def _target(value: float | None, full: int) -> int:
    if value is None:
        return int(UNBOUNDED)
    return int(value) if _is_integer(value) else math.floor(value * full)
