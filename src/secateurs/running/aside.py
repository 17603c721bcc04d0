"""Run a function in its own thread, so that an interrupt (Ctrl-C) of the caller leaves no torch mode half changed.

Torch's modes (gradients, dispatch, autocast, inference) are thread-local: those set in another thread cannot remain set
in the caller's. A signal such as Ctrl-C is raised only in the main thread, so that cleanup in the other thread is never
interrupted.
"""

from __future__ import annotations

import _thread
import contextvars
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import torch

T = TypeVar("T")
_PATIENCE = 10.0
"""Seconds that an interrupted caller waits for the thread to end."""


class Abandoned(BaseException):
    """Raised in the thread of `aside` after its caller was interrupted, to end it."""


class _Errand(Generic[T]):
    """A function to run, its result, and a flag that its caller was interrupted."""

    def __init__(self, work: Callable[[Callable[[], None]], T]) -> None:
        self.work = work
        self.done = threading.Lock()
        self.done.acquire()
        self.change = threading.Lock()
        self.running = self.finished = self.abandoned = False
        self.result: T | None = None
        self.error: BaseException | None = None
        self.device = torch.get_default_device()
        self.index = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def check(self) -> None:
        """Raise Abandoned if the caller was interrupted."""
        if self.abandoned:
            raise Abandoned

    def run(self) -> None:
        with self.change:
            if self.abandoned:
                return
            self.running = True
        try:
            if self.index is not None:
                torch.cuda.set_device(self.index)
            if self.device.type == "cpu":
                self.result = self.work(self.check)
            else:
                with self.device:
                    self.result = self.work(self.check)
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
            self.error = error
        finally:
            self.finished = True
            self.done.release()


def aside(work: Callable[[Callable[[], None]], T]) -> T:
    """Run `work(check)` in its own thread and return its result; its errors are raised in the caller.

    The thread has the caller's context variables, default device and current accelerator, and torch's default modes.
    After an interrupt of the caller, `check`, which the work calls regularly, raises; the caller continues when the
    thread has ended.

    >>> aside(lambda check: torch.is_grad_enabled())
    True
    """
    errand = _Errand(work)
    try:
        # one call into C: an interrupt comes before or after it; threading.Thread.start could be interrupted half-way
        _thread.start_new_thread(contextvars.copy_context().run, (errand.run,))
        errand.done.acquire()
    except BaseException:
        with errand.change:
            errand.abandoned = True
            running = errand.running
        if running and not errand.finished:
            errand.done.acquire(timeout=_PATIENCE)
        raise
    if errand.error is not None:
        raise errand.error
    return cast("T", errand.result)
