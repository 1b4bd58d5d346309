"""Compiled modules are loaded with their libraries, no two of one kind in a process."""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import cconvnet
from cconvnet import devices
from cconvnet.devices import modules
from cconvnet.devices.cuda import import_cupy
from cconvnet.devices.modules import build_command, load_module, load_onednn


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """Let the package lie in a folder, with oneDNN's package installed; return what is loaded, and how."""
    found: list[tuple[str, int]] = []

    def load(path: str, mode: int = ctypes.DEFAULT_MODE) -> None:
        found.append((path, mode))

    library = SimpleNamespace(name="libdnnl.so.3", locate=lambda: Path("/lib/libdnnl.so.3"))
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [library])
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(cconvnet, "__file__", str(tmp_path / "cconvnet" / "__init__.py"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    return found


def test_onednn_of_the_environment_serves_no_module_but_its_own(loaded: list[tuple[str, int]]) -> None:
    load_onednn.__wrapped__()
    assert loaded == [("/lib/libdnnl.so.3", ctypes.RTLD_LOCAL)]


def test_a_library_that_onednn_misses_is_an_error_of_import(
    loaded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor and the choice of a device then go on without the CPU module."""

    def fail(path: str) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    with pytest.raises(ImportError, match=r"libgomp\.so\.1"):
        load_onednn.__wrapped__()


def test_a_wheel_uses_the_onednn_that_it_contains(loaded: list[tuple[str, int]], tmp_path: Path) -> None:
    (tmp_path / "cconvnet.libs").mkdir()
    (tmp_path / "cconvnet.libs" / "libgomp-f9a9ad78.so.1.0.0").touch()
    load_onednn.__wrapped__()
    assert len(loaded) == 1
    (tmp_path / "cconvnet.libs" / "libdnnl-e6376208.so.3").touch()
    load_onednn.__wrapped__()
    assert len(loaded) == 1


def test_a_module_built_with_another_onednn_gets_no_other(
    loaded: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two libraries of one name cannot be in a process: the first that is loaded would serve the module."""
    source = (Path(__file__).parents[2] / "kernels" / "cpu" / "runtime.cpp").read_text(encoding="utf-8")
    mark = next(line for line in source.splitlines() if "its own oneDNN" in line).split('"')[1]
    file = tmp_path / "_cpu.so"
    spec = importlib.machinery.ModuleSpec("cconvnet._cpu", None, origin=str(file))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    file.write_bytes(bytes(10_000))
    load_onednn.__wrapped__()
    assert len(loaded) == 1
    file.write_bytes(bytes(5_000) + mark.encode() + bytes(5_000))
    load_onednn.__wrapped__()
    assert len(loaded) == 1


def test_a_module_that_was_not_built_is_named_with_the_command_that_builds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(devices.DeviceUnavailable) as raised:
        load_module.__wrapped__("emulator")
    assert str(raised.value).endswith(
        f"without its emulator module; to build it: {build_command('emulator')}"
    )
    assert build_command("emulator").endswith(" emulator")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(devices.DeviceUnavailable, match=r"install the CUDA toolkit, then .*CCONVNET_CUDA=on"):
        load_module.__wrapped__("cuda")
    monkeypatch.setattr(modules, "load_onednn", lambda: None)
    module, what = load_module.__wrapped__("cpu")
    assert module.build_kind() == "numpy" and what.endswith(f"to build it: {build_command('cpu')}")


def test_a_machine_without_a_gpu_is_not_said_to_need_cupy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    with pytest.raises(devices.DeviceUnavailable, match=r"^a cuda device needs CuPy, which is missing: "):
        import_cupy()

    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(devices.DeviceUnavailable, match=r"^no driver of an NVIDIA GPU was found; .*install"):
        import_cupy()


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_module_path_without_modules_is_refused(folder: str, tmp_path: Path) -> None:
    """The package's own modules would run unnoticed, and a sanitizer find nothing."""
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "import cconvnet"],
        cwd=tmp_path,
        env=os.environ | {"CCONVNET_MODULE_PATH": folder},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"ImportError: CCONVNET_MODULE_PATH={folder} contains no compiled module" in done.stderr
