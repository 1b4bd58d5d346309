"""Free memory of the host: what the machine and the limits of this process leave.

Linux kills a process that exceeds the limit of its control group, without a message. So the memory that is
needed is compared with what is free before it is allocated. Memory that the kernel can reclaim, such as pages
of files, counts as free, and so does swap. Nothing that could run is refused.

Sources: Linux, Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst; proc(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 2**60  # version 1 reports "no limit" as the largest multiple of a page


class NotEnoughMemory(MemoryError):
    """More memory is needed than is free; the text contains both numbers."""


@dataclass(frozen=True)
class Free:
    """Free memory in bytes.

    Attributes:
        free: Bytes that can still be allocated, swap included.
        in_all: Bytes in all, free or not.
        limit: The limit that applies, as words for a message; empty if it is the machine's memory.
        swap: The part of `free` that is on a disk, and therefore slow.
    """

    free: int
    in_all: int
    limit: str = ""
    swap: int = 0

    @property
    def fast(self) -> int:
        """Free bytes without swap."""
        return max(self.free - self.swap, 0)

    def __str__(self) -> str:
        of = f" of {self.limit}" if self.limit else ""
        return f"{megabytes(self.free)} are free{of}"


def megabytes(count: int) -> str:
    """Format a number of bytes as megabytes."""
    return f"{count / 1e6:,.0f} MB"


def host(root: Path = Path("/")) -> Free | None:
    """Return the host memory that this process can still allocate.

    Args:
        root: Stands for ``/``; contains ``proc`` and the folders that its ``mountinfo`` names.

    Returns:
        The smallest of what the machine, each control group and ``ulimit -v`` leave. None if the system does
        not report its memory.
    """
    values = _table(root / "proc/meminfo")
    if "MemAvailable" not in values:
        return None
    swap = 1024 * values.get("SwapFree", 0)
    machine = Free(1024 * values["MemAvailable"] + swap, 1024 * values.get("MemTotal", 0), "", swap)
    found = [machine, *_groups(root, swap), *_address_space(root)]
    least = min(found, key=lambda one: one.free)
    return Free(max(least.free, 0), min(one.in_all for one in found), least.limit, least.swap)


def _address_space(root: Path) -> Iterator[Free]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError, IndexError):
            used = int((root / "proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            yield Free(limit - used, limit, f"the {megabytes(limit)} of address space that ulimit -v allows")


# ---- control groups --------------------------------------------------------------------------------------


def _groups(root: Path, swap: int) -> Iterator[Free]:
    """Yield what each control group of this process, and each that contains one, leaves."""
    mounts = _mounts(root)
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        for top, mounted in mounts.get(version, []):
            # In a container the mounted folder may be its own group's, while `path` is as seen from outside.
            inner = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
            folder = root / mounted.relative_to("/") / inner
            if not folder.is_dir():
                folder = root / mounted.relative_to("/")
            yield from _up(folder, root / mounted.relative_to("/"), version, swap)


def _mounts(root: Path) -> dict[int, list[tuple[str, Path]]]:
    """Return, by version, the mounted group and its folder for each hierarchy that limits memory."""
    found: dict[int, list[tuple[str, Path]]] = {}
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        top, mounted = fields[3], Path(fields[4])
        if kinds[0] == "cgroup2":
            found.setdefault(2, []).append((top, mounted))
        elif kinds[0] == "cgroup" and "memory" in kinds[2].split(","):
            found.setdefault(1, []).append((top, mounted))
    return found


def _up(folder: Path, top: Path, version: int, swap: int) -> Iterator[Free]:
    """Yield what the group of a folder and those above it leave, up to `top`."""
    own = folder
    while True:
        inherits = folder == own or (_number(folder / "memory.use_hierarchy") != 0)
        left = _left_v1(folder, swap) if version == 1 else _left_v2(folder, swap)
        if left is not None and inherits:
            yield left
        if folder == top or folder == folder.parent:
            return
        folder = folder.parent


def _left_v1(folder: Path, swap: int) -> Free | None:
    limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    if limit is None or used is None or limit >= _NO_LIMIT:
        return None
    stat = _table(folder / "memory.stat")
    cache = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    return Free(limit - used + cache + swap, limit, _of(limit), swap)


def _left_v2(folder: Path, swap: int) -> Free | None:
    limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
    if limit is None or used is None:  # "max", or the root group, which has no such file
        return None
    stat = _table(folder / "memory.stat")
    cache = sum(stat.get(name, 0) for name in ("inactive_file", "active_file", "slab_reclaimable"))
    most, swapped = _number(folder / "memory.swap.max"), _number(folder / "memory.swap.current") or 0
    swap = swap if most is None else max(min(swap, most - swapped), 0)
    return Free(limit - used + cache + swap, limit, _of(limit), swap)


def _of(limit: int) -> str:
    return f"the {megabytes(limit)} that this process's control group allows"


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _table(path: Path) -> dict[str, int]:
    """Return the numbers of a file by name, from lines such as "MemTotal: 8000 kB"."""
    found = {}
    for line in _lines(path):
        name, *rest = line.replace(":", " ").split() or [""]
        with contextlib.suppress(ValueError, IndexError):
            found[name] = int(rest[0])
    return found


def give_back() -> None:
    """Return unused memory of this process to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
