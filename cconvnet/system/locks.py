"""File locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl


def try_lock(descriptor: int, exclusive: bool = True) -> bool:
    """Lock an open file without waiting.

    A file system without locks counts as locked: there the user must take care.

    Args:
        descriptor: An open file.
        exclusive: Whether no other process may hold a lock beside this one.

    Returns:
        False if another process holds a lock that excludes this one.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
