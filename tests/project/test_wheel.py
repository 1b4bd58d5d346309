"""Wheels: their metadata, the workflow that builds them, and training from one in an empty environment."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
import runpy
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

import cconvnet

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "wheels.yml"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return runpy.run_path(str(ROOT / "tools" / "wheel.py"))


METADATA = """\
Metadata-Version: 2.4
Name: cconvnet
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Dist: numpy>=2.0
Requires-Dist: onednn-cpu-gomp>=2023.2; platform_machine == "x86_64" and sys_platform == "linux"
Requires-Dist: matplotlib>=3.8; extra == "plot"

# cconvnet

Requires-Dist: onednn-cpu-gomp is a line of the description.
"""


def test_a_wheel_with_onednn_has_its_license_and_needs_no_package_of_it(
    tool: dict[str, Any], tmp_path: Path
) -> None:
    wheel = tmp_path / "cconvnet-0.1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("cconvnet/__init__.py", "text")
        file.writestr("cconvnet-0.1.0.dist-info/METADATA", METADATA)
    tool["complete"](wheel, {"LICENSE-oneDNN": b"its license"})
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        metadata = message_from_bytes(file.read("cconvnet-0.1.0.dist-info/METADATA"))
        assert file.read("cconvnet-0.1.0.dist-info/licenses/LICENSE-oneDNN") == b"its license"
        assert file.read("cconvnet/__init__.py") == b"text"
    assert len(names) == len(set(names)) == 3
    assert metadata.get_all("Requires-Dist") == ["numpy>=2.0", 'matplotlib>=3.8; extra == "plot"']
    assert metadata.get_all("License-File") == ["LICENSE", "LICENSE-oneDNN"]
    assert "GCC-exception" in metadata["License-Expression"]
    assert metadata.get_payload() == METADATA.partition("\n\n")[2]


def test_onednn_is_not_copied_without_its_license(tool: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    with pytest.raises(SystemExit, match="no license of oneDNN was found"):
        tool["onednn_notices"](tmp_path / "lib" / "libdnnl.so.3")
    folder = tmp_path / "share" / "doc" / "onednn"
    folder.mkdir(parents=True)
    (folder / "LICENSE").write_text("terms")
    assert tool["onednn_notices"](tmp_path / "lib" / "libdnnl.so.3") == {"LICENSE-oneDNN": b"terms"}


def test_the_onednn_that_the_build_prefers_is_copied(
    tool: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "own" / "lib64" / "libdnnl.so.3.5"
    library.parent.mkdir(parents=True)
    library.touch()
    (library.parent / "libdnnl.so.3").symlink_to(library.name)
    monkeypatch.setenv("ONEDNN_ROOT", str(tmp_path / "own"))
    assert tool["onednn_library"]() == library
    monkeypatch.setenv("ONEDNN_ROOT", str(tmp_path))
    assert tool["onednn_library"]() is None


# ---- the workflow ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    return found


def commands(jobs: dict[str, Any]) -> list[str]:
    """Return the shell programs of all steps, with a Python for the matrix's."""
    texts = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    return [re.sub(r"\$\{\{ *matrix\.python *\}\}", "3.11", text) for text in texts]


def test_the_workflow_builds_for_every_python_of_the_package(jobs: dict[str, Any]) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pythons = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    assert len(pythons) >= 4
    for name in ("build", "try"):
        assert jobs[name]["strategy"]["matrix"]["python"] == pythons
    assert "manylinux" in jobs["build"]["container"]


def test_jobs_of_the_workflow_need_jobs_that_exist(jobs: dict[str, Any]) -> None:
    for job in jobs.values():
        needed = job.get("needs", [])
        assert set([needed] if isinstance(needed, str) else needed) <= set(jobs)
        assert "timeout-minutes" in job
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    uploaded = {s["with"]["name"] for s in steps if "upload-artifact" in s.get("uses", "")}
    fetched = {s["with"].get("name") for s in steps if "download-artifact" in s.get("uses", "")} - {None}
    assert fetched <= uploaded


def test_commands_of_the_workflow_are_whole_and_name_targets_of_make(jobs: dict[str, Any]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = []
    for text in commands(jobs):
        assert "${{" not in text, "an expression in a shell's program could be a command"
        done = subprocess.run(
            ["bash", "-n", "-c", text], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        made += re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    assert made == ["wheel"] and set(made) <= targets


def test_the_workflow_refuses_a_tag_of_another_version(jobs: dict[str, Any]) -> None:
    (text,) = (text for text in commands(jobs) if "GITHUB_REF_NAME" in text and "cconvnet" in text)
    text = text.replace("python3", sys.executable)
    for tag, code in ((f"v{cconvnet.__version__}", 0), ("v99.0", 1)):
        done = subprocess.run(
            ["bash", "-ec", text],
            cwd=ROOT,
            env=os.environ | {"GITHUB_REF_NAME": tag},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code


# ---- a whole wheel --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("auditwheel") is None, reason="auditwheel is not installed")
def test_a_wheel_trains_in_an_empty_environment(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "CCONVNET", "PY"))
    }
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "wheel.py"), "--out", str(tmp_path)],
        env=environment | {"CCONVNET_CUDA": "off"},
        timeout=3000,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert "manylinux" in wheel.name
    assert wheel.stat().st_size < 20e6
    check_record(wheel)
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], env=environment, timeout=600, check=True)
    done = subprocess.run(
        [tmp_path / "empty" / "bin" / "cconvnet", "train", "--epochs", "1", "--device", "cpu:0"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1/1: test error" in done.stdout and "oneDNN" in done.stdout
    # One oneDNN and one OpenMP, those of the wheel.
    code = """
import re
from cconvnet import devices
devices.get_device("cpu:0")
print(*sorted(set(re.findall(r"/\\S*lib(?:dnnl|gomp)\\S*", open("/proc/self/maps").read()))), sep="\\n")
"""
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    libraries = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name.partition("-")[0] for path in libraries] == ["libdnnl", "libgomp"]
    assert {path.parent.name for path in libraries} == {"cconvnet.libs"}


def check_record(wheel: Path) -> None:
    """Check that a wheel's list names each of its files with the right hash."""
    with zipfile.ZipFile(wheel) as file:
        (record,) = (name for name in file.namelist() if name.endswith(".dist-info/RECORD"))
        rows = [line.rsplit(",", 2) for line in file.read(record).decode().splitlines()]
        hashes = {name: digest for name, digest, _ in rows}
        assert set(hashes) == {name for name in file.namelist() if not name.endswith("/")}
        for name, digest in hashes.items():
            if name != record:
                found = (
                    base64.urlsafe_b64encode(hashlib.sha256(file.read(name)).digest()).rstrip(b"=").decode()
                )
                assert digest == f"sha256={found}", name
