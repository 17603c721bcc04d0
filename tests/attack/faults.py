"""A process that is killed at the k-th change it makes to the disk."""

import os
import sys
from functools import partial

CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
"""What a writer does to the disk, beside writing into files that nobody reads yet."""
KILLED = 77


def killed_at(call, work):
    """Do the work in a child process that dies just before its k-th such call; False when it came to its end."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _die_at(call)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"the work itself failed: exit {status}"
    return status == KILLED


def started(work):
    """A child process that does the work and ends with 0 if nothing is wrong: if it gives back an empty answer."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = int(bool(work()))
        finally:
            os._exit(status)
    return child


def ended(child):
    """The exit code of a child process, once it has one."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_everywhere(prepare, work, check):
    """Do the work killed before its 1st, 2nd, … call, until it is not killed any more; how often, and what was wrong.

    All three are given the number of the call: `prepare` makes what is there before, `check` says in words what is
    wrong afterwards.
    """
    wrong = []
    for call in range(1, 1000):
        prepare(call)
        if not killed_at(call, partial(work, call)):
            return call - 1, wrong
        if problem := check(call):
            wrong.append(f"killed before call {call}: {problem}")
    raise AssertionError("never came to its end")


def _die_at(call):
    done = iter(range(1, 1 << 60))

    def counted(real, *args, **kwargs):
        if next(done) == call:
            os._exit(KILLED)
        return real(*args, **kwargs)

    for name in CALLS:
        setattr(os, name, partial(counted, getattr(os, name)))
