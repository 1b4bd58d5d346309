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

ONEDNN_HEADERS = Path("oneapi/dnnl")
OLDEST_ONEDNN = (3, 0)
# Its threads must be those of the module, whose number is kept so that results do not depend on it.
ONEDNN_RUNTIMES = ("OMP", "SEQ")
INTELS_OPENMP = b"libiomp5.so"
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
        runtime: The threads that it was built for, such as OMP or TBB.
    """

    version: str
    source: str
    flags: str
    libraries: str
    runtime: str


def find_onednn(compiler: list[str]) -> tuple[OneDnn | None, str]:
    """Return the oneDNN to build with, and the reason if there is none.

    Searched are ``ONEDNN_ROOT``, the PyPI package, the system (``pkg-config``, then the compiler's own
    folders) and conda's environment, in this order.

    Raises:
        WrongRoot: ONEDNN_ROOT names a folder without a oneDNN that serves.
    """
    if root := os.environ.get("ONEDNN_ROOT"):
        found = onednn_below(Path(root), root)
        if found is None:
            raise WrongRoot(
                f"ONEDNN_ROOT={root} needs include/{ONEDNN_HEADERS}/dnnl.hpp and lib/libdnnl.so or lib64/"
            )
        if unfit := unfitness(found):
            raise WrongRoot(f"ONEDNN_ROOT: {unfit}")
        return found, ""
    conda = os.environ.get("CONDA_PREFIX")
    candidates = (
        packaged_onednn,
        lambda: pkg_config_onednn(compiler),
        lambda: compilers_onednn(compiler),
        lambda: onednn_below(Path(conda), conda) if conda else None,
    )
    missing = []
    for candidate in candidates:
        if (found := candidate()) is not None:
            if not (unfit := unfitness(found)):
                return found, ""
            missing.append(unfit)
    return None, "; ".join(missing) or "no oneDNN 3 was found: ONEDNN_ROOT names its folder"


def unfitness(found: OneDnn) -> str:
    """Return the sentence that refuses a oneDNN, or nothing."""
    name, oldest = f"oneDNN {found.version} of {found.source}", ".".join(map(str, OLDEST_ONEDNN))
    if tuple(map(int, found.version.split("."))) < OLDEST_ONEDNN:
        return f"{name} is too old, {oldest} or newer is needed"
    if found.runtime not in ONEDNN_RUNTIMES:
        return f"{name} runs on {found.runtime}, the compiler's OpenMP is needed"
    return ""


def described(macros: str, source: str, flags: str, libraries: str) -> OneDnn | None:
    """Return the oneDNN that the macros of dnnl_version.h and dnnl_config.h describe, or None."""
    parts = [re.search(rf"#define DNNL_VERSION_{part} (\d+)", macros) for part in ("MAJOR", "MINOR", "PATCH")]
    numbers = [part[1] for part in parts if part]
    # Threads are SYCL's where the device is; else another macro tells whose they are.
    device, threads = (
        re.search(rf"#define DNNL_CPU_{name} DNNL_RUNTIME_(\w+)", macros)
        for name in ("RUNTIME", "THREADING_RUNTIME")
    )
    if len(numbers) < len(parts) or device is None:
        return None
    runtime = device[1] if device[1] not in ONEDNN_RUNTIMES or threads is None else threads[1]
    return OneDnn(".".join(numbers), source, flags, libraries, runtime)


def onednn_in(include: Path, lib: Path, source: str, own: bool) -> OneDnn | None:
    """Return the oneDNN whose headers and library are in these folders, or None.

    Args:
        include: The folder of headers.
        lib: The folder of libraries.
        source: Its origin, for people.
        own: The module finds the library there itself when it is loaded.
    """
    headers = [include / ONEDNN_HEADERS / name for name in ("dnnl_version.h", "dnnl_config.h")]
    library = lib / "libdnnl.so"
    if not all(file.is_file() for file in (*headers, library)):
        return None
    path = f" {option('-Xlinker -rpath -Xlinker ', lib.absolute())}" if own else ""
    # Folders that the compiler searches anyway must keep their place among them.
    flags = [] if str(include) in ("/usr/include", "/usr/local/include") else [option("-isystem ", include)]
    flags += [OWN_ONEDNN] * own
    macros = "".join(header.read_text(encoding="utf-8", errors="replace") for header in headers)
    found = described(macros, source, " ".join(flags), f"{option('-L', lib)} -ldnnl{path}")
    if found is not None and INTELS_OPENMP in library.read_bytes():
        return dataclasses.replace(found, runtime="Intel's OpenMP")
    return found


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


def pkg_config_onednn(compiler: list[str]) -> OneDnn | None:
    """Return the oneDNN that pkg-config knows, or None."""
    flags, libraries = (output("pkg-config", question, "dnnl").strip() for question in ("--cflags", "--libs"))
    if not libraries:
        return None
    folders = [word[2:] for word in libraries.split() if word.startswith("-L")]
    paths = "".join(f" -Xlinker -rpath -Xlinker {folder}" for folder in folders)
    macros = onednn_macros([*compiler, *flags.split()])
    return described(macros, "pkg-config", f"{flags} {OWN_ONEDNN}".strip(), libraries + paths)


def compilers_onednn(compiler: list[str]) -> OneDnn | None:
    """Return the oneDNN in the folders that the compiler searches by itself, or None."""
    found = described(onednn_macros(compiler), "the system", OWN_ONEDNN, "-ldnnl")
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder, "linked.so")
        output(*compiler, "-shared", "-o", str(linked), "-ldnnl")
        return found if linked.exists() else None


def onednn_macros(compiler: list[str]) -> str:
    """Return the macros that oneDNN's headers define for a compiler, or nothing."""
    names = [str(ONEDNN_HEADERS / name) for name in ("dnnl_version.h", "dnnl_config.h")]
    includes = [word for name in names for word in ("-include", name)]
    return output(*compiler, "-E", "-dM", "-x", "c++", *includes, os.devnull)


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
