"""Locks of files, which end with the process that holds them, whatever becomes of it."""

from __future__ import annotations

import fcntl


def locked(descriptor: int, alone: bool = True) -> bool:
    """Locks an open file, alone or beside others who do not want it alone; False: another has it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: the user must take care
    return True
