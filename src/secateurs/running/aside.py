"""Run a function in a thread of its own, so that an interrupt (Ctrl-C) of the caller leaves no mode half changed.

Modes of torch (gradients, dispatch, autocast, inference) belong to a thread. What is set in another thread cannot be
left behind in the caller's, and a signal such as Ctrl-C is raised only in the main thread: everything that a block here
puts back is put back.
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
    """Some work, its result, and whether it is still wanted."""

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
    """Run `work(check)` in a thread of its own and return its result; its errors are raised here.

    The thread has the caller's context variables, default device and current accelerator, and torch's default modes.
    An interrupt of the caller makes `check`, which the work calls now and then, raise; the caller goes on when the work
    has ended.

    >>> aside(lambda check: torch.is_grad_enabled())
    True
    """
    errand = _Errand(work)
    try:
        # one call into C: an interrupt comes before or after it, while threading.Thread.start is interrupted half-way
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
