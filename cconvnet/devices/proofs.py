"""Proofs of kernels: which rows of selection tables a GPU of an architecture has computed without a fault.

A row of which ``needs_proof`` is true in ``kernels/core/select.h`` uses instructions that the emulator only
imitates. It is chosen by itself only on GPUs of an architecture on which it was proven. The proof is a JSON
file, such as ``proven/sm_90a.json``, that the report of a GPU writes (``make gpu-report``). It contains

    architecture: "sm_90a"
    kernels: the digest of the sources that the rows are compiled from (tools/kernel_digest.py)
    toolkit: the CUDA toolkit and compiler that compiled them
    rows: for each row that passed, the number of its checks
    failed: for each row that did not, its first difference
    machine: the chip, versions, commit and date

A proof holds only for a module with the same digest and toolkit, so a kernel that was changed is unproven
again. Proofs are read from this package and from the folder in CCONVNET_PROVEN.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROVEN = Path(__file__).with_name("proven")
VARIABLE = "CCONVNET_PROVEN"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Proof:
    """Rows that are proven for a module on GPUs of one architecture.

    Attributes:
        architecture: Such as ``sm_90a``.
        rows: The names of the rows.
        waiting: The names of the rows that need a proof and have none.
        reasons: The reason why each file that was found proves nothing.
    """

    architecture: str
    rows: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


# ---- architectures --------------------------------------------------------------------------------------


def archs_of(build: str | None) -> list[str] | None:
    """Return the architectures in a module's build information, such as ["80", "90a", "ptx"]."""
    found = re.search(r"architectures ([^,]*)", build or "")
    return found[1].split() if found else None


def runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Return whether machine code for an architecture such as 80 or 90a runs on a GPU.

    Code runs on later minor versions of the same major version. An "a" restricts it to its own version.
    Source: CUDA programming guide, "Binary Compatibility".
    """
    found = re.fullmatch(r"(\d+)(\d)(a?)", arch)
    if found is None:
        return False
    own = (int(found[1]), int(found[2]))
    return own == capability if found[3] else own[0] == capability[0] and own[1] <= capability[1]


def architecture_of(build: str, capability: tuple[int, int]) -> str:
    """Return the architecture whose code of a build a GPU runs, such as ``sm_90a``.

    Without such code it is the GPU's own.
    """
    able = [arch for arch in archs_of(build) or [] if runs_on(arch, capability)]
    # Of several that run, the driver takes the newest, and the one for this chip alone before all others.
    best = max(able, key=lambda arch: (arch.endswith("a"), int(arch.rstrip("a"))), default=None)
    return f"sm_{best or ''.join(map(str, capability))}"


def toolkit_of(build: str) -> str:
    """Return the CUDA toolkit and compiler in a module's build information; empty in the emulator's."""
    found = re.match(r"CUDA [\d.]+, nvcc [\d.]+", build)
    return found[0] if found else ""


# ---- proofs ---------------------------------------------------------------------------------------------


def rows_to_prove(module: Any) -> list[str]:
    """Return the rows of a module that a GPU is to prove; NumPy's has none."""
    return list(module.rows_to_prove()) if hasattr(module, "rows_to_prove") else []


def unproven_rows(module: Any) -> list[str]:
    """Return the rows of a module that need a proof and have none in this process."""
    return list(module.unproven_rows()) if hasattr(module, "unproven_rows") else []


def find_proof(module: Any, architecture: str) -> Proof:
    """Return the rows of a module that are proven on an architecture.

    A file that cannot be read, or is of other kernels, proves nothing: the rows stay closed, which is safe,
    and the result contains the reason.
    """
    rows: set[str] = set()
    reasons = []
    for path in _files(architecture):
        try:
            rows.update(_read(path, module, architecture))
        except ValueError as error:
            reasons.append(f"{path}: {error}")
        except OSError as error:
            reasons.append(f"{path}: {error.strerror or error}")
    known = rows_to_prove(module)
    proven, waiting = (tuple(row for row in known if (row in rows) is wanted) for wanted in (True, False))
    return Proof(architecture, proven, waiting, tuple(reasons))


def open_proven_rows(module: Any, capability: tuple[int, int]) -> Proof:
    """Let a module choose the rows that are proven for GPUs of this compute capability."""
    proof = find_proof(module, architecture_of(module.build_info(), capability))
    if proof.rows:
        module.prove_rows(list(proof.rows))
    return proof


def proof_of(
    module: Any,
    architecture: str,
    machine: dict[str, Any],
    rows: dict[str, int],
    failed: dict[str, str],
) -> dict[str, Any]:
    """Return the contents of a proof's file.

    Args:
        module: The module that was tested.
        architecture: Such as ``sm_90a``.
        machine: Facts of ``cconvnet.devices.machine``.
        rows: The number of checks of each row that passed all of them.
        failed: The first difference of each other row.
    """
    return {
        "architecture": architecture,
        "kernels": module.kernel_digest(),
        "toolkit": toolkit_of(module.build_info()),
        "rows": rows,
        "failed": failed,
        "machine": machine,
    }


def _files(architecture: str) -> Iterator[Path]:
    folders = [PROVEN]
    if other := os.environ.get(VARIABLE):
        folders.append(Path(other))
    for folder in folders:
        path = folder / f"{architecture}.json"
        if path.exists():
            yield path


def _read(path: Path, module: Any, architecture: str) -> Sequence[str]:
    """Return the rows that a file proves; raise ValueError if it is none, or of another build."""
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError("is too long for a proof")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    keys = {"architecture": str, "kernels": str, "toolkit": str, "rows": dict}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in keys.items()):
        raise ValueError(f"is no proof: it needs {', '.join(keys)}")
    if found["architecture"] != architecture:
        raise ValueError(f"is a proof for {found['architecture'][:40]}")
    if not module.kernel_digest() or found["kernels"] != module.kernel_digest():
        raise ValueError("is of other kernels than this build's")
    if found["toolkit"] != (toolkit := toolkit_of(module.build_info())):
        raise ValueError(
            f"is of kernels that {found['toolkit'][:60]} compiled, not {toolkit or 'this build'}"
        )
    return list(found["rows"])
