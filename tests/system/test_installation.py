"""Commands that complete an installation fit the way in which this package was installed."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import cconvnet
from cconvnet.system.installation import checkout, pip_install, rebuild


@pytest.fixture
def own_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).parent / name))


def installed_from(monkeypatch: pytest.MonkeyPatch, folder: Path, url: str | None) -> None:
    """Let this package lie in a folder, and pip have installed it from a URL."""
    (folder / "cconvnet").mkdir(parents=True)
    monkeypatch.setattr(cconvnet, "__file__", str(folder / "cconvnet" / "__init__.py"))
    text = None if url is None else json.dumps({"url": url})
    found = SimpleNamespace(read_text=lambda name: text if name == "direct_url.json" else None)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)


def test_packages_are_installed_for_this_interpreter(monkeypatch: pytest.MonkeyPatch, own_pip: None) -> None:
    assert pip_install("matplotlib") == "pip install matplotlib"
    monkeypatch.setattr(sys, "executable", "/home/me/my env/bin/python")
    # The first pip on PATH belongs to another Python, or there is none.
    for pip in ("/usr/bin/pip", None):
        monkeypatch.setattr(shutil, "which", lambda name, pip=pip: pip)
        assert pip_install("a", "b") == "'/home/me/my env/bin/python' -m pip install a b"


def test_a_checkout_is_built_by_make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "my checkout"
    installed_from(monkeypatch, folder, None)
    assert checkout() is None
    for name in ("Makefile", "pyproject.toml"):
        (folder / name).touch()
    assert checkout() == folder
    assert rebuild() == f"make -C '{folder}' venv"
    assert rebuild("CCONVNET_CUDA=on", "cuda") == f"CCONVNET_CUDA=on make -C '{folder}' cuda"


def test_this_checkout_is_found() -> None:
    assert checkout() == Path(__file__).resolve().parents[2]


def test_a_package_built_from_a_folder_is_built_from_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_pip: None
) -> None:
    source = tmp_path / "my source"
    source.mkdir()
    installed_from(monkeypatch, tmp_path / "site-packages", source.as_uri())
    options = "--force-reinstall --no-deps --no-cache-dir"
    assert rebuild("CCONVNET_CUDA=on") == f"CCONVNET_CUDA=on pip install {options} '{source}'"


@pytest.mark.parametrize("url", [None, "file:///gone/cconvnet-0.1.0-py3-none-any.whl", "https://there/x.whl"])
def test_a_wheel_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_pip: None, url: str | None
) -> None:
    """A wheel has its modules inside: installing it once more brings none that it lacks."""
    installed_from(monkeypatch, tmp_path, url)
    again = "make wheel && pip install --force-reinstall --no-deps dist/*.whl"
    assert rebuild() == f"in a checkout of cconvnet: {again}"
    assert rebuild("CCONVNET_CUDA=on") == f"in a checkout of cconvnet: CCONVNET_CUDA=on {again}"
