"""The machine code that a profile is about: nvcc's objects if there are some, else the package's facts."""

from __future__ import annotations

import re
from pathlib import Path

from cconvnet.profile.facts import Facts, by_name, facts_of, from_line, shipped, to_line
from cconvnet.profile.machine_code import ToolMissing, demangle, find_tool, read, short_name
from cconvnet.system.installation import checkout


class Kernels:
    """Facts about kernels by name, read when they are asked for.

    Args:
        arch: The architecture.
        objects: A folder with nvcc's objects; None: only the package's facts.

    Attributes:
        source: Their origin in words.
    """

    def __init__(self, arch: str, objects: Path | None) -> None:
        self._arch = arch
        self._objects = sorted(objects.rglob("*.o")) if objects else []
        self._found: dict[str, Facts] = {} if objects else dict(shipped(arch))
        self._path_of: dict[str, Path] = {}
        self.source = f"the objects in {objects}" if objects else "the package's facts"

    def find(self, name: str) -> Facts | None:
        """Return the facts about a kernel, None if there is none of this name."""
        while name not in self._found:
            path = next((path for path in self._objects if name in _symbols(path)), None)
            if path is None:
                return None
            self._read(path)
        return self._found[name]

    def object_of(self, name: str) -> Path | None:
        """Return the object with a kernel that was found, None if its facts are the package's."""
        return self._path_of.get(name)

    def _read(self, path: Path) -> None:
        self._objects.remove(path)
        found = by_name(_facts(path, self._arch))
        self._found |= found
        self._path_of |= dict.fromkeys(found, path)

    def of_row(self, row: str) -> Facts | None:
        """Return the facts about the main kernel of a row of a selection table, None if none is like it."""
        # FC layers are products of the convolutions' kernels.
        row = re.sub(r"^fc_(\w+?)_gemm", r"conv_\1_implicit_gemm", row)
        row = re.sub(r"^fc_(\w+?)_wgmma_(?!cluster|streamed)", r"conv_\1_wgmma_", row)
        own = {"_cluster_": "fc_cluster", "_streamed_": "fc_update"}
        of_groups = next((stem for kind, stem in own.items() if kind in row), "conv_wgmma")
        for path in self._objects:
            if row.startswith(path.stem) or ("_wgmma_" in row and path.stem == of_groups):
                self._read(path)
                break
        return next((facts for name, facts in self._found.items() if row_of(name) == row), None)


def kernels(arch: str, objects: Path | None = None) -> Kernels:
    """Return the facts about all kernels for an architecture.

    Args:
        arch: The architecture.
        objects: A folder with nvcc's objects; None: the checkout's if it has some that can be read, else the
            package's facts.

    Raises:
        ValueError: The folder contains no objects, or there are no facts about this architecture.
        ToolMissing: A tool that reads the objects is missing.
    """
    if objects is not None:
        if not any(objects.rglob("*.o")):
            raise ValueError(
                f"{objects} contains no objects of nvcc: make machine-code KERNELS=... makes them"
            )
        return Kernels(arch, objects)
    if (own := _checkouts_objects()) is not None:
        return Kernels(arch, own)
    if not shipped(arch):
        raise ValueError(f"the package has no facts about kernels for {arch}")
    return Kernels(arch, None)


def _checkouts_objects() -> Path | None:
    """Return the folder of the checkout's objects if they are there and can be read."""
    root = checkout()
    folders = [] if root is None else sorted(root.glob("build/*/cuda"))
    for folder in folders:
        if any(folder.glob("*.o")):
            try:
                find_tool("cuobjdump")
            except ToolMissing:
                return None
            return folder
    return None


def _facts(path: Path, arch: str) -> list[Facts]:
    """Return the facts about the kernels of an object, kept beside it since reading takes seconds."""
    kept = path.with_suffix(f".{arch}.facts")
    if kept.exists() and kept.stat().st_mtime_ns > path.stat().st_mtime_ns:
        return [from_line(line, arch) for line in kept.read_text(encoding="utf-8").splitlines()]
    found = [facts_of(kernel) for kernel in read(path, arch)]
    kept.write_text("".join(f"{to_line(facts)}\n" for facts in found), encoding="utf-8")
    return found


def _symbols(path: Path) -> set[str]:
    """Return the names of the kernels that an object registers with the CUDA runtime, as plain text."""
    mangled = re.findall(rb"\0(_Z[\w$]+)(?=\0)", path.read_bytes())
    return set(map(short_name, demangle(sorted({name.decode() for name in mangled}))))


def row_of(name: str) -> str:
    """Return the row of a selection table that launches a kernel; the name itself if it is no tile's."""
    tile = r"(\w+)<WgmmaTile<(float|bfloat16), (\d+), (\d+), (\d+), \d+, Pairing:(\d)>(?:, (\d+))?"
    if group := re.match(tile, name):
        element, depth = ("bf16", 64) if group[2] == "bfloat16" else ("tf32", 32)
        slabs = f"_slabs_of_{group[5]}" if int(group[5]) < depth else ""
        pairs = ("", "_pairs_along_m", "_pairs_along_n")[int(group[6])]
        lines = f"_lines_of_{group[7]}" if group[7] else ""
        return f"{group[1]}_{element}_{group[3]}x{group[4]}x{depth}{slabs}{pairs}{lines}"
    found = re.match(
        r"(\w+)<(Tensor|SplitTensor)?Tile<(?:(float|bfloat16), )?(\d+), (\d+), (\d+)(?:, \d+)*?(, 1)?>", name
    )
    if found is None:
        return name
    floats = {None: "fp32", "Tensor": "tf32", "SplitTensor": "fp32x3"}[found[2]]
    element = "bf16" if found[3] == "bfloat16" else floats
    scalar = "_scalar" if found[7] and not found[2] else ""
    return f"{found[1]}_{element}_{found[4]}x{found[5]}x{found[6]}{scalar}"
