"""Memory that this process may still take: of the machine, of its control groups, of a GPU.

Linux ends a process that goes beyond the limit of its control group without a word, so what is needed is
compared with what is free before it is taken. What the kernel can give back counts as free: pages of files,
and room for swapping. So nothing is refused here that could run.

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

_NO_LIMIT = 2**60  # version 1 says the largest multiple of a page instead


class NotEnoughMemory(MemoryError):
    """More memory is needed than is free; the text says how much."""


@dataclass(frozen=True)
class Free:
    """Memory in bytes.

    Attributes
        free: what can still be taken, with room for swapping. in_all: free or not.
        limit: what makes it so little, if not the machine itself.
        swap: the part of `free` that lies on a disk, which is slow.
    """

    free: int
    in_all: int
    limit: str = ""
    swap: int = 0

    @property
    def fast(self) -> int:
        """The free part of the memory itself."""
        return max(self.free - self.swap, 0)

    def __str__(self) -> str:
        of = f" of {self.limit}" if self.limit else ""
        return f"{megabytes(self.free)} are free{of}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def host(root: Path = Path("/")) -> Free | None:
    """The memory of the host that this process may still take; None where the system does not tell.

    Args
        root: what stands for ``/``: under it are ``proc`` and what its ``mountinfo`` names.
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
    """The memory that each control group of this process, and each around it, leaves."""
    mounts = _mounts(root)
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        for top, mounted in mounts.get(version, []):
            # Inside a container the mounted folder may be that of its own group, `path` as seen from outside.
            inner = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
            folder = root / mounted.relative_to("/") / inner
            if not folder.is_dir():
                folder = root / mounted.relative_to("/")
            yield from _up(folder, root / mounted.relative_to("/"), version, swap)


def _mounts(root: Path) -> dict[int, list[tuple[str, Path]]]:
    """By version, of each hierarchy that counts memory: the group that is mounted, and where."""
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
    if limit is None or used is None:  # "max", or the root, which has no such file
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
    """Lines of a name and a number."""
    found = {}
    for line in _lines(path):
        name, *rest = line.replace(":", " ").split() or [""]
        with contextlib.suppress(ValueError, IndexError):
            found[name] = int(rest[0])
    return found


def give_back() -> None:
    """Gives back to the system what this process holds and does not use."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
