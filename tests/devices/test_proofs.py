"""Proofs of kernels: which files open which rows of which module."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cconvnet.devices import proofs
from cconvnet.devices.modules import load_module
from cconvnet.errors import DeviceUnavailable

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import kernel_digest  # noqa: E402

BUILD = "CUDA 13.0, nvcc 13.0.88, architectures 80 90a 120 ptx, host compiler 12.2.0"
H200, A100 = (9, 0), (8, 0)


class Module:
    """A CUDA module with three rows that need a proof."""

    def __init__(self, digest: str = "d1", build: str = BUILD) -> None:
        self._digest, self._build = digest, build
        self.proven: list[str] = []

    def rows_to_prove(self) -> list[str]:
        return ["a", "b", "c"]

    def unproven_rows(self) -> list[str]:
        return [row for row in self.rows_to_prove() if row not in self.proven]

    def prove_rows(self, rows: list[str]) -> None:
        self.proven += rows

    def kernel_digest(self) -> str:
        return self._digest

    def build_info(self) -> str:
        return self._build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of proofs, in the package's place."""
    monkeypatch.setattr(proofs, "PROVEN", tmp_path)
    monkeypatch.delenv(proofs.VARIABLE, raising=False)
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    found = proofs.proof_of(Module(), "sm_90a", {"chip": "NVIDIA H200"}, {"a": 9, "c": 8}, {"b": "plain"})
    path = folder / "sm_90a.json"
    path.write_text(json.dumps(found | changes))
    return path


def test_rows_that_passed_are_opened_on_gpus_of_the_architecture(folder: Path) -> None:
    write(folder)
    module = Module()
    assert proofs.open_proven_rows(module, A100).rows == () and module.proven == []
    proof = proofs.open_proven_rows(module, H200)
    assert proof == proofs.Proof("sm_90a", ("a", "c"), ("b",)) and module.proven == ["a", "c"]
    assert proofs.unproven_rows(module) == ["b"]


def test_without_a_file_nothing_is_opened(folder: Path) -> None:
    module = Module()
    assert proofs.open_proven_rows(module, H200) == proofs.Proof("sm_90a", (), ("a", "b", "c"))
    assert module.proven == []


def test_a_proof_of_other_kernels_opens_nothing(folder: Path) -> None:
    path = write(folder)
    other = BUILD.replace("13.0.88", "13.1.2")
    for module, why in [
        (Module("d2"), "is of other kernels than this build's"),
        (Module(""), "is of other kernels than this build's"),
        (
            Module(build=other),
            "is of kernels that CUDA 13.0, nvcc 13.0.88 compiled, not CUDA 13.0, nvcc 13.1.2",
        ),
    ]:
        proof = proofs.open_proven_rows(module, H200)
        assert proof.rows == () and proof.reasons == (f"{path}: {why}",) and module.proven == []
    # The architecture's own code is what was proven.
    portable = Module(build=BUILD.replace("90a", "90"))
    assert proofs.open_proven_rows(portable, H200).architecture == "sm_90" and portable.proven == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is no proof: it needs architecture, kernels, toolkit, rows"),
        (b'{"architecture": "sm_90a", "kernels": "d1", "rows": {"a": 1}}', "is no proof"),
        (b" " * (1 << 20) + b"{}", "is too long for a proof"),
    ],
)
def test_a_damaged_proof_opens_nothing_and_says_why(folder: Path, content: bytes, why: str) -> None:
    (folder / "sm_90a.json").write_bytes(content)
    module = Module()
    proof = proofs.open_proven_rows(module, H200)
    assert why in proof.reasons[0] and str(folder) in proof.reasons[0] and module.proven == []


def test_a_proof_under_another_name_or_of_unknown_rows(folder: Path) -> None:
    write(folder, architecture="sm_100a")
    assert "is a proof for sm_100a" in proofs.find_proof(Module(), "sm_90a").reasons[0]
    write(folder, rows={"a": 1, "of another release": 2})
    assert proofs.find_proof(Module(), "sm_90a").rows == ("a",)


def test_another_folder_of_proofs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (more := folder / "report").mkdir()
    monkeypatch.setenv(proofs.VARIABLE, str(more))
    assert proofs.find_proof(Module(), "sm_90a").rows == ()
    write(more)
    assert proofs.find_proof(Module(), "sm_90a").rows == ("a", "c")
    # What the package proves counts beside it.
    write(folder, rows={"b": 1})
    assert proofs.find_proof(Module(), "sm_90a").rows == ("a", "b", "c")


@pytest.mark.parametrize(
    ("archs", "capability", "architecture"),
    [
        ("80 90a 120 ptx", (9, 0), "sm_90a"),
        ("80 90 90a", (9, 0), "sm_90a"),
        ("80 90a", (8, 6), "sm_80"),
        ("80 86", (8, 9), "sm_86"),
        ("90a", (10, 0), "sm_100"),
        ("ptx", (9, 0), "sm_90"),
    ],
)
def test_the_architecture_whose_code_a_gpu_runs(
    archs: str, capability: tuple[int, int], architecture: str
) -> None:
    build = f"CUDA 13.0, nvcc 13.0.88, architectures {archs}, host compiler 12"
    assert proofs.architecture_of(build, capability) == architecture


def test_the_package_proves_only_kernels_of_its_own() -> None:
    """A proof that is packaged names a digest; one of older kernels would be dead weight."""
    for path in proofs.PROVEN.glob("*.json"):
        found = json.loads(path.read_text())
        assert found["architecture"] == path.stem and found["rows"] and found["machine"]["chip"]


# ---- digests --------------------------------------------------------------------------------------------


def test_a_module_has_the_digest_of_its_kernels() -> None:
    try:
        module, _ = load_module("emulator")
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    assert module.kernel_digest() == kernel_digest.digest()
    assert proofs.rows_to_prove(load_module("reference")[0]) == []


def test_a_changed_kernel_has_another_digest(tmp_path: Path) -> None:
    names = [path.relative_to(kernel_digest.KERNELS) for path in kernel_digest.sources()]
    assert {"conv_wgmma.cu", "core/wgmma.cuh", "gemm/wgmma_tile.cuh", "core/select.h"} <= set(map(str, names))
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((kernel_digest.KERNELS / name).read_bytes())
    whole = kernel_digest.digest(tmp_path)
    assert whole == kernel_digest.digest() and len(whole) == 64
    for name in names:
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(f"// A comment.\n\n{text}  /* Another. */\n")
        assert kernel_digest.digest(tmp_path) == whole, name
        (tmp_path / name).write_text(text + "int changed;\n")
        assert kernel_digest.digest(tmp_path) != whole, name
        (tmp_path / name).write_text(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a  b // c\n", "a b"),
        ('f("// no comment"); /* one\nof two lines */ g();', 'f("// no comment"); g();'),
        ("c = '\"'; // \"", "c = '\"';"),
        ("#define X a\n\n  b\n", "#define X a\nb"),
        ('"\\"//" x', '"\\"//" x'),
    ],
)
def test_comments_and_spaces_are_no_code(text: str, code: str) -> None:
    assert kernel_digest.code(text) == code


def test_modules_without_rows_to_prove() -> None:
    assert proofs.unproven_rows(SimpleNamespace()) == proofs.rows_to_prove(SimpleNamespace()) == []
