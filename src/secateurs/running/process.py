"""Save and restore process-wide state that running a model changes: random generators, the fused-attention switch."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class _Stay:
    """One thread inside `process_kept`: the generators' state on entry, and whether it turned fused attention off."""

    device: torch.device
    unfused: bool
    thread: int = field(default_factory=threading.get_ident)
    generators: tuple[Any, ...] = ()


_lock = threading.Lock()
_stays: list[_Stay] = []
_before: list[Any] = []
"""State before the first thread entered (generators, switch of fused attention); the last thread restores it."""


@contextmanager
def process_kept(device: torch.device, *, unfused: bool) -> Generator[None]:
    """Restore every random generator (Python, NumPy, torch on CPU and `device`) when the block is left.

    With `unfused`, multi-head attention calls its inner modules inside the block, instead of one fused operator that
    hides them. If several threads are inside, the generators are restored when the last one leaves, to the state before
    the first entered; nested blocks of one thread each restore the state at their own entry.
    """
    stay = _enter(device, unfused=unfused)
    try:
        yield
    finally:
        _leave(stay)


def all_or_nothing(verb: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that an interrupt at any moment leaves the process state as it was.

    A `with` block restores its state, unless the interrupt arrives while it is being entered. Blocks that this thread
    has not left are left here, and its gradient mode is restored.
    """

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        gradients, outer = torch.is_grad_enabled(), _own_stays()
        try:
            return verb(*args, **kwargs)
        except BaseException:
            for stay in reversed(_own_stays()):
                if stay not in outer:
                    _leave(stay)
            torch.set_grad_enabled(gradients)
            raise

    return run


def _own_stays() -> list[_Stay]:
    return [stay for stay in _stays if stay.thread == threading.get_ident()]


def _enter(device: torch.device, *, unfused: bool) -> _Stay:
    stay = _Stay(device, unfused)
    with _lock:
        stay.generators = _read_generators(device)
        if not _stays:
            _before[:] = [stay, torch.backends.mha.get_fastpath_enabled()]
        _stays.append(stay)
        if unfused:
            torch.backends.mha.set_fastpath_enabled(value=False)
    return stay


def _leave(stay: _Stay) -> None:
    with _lock:
        if stay not in _stays:
            return
        rest = [other for other in _stays if other is not stay]
        if not {other.thread for other in rest} - {stay.thread}:
            _write_generators(stay if rest else _before[0])
        if not any(other.unfused for other in rest):
            torch.backends.mha.set_fastpath_enabled(_before[1])
        _stays.remove(stay)  # last: interrupted before, it is left again


def _read_generators(device: torch.device) -> tuple[Any, ...]:
    return (
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002 (the global generator is what a model or a loader draws from)
        torch.get_rng_state(),
        [torch.get_device_module(device).get_rng_state(index) for index in _indices(device)],
    )


def _write_generators(stay: _Stay) -> None:
    python, numpy, cpu, accelerated = stay.generators
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(cpu)
    for index, state in zip(_indices(stay.device), accelerated, strict=True):
        torch.get_device_module(stay.device).set_rng_state(state, index)


def _indices(device: torch.device) -> range:
    """Return the indices of all devices of this type, since a model may use several."""
    return range(0) if device.type in ("cpu", "meta") else range(torch.get_device_module(device).device_count())
