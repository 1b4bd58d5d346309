"""The build finds each kind of oneDNN, takes the first that is new enough, and refuses an old one by name."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("c++")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Load tools/compile_settings.py for a machine on which it finds no oneDNN."""
    spec = importlib.util.spec_from_file_location("compile_settings", ROOT / "tools" / "compile_settings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "packaged_file", lambda distribution, name: None)
    program(tmp_path / "bin" / "pkg-config", "exit 1")
    program(tmp_path / "bin" / "c++", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    for name in ("ONEDNN_ROOT", "CONDA_PREFIX", "CPATH", "LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    return module


def program(file: Path, script: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def version_macros(version: str) -> str:
    numbers = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
    return "".join(f"#define DNNL_VERSION_{part} {number}\n" for part, number in numbers)


def runtime_macros(device: str, threads: str) -> str:
    return (
        f"#define DNNL_CPU_THREADING_RUNTIME DNNL_RUNTIME_{threads}\n"
        f"#define DNNL_CPU_RUNTIME DNNL_RUNTIME_{device}\n"
    )


def prefix(folder: Path, version: str, lib: str = "lib", runtime: tuple[str, str] = ("OMP", "OMP")) -> Path:
    """Install the outside of a oneDNN: its headers and the name of its library."""
    include = folder / "include" / "oneapi" / "dnnl"
    include.mkdir(parents=True)
    (include / "dnnl.hpp").touch()
    (include / "dnnl_version.h").write_text(version_macros(version))
    (include / "dnnl_config.h").write_text(runtime_macros(*runtime))
    (folder / lib).mkdir()
    (folder / lib / "libdnnl.so").touch()
    return folder


@pytest.mark.parametrize("lib", ["lib", "lib64"])
def test_the_folder_that_onednn_root_names(
    settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lib: str
) -> None:
    """It comes before all others, and its module finds the library by a path of its own."""
    root = prefix(tmp_path / "a, b", "3.13.1", lib)
    monkeypatch.setenv("ONEDNN_ROOT", str(root))
    monkeypatch.setenv("CONDA_PREFIX", str(prefix(tmp_path / "conda", "3.5.0")))
    found, missing = settings.find_onednn(["c++"])
    assert (found.version, found.source, missing) == ("3.13.1", str(root), "")
    assert shlex.split(found.flags) == ["-isystem", f"{root}/include", "-DCCONVNET_OWN_ONEDNN"]
    path = ["-Xlinker", "-rpath", "-Xlinker", f"{root}/{lib}"]
    assert shlex.split(found.libraries) == [f"-L{root}/{lib}", "-ldnnl", *path]


def test_a_root_without_a_usable_onednn_is_refused(
    settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another that could be used is not taken in its place."""
    monkeypatch.setenv("CONDA_PREFIX", str(prefix(tmp_path / "conda", "3.5.0")))
    monkeypatch.setenv("ONEDNN_ROOT", str(tmp_path / "empty"))
    with pytest.raises(settings.WrongRoot, match=r"ONEDNN_ROOT=.*empty needs include/oneapi/dnnl/dnnl.hpp"):
        settings.find_onednn(["c++"])
    monkeypatch.setenv("ONEDNN_ROOT", str(prefix(tmp_path / "old", "2.7.3")))
    with pytest.raises(settings.WrongRoot, match=r"oneDNN 2.7.3 of .*old is too old, 3.0 or newer is needed"):
        settings.find_onednn(["c++"])


def test_threads_of_another_kind_are_refused(
    settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module keeps the number of threads of its own OpenMP, which other runtimes would not obey."""
    intels = prefix(tmp_path / "intels", "3.1.0")
    (intels / "lib" / "libdnnl.so").write_bytes(b"\x7fELF\0libgomp\0libiomp5.so\0")
    for root, runs in (
        (prefix(tmp_path / "tbb", "3.5.0", runtime=("TBB", "TBB")), "TBB"),
        (prefix(tmp_path / "sycl", "3.13.2", runtime=("SYCL", "TBB")), "SYCL"),
        (intels, "Intel's OpenMP"),
    ):
        monkeypatch.setenv("ONEDNN_ROOT", str(root))
        with pytest.raises(settings.WrongRoot, match=f"runs on {runs}, the compiler's OpenMP is needed"):
            settings.find_onednn(["c++"])
    monkeypatch.setenv("ONEDNN_ROOT", str(prefix(tmp_path / "one", "3.5.0", runtime=("SEQ", "SEQ"))))
    assert settings.find_onednn(["c++"])[0].version == "3.5.0"


def test_the_pypi_package_comes_before_the_system(
    settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No path is written into the module: the package loads the library of its environment."""
    site = prefix(tmp_path / "site", "3.2.0")
    (site / "include" / "dnnl.hpp").touch()
    monkeypatch.setattr(settings, "packaged_file", lambda distribution, name: site / "include" / name)
    monkeypatch.setenv("CONDA_PREFIX", str(prefix(tmp_path / "conda", "3.5.0")))
    found, _ = settings.find_onednn(["c++"])
    assert (found.version, found.source) == ("3.2.0", "onednn-cpu-gomp")
    assert (found.flags, found.libraries) == (f"-isystem {site}/include", f"-L{site}/lib -ldnnl")


def test_the_systems_by_pkg_config(settings: ModuleType, tmp_path: Path) -> None:
    answers = "--cflags) echo -I/opt/dnnl/include;; --libs) echo -L/opt/dnnl/lib -ldnnl;;"
    program(tmp_path / "bin" / "pkg-config", f'test "$2" = dnnl && case $1 in {answers} esac')
    macros = version_macros("3.6.2") + runtime_macros("OMP", "OMP")
    program(tmp_path / "bin" / "c++", f"test $1 = -I/opt/dnnl/include && cat <<END\n{macros}END")
    found, _ = settings.find_onednn(["c++"])
    assert (found.version, found.source) == ("3.6.2", "pkg-config")
    assert found.flags == "-I/opt/dnnl/include -DCCONVNET_OWN_ONEDNN"
    assert found.libraries == "-L/opt/dnnl/lib -ldnnl -Xlinker -rpath -Xlinker /opt/dnnl/lib"


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_the_systems_by_the_compilers_folders(
    settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = prefix(tmp_path / "system", "3.4.0")
    monkeypatch.setenv("CPATH", str(system / "include"))
    monkeypatch.setenv("LIBRARY_PATH", str(system / "lib"))
    (system / "lib" / "libdnnl.so").unlink()
    # Where the compiler is ccache, it runs the next one of its name.
    (tmp_path / "bin" / "c++").unlink()
    # Headers alone are not enough.
    assert settings.find_onednn([COMPILER])[0] is None
    empty = [COMPILER, "-shared", "-x", "c++", "/dev/null", "-o", str(system / "lib" / "libdnnl.so")]
    subprocess.run(empty, check=True, timeout=60)
    found, _ = settings.find_onednn([COMPILER])
    assert (found.version, found.source) == ("3.4.0", "the system")
    assert (found.flags, found.libraries) == ("-DCCONVNET_OWN_ONEDNN", "-ldnnl")


def test_condas_is_taken_where_the_systems_is_too_old(
    settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "pkg-config", "case $1 in --libs) echo -ldnnl;; esac")
    macros = version_macros("2.7.3") + runtime_macros("OMP", "OMP")
    program(tmp_path / "bin" / "c++", f"cat <<END\n{macros}END")
    found, missing = settings.find_onednn(["c++"])
    assert found is None
    assert missing == "oneDNN 2.7.3 of pkg-config is too old, 3.0 or newer is needed"
    monkeypatch.setenv("CONDA_PREFIX", str(prefix(tmp_path / "conda", "3.5.0")))
    found, missing = settings.find_onednn(["c++"])
    assert (found.version, missing) == ("3.5.0", "") and found.source == str(tmp_path / "conda")


def test_without_any_the_way_out_is_named(settings: ModuleType) -> None:
    assert settings.find_onednn(["c++"]) == (None, "no oneDNN 3 was found: ONEDNN_ROOT names its folder")


def test_folders_that_the_compiler_searches_anyway_keep_their_place(
    settings: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named with -isystem, /usr/include would come before the C++ library's headers that include it."""
    macros = version_macros("3.1.0") + runtime_macros("OMP", "OMP")
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"")
    monkeypatch.setattr(Path, "read_text", lambda self, **_: macros)
    assert settings.onednn_below(Path("/usr"), "/usr").flags == "-DCCONVNET_OWN_ONEDNN"
    assert "-isystem /usr/opt/include" in settings.onednn_below(Path("/usr/opt"), "/usr/opt").flags
