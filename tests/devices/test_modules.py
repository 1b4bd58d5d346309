"""The libraries of the compiled modules are found, and no two of one kind come into a process."""

from __future__ import annotations

import ctypes
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import cconvnet
from cconvnet.devices.modules import load_onednn


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
