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


def _die_at(call):
    done = iter(range(1, 1 << 60))

    def counted(real, *args, **kwargs):
        if next(done) == call:
            os._exit(KILLED)
        return real(*args, **kwargs)

    for name in CALLS:
        setattr(os, name, partial(counted, getattr(os, name)))
