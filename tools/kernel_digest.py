"""Print the digest of the sources of kernels that a GPU is to prove.

The proof of a row of a selection table (cconvnet/devices/proofs.py) names this digest, and so does a compiled
module. So a proof is of the very kernels that it opens. Comments and white space are left out: they change no
kernel.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
# The files with rows to prove. Their kernels, and those that finish a product behind them, are in these
# files and in what they include.
ROOTS = (
    "conv_halo.cu",
    "conv_wgmma.cu",
    "fc_cluster.cu",
    "fc_update.cu",
    "gemm/split_reduce.cu",
    "gemm/tensor_map.cu",
)
# The emulator's part of a header is compiled for no GPU.
LEFT_OUT = ("emulator/",)

_TEXTS_AND_COMMENTS = re.compile(r'("(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\')|//[^\n]*|/\*.*?\*/', re.DOTALL)


def sources(kernels: Path = KERNELS) -> list[Path]:
    """Return the files that rows to prove are compiled from, in order of their names."""
    found: set[Path] = set()
    left = [kernels / name for name in ROOTS]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        for name in re.findall(r'^ *# *include "(.+?)"', path.read_text(encoding="utf-8"), re.MULTILINE):
            beside = path.parent / name
            if not name.startswith(LEFT_OUT):
                left.append(beside if beside.exists() else kernels / name)
    return sorted(found)


def code(text: str) -> str:
    """Return a source without comments and blank lines, its words apart by single spaces."""
    lines = _TEXTS_AND_COMMENTS.sub(lambda found: found[1] or " ", text).splitlines()
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


def digest(kernels: Path = KERNELS) -> str:
    """Return the SHA-256 of these files' names and code, in hexadecimal."""
    whole = hashlib.sha256()
    for path in sources(kernels):
        name = path.relative_to(kernels).as_posix()
        whole.update(f"{name}\0{code(path.read_text(encoding='utf-8'))}\0".encode())
    return whole.hexdigest()


if __name__ == "__main__":
    print(digest())
