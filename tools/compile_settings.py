"""Print this machine's compilers, libraries and GPU architectures as variables of make.

The Makefile's compile rules read them. Only files and the metadata of packages are looked at: nothing that
cconvnet needs at run time is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
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
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    capabilities = {line.strip().replace(".", "") for line in output(*query).splitlines()}
    # From Hopper on, the chip's own instructions exist only under its architecture-specific name.
    return " ".join(sorted(c + "a" if c == "90" else c for c in capabilities if c.isdigit()))


def cupy() -> str:
    """Return the requirement of CuPy for the newest CUDA that the driver serves."""
    served = re.search(r"CUDA (?:\w+ )*Version: (\d+)", output("nvidia-smi"))
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
    return name + escaped(shlex.quote(str(path)))


def escaped(text: str) -> str:
    """Return a text as make reads it in an assignment."""
    return text.replace("#", r"\#")


# ---- oneDNN -----------------------------------------------------------------------------------------------

ONEDNN_HEADER = "oneapi/dnnl/dnnl.hpp"
OLDEST_ONEDNN = (3, 0)
# Marks a module that finds its library itself; cconvnet/devices/modules.py then loads no other.
OWN_ONEDNN = "-DCCONVNET_OWN_ONEDNN"


class WrongRoot(Exception):
    """The folder that ONEDNN_ROOT names has no oneDNN that can be used."""


@dataclasses.dataclass(frozen=True)
class OneDnn:
    """An installed oneDNN.

    Attributes:
        version: Its version, such as 3.13.1.
        source: Its origin, for people.
        flags: The flags that compile with it.
        libraries: The flags that link with it.
    """

    version: str
    source: str
    flags: str
    libraries: str


def find_onednn(compiler: list[str]) -> tuple[OneDnn | None, str]:
    """Return the oneDNN to build with, and the reason if there is none.

    Searched are ``ONEDNN_ROOT``, the PyPI package, the system (``pkg-config``, then the compiler's own
    folders) and conda's environment, in this order.

    Raises:
        WrongRoot: ONEDNN_ROOT names a folder without oneDNN, or with one that is too old.
    """
    if root := os.environ.get("ONEDNN_ROOT"):
        found = onednn_below(Path(root), root)
        if found is None:
            raise WrongRoot(f"ONEDNN_ROOT={root} needs include/{ONEDNN_HEADER} and lib/libdnnl.so or lib64/")
        if old := too_old(found):
            raise WrongRoot(f"ONEDNN_ROOT: {old}")
        return found, ""
    conda = os.environ.get("CONDA_PREFIX")
    candidates = (
        packaged_onednn,
        pkg_config_onednn,
        lambda: compilers_onednn(compiler),
        lambda: onednn_below(Path(conda), conda) if conda else None,
    )
    missing = []
    for candidate in candidates:
        if (found := candidate()) is not None:
            if not (old := too_old(found)):
                return found, ""
            missing.append(old)
    return None, "; ".join(missing) or "no oneDNN 3 was found: ONEDNN_ROOT names its folder"


def too_old(found: OneDnn) -> str:
    """Return the sentence that refuses a oneDNN, or nothing."""
    oldest = ".".join(map(str, OLDEST_ONEDNN))
    if tuple(map(int, re.findall(r"\d+", found.version))) >= OLDEST_ONEDNN:
        return ""
    return f"oneDNN {found.version} of {found.source} is too old, {oldest} or newer is needed"


def version_in(header: str) -> str:
    """Return the version that the macros of oneDNN's dnnl_version.h define, or nothing."""
    numbers = [
        re.search(rf"#define DNNL_VERSION_{part} (\d+)", header) for part in ("MAJOR", "MINOR", "PATCH")
    ]
    return ".".join(number[1] for number in numbers if number) if all(numbers) else ""


