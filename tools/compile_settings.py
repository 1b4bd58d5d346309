"""Print this machine's compilers, libraries and GPU architectures as variables of make.

The Makefile's compile rules read them. Only files and the metadata of packages are looked at: nothing that
cconvnet needs at run time is imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

RELEASE_ARCHS = "80 90a 120 ptx"


def packaged_file(distribution: str, name: str) -> Path | None:
    """Return the installed file called `name` of a PyPI distribution, or None."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())).resolve() for f in files if f.name == name), None)


def find_nvcc() -> Path | None:
    """Return the nvcc in CUDA_HOME, else on PATH, else of the pip package, else in the usual folder."""
    home = os.environ.get("CUDA_HOME")
    candidates = [
        Path(home, "bin", "nvcc") if home else None,
        Path(found) if (found := shutil.which("nvcc")) else None,
        packaged_file("nvidia-cuda-nvcc", "nvcc"),
        Path("/usr/local/cuda/bin/nvcc"),
    ]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def present_archs() -> str:
    """Return the architectures of the GPUs in this machine, or the empty string."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return ""
    capabilities = {line.strip().replace(".", "") for line in answer.stdout.splitlines()}
    # From Hopper on, the chip's own instructions exist only under its architecture-specific name.
    return " ".join(sorted(c + "a" if c == "90" else c for c in capabilities if c.isdigit()))


def cupy() -> str:
    """Return the requirement of CuPy for the newest CUDA that the driver serves."""
    answer = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
    served = re.search(r"CUDA (?:\w+ )*Version: (\d+)", answer)
    return "cupy-cuda12x>=13.6" if served is not None and served[1] == "12" else "cupy-cuda13x>=13.6"


def gencode(archs: str) -> str:
    """Return nvcc's flags for a list such as "80 90a ptx"; `ptx` adds portable code for sm_75 and later."""
    flags = []
    for arch in archs.replace(",", " ").replace("sm_", "").split():
        code = "arch=compute_75,code=compute_75" if arch == "ptx" else f"arch=compute_{arch},code=sm_{arch}"
        flags.append(f"-gencode {code}")
    return " ".join(flags)


def option(name: str, path: object) -> str:
    """Return a compiler's option with a path, quoted for make and the shell."""
    return name + shlex.quote(str(path)).replace("#", r"\#")


def pybind11_include() -> Path:
    """Return the folder of pybind11's headers, or exit if it is not installed."""
    header = packaged_file("pybind11", "pybind11.h")
    if header is None:
        sys.exit("pybind11 is missing: pip install pybind11")
    return header.parent.parent


def main() -> None:
    """Print one assignment for each variable."""
    onednn_header = packaged_file("onednn-devel-cpu-gomp", "dnnl.hpp")
    onednn = onednn_header.parent.parent if onednn_header else None
    present = present_archs()
    archs = os.environ.get("CCONVNET_ARCHS") or present or RELEASE_ARCHS
    nvcc = find_nvcc()
    python_includes = (sysconfig.get_path("include"), pybind11_include())
    settings = {
        "EXT": sysconfig.get_config_var("EXT_SUFFIX"),
        "PYTHON_INCLUDES": " ".join(option("-isystem ", path) for path in python_includes),
        "ONEDNN_INCLUDES": option("-isystem ", onednn / "include") if onednn else "",
        "ONEDNN_LIBRARIES": option("-L", onednn / "lib") + " -ldnnl" if onednn else "",
        "NVCC": option("", nvcc) if nvcc else "",
        "GPU_ARCHS": present,
        "CUPY": cupy() if present else "",
        "ARCHS": archs,
        "GENCODE": gencode(archs),
    }
    for name, value in settings.items():
        print(f"{name} := {value}")


if __name__ == "__main__":
    main()
