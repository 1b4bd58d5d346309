"""File locks, which the system releases when their process ends for any reason."""

from __future__ import annotations

import fcntl


def try_lock(descriptor: int, exclusive: bool = True) -> bool:
    """Lock an open file without waiting.

    On a file system without locks this succeeds; users must then avoid conflicts themselves.

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