def onednn_in(include: Path, lib: Path, source: str, own: bool) -> OneDnn | None:
    """Return the oneDNN whose headers and library are in these folders, or None.

    Args:
        include: The folder of headers.
        lib: The folder of libraries.
        source: Its origin, for people.
        own: The module finds the library there itself when it is loaded.
    """
    header = include / Path(ONEDNN_HEADER).with_name("dnnl_version.h")
    if not header.is_file() or not (lib / "libdnnl.so").exists():
        return None
    version = version_in(header.read_text(encoding="utf-8", errors="replace"))
    path = f" {option('-Xlinker -rpath -Xlinker ', lib.absolute())}" if own else ""
    # Folders that the compiler searches anyway must keep their place among them.
    flags = [] if str(include) in ("/usr/include", "/usr/local/include") else [option("-isystem ", include)]
    flags += [OWN_ONEDNN] * own
    return OneDnn(version, source, " ".join(flags), f"{option('-L', lib)} -ldnnl{path}") if version else None


def onednn_below(prefix: Path, source: str) -> OneDnn | None:
    """Return the oneDNN installed below a prefix, or None."""
    for lib in ("lib", "lib64", f"lib/{sysconfig.get_config_var('MULTIARCH')}"):
        if found := onednn_in(prefix / "include", prefix / lib, source, own=True):
            return found
    return None


def packaged_onednn() -> OneDnn | None:
    """Return the oneDNN of the PyPI package, which the package loads at run time, or None."""
    header = packaged_file("onednn-devel-cpu-gomp", "dnnl.hpp")
    if header is None:
        return None
    return onednn_in(header.parent, header.parent.parent / "lib", "onednn-cpu-gomp", own=False)


def pkg_config_onednn() -> OneDnn | None:
    """Return the oneDNN that pkg-config knows, or None."""
    answers = [output("pkg-config", question, "dnnl") for question in ("--modversion", "--cflags", "--libs")]
    version, flags, libraries = map(str.strip, answers)
    if not version or not libraries:
        return None
    folders = [word[2:] for word in libraries.split() if word.startswith("-L")]
    paths = "".join(f" -Xlinker -rpath -Xlinker {folder}" for folder in folders)
    return OneDnn(version, "pkg-config", f"{flags} {OWN_ONEDNN}".strip(), libraries + paths)


def compilers_onednn(compiler: list[str]) -> OneDnn | None:
    """Return the oneDNN in the folders that the compiler searches by itself, or None."""
    header = str(Path(ONEDNN_HEADER).with_name("dnnl_version.h"))
    version = version_in(output(*compiler, "-E", "-dM", "-x", "c++", "-include", header, os.devnull))
    if not version:
        return None
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder, "linked.so")
        output(*compiler, "-shared", "-o", str(linked), "-ldnnl")
        return OneDnn(version, "the system", OWN_ONEDNN, "-ldnnl") if linked.exists() else None


def output(*command: str) -> str:
    """Return a command's output, or an empty text if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


# ---- all settings ------------------------------------------------------------------------------------------


def pybind11_include() -> Path:
    """Return the folder of pybind11's headers, or exit if it is not installed."""
    header = packaged_file("pybind11", "pybind11.h")
    if header is None:
        sys.exit("pybind11 is missing: pip install pybind11")
    return header.parent.parent


def main() -> None:
    """Print one assignment for each variable. The arguments are the C++ compiler's command."""
    try:
        onednn, no_onednn, onednn_error = *find_onednn(sys.argv[1:] or ["c++"]), ""
    except WrongRoot as error:
        onednn, no_onednn, onednn_error = None, "", str(error)
    present = present_archs()
    archs = os.environ.get("CCONVNET_ARCHS") or present or RELEASE_ARCHS
    nvcc = find_nvcc()
    python_includes = (sysconfig.get_path("include"), pybind11_include())
    settings = {
        "EXT": sysconfig.get_config_var("EXT_SUFFIX"),
        "PYTHON_INCLUDES": " ".join(option("-isystem ", path) for path in python_includes),
        "ONEDNN": f"{onednn.version} of {onednn.source}" if onednn else "",
        "ONEDNN_FLAGS": onednn.flags if onednn else "",
        "ONEDNN_LIBRARIES": onednn.libraries if onednn else "",
        "ONEDNN_MISSING": escaped(no_onednn),
        "ONEDNN_ERROR": escaped(onednn_error),
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
