"""The package's metadata, its source distribution, and commands that install it or other packages."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import cconvnet

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Files of the repository that a source distribution does not need.
SERVICES = (".ci/", ".github/", ".gitignore")


def tracked() -> set[str]:
    """Return the files of the repository that exist."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a checkout of git")
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], Message]:
    """Make the source distribution; return its files and its metadata."""
    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "sdist", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=200,
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
        file = tar.extractfile(archive.name.removesuffix(".tar.gz") + "/PKG-INFO")
        assert file is not None
        return names, message_from_string(file.read().decode())


def test_a_source_distribution_contains_every_source(distribution: tuple[set[str], Message]) -> None:
    files, _ = distribution
    wanted = {name for name in tracked() if not name.startswith(SERVICES)}
    assert len(wanted) > 500
    assert wanted - files == set()
    # What setuptools writes itself is all that it contains besides.
    assert files - wanted <= {"PKG-INFO", "setup.cfg"}


def test_metadata_are_complete(distribution: tuple[set[str], Message]) -> None:
    _, found = distribution
    assert found["Name"] == "cconvnet"
    assert found["Version"] == cconvnet.__version__
    assert found["Author"] == "The cconvnet authors"
    assert (found["License-Expression"], found["License-File"]) == ("Apache-2.0", "LICENSE")
    assert found["Requires-Python"] == ">=3.11"
    pythons = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)}
    assert pythons <= set(found.get_all("Classifier", ()))


def test_the_version_is_written_once() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    written = re.compile(rf"version[\W_]{{1,8}}{re.escape(cconvnet.__version__)}(?![\w.])", re.IGNORECASE)
    found = [
        name
        for name in sorted(tracked())
        if name.endswith((".py", ".toml", ".cff", ".cfg", ".yml", ".h")) or name in ("Makefile", "Dockerfile")
        if not name.startswith("tests/") and written.search((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == ["cconvnet/__init__.py"]


def test_the_installed_package_has_that_version() -> None:
    try:
        installed = importlib.metadata.version("cconvnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is used without being installed")
    assert installed == cconvnet.__version__


def test_every_package_of_the_tree_is_installed() -> None:
    folders = {path.parent for path in (ROOT / "cconvnet").rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names


def test_a_script_beside_the_checkout_imports_the_package(tmp_path: Path) -> None:
    """The checkout's folder is called like the package; for Python it is a package without a file."""
    checkout = tmp_path / "cconvnet"
    shutil.copytree(
        ROOT / "cconvnet", checkout / "cconvnet", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    build = f"import setuptools.build_meta as b; b.build_editable({str(tmp_path)!r})"
    subprocess.run(
        [sys.executable, "-c", build],
        cwd=checkout,
        check=True,
        capture_output=True,
        timeout=200,
        env=os.environ | {"CCONVNET_MODULES": "none"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site-packages", "zip")
    script = "import site; site.addsitedir('site-packages'); import cconvnet; print(cconvnet.__file__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],  # without the packages of this Python, such as this one
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert Path(done.stdout.strip()) == checkout / "cconvnet" / "__init__.py"


def test_the_citation_has_the_keys_of_its_format() -> None:
    """Citation File Format 1.2.0 requires four keys, and of a reference type, title and authors."""
    yaml = pytest.importorskip("yaml")
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["cff-version"] == "1.2.0"
    assert cff["type"] == "software" and cff["message"] and "cconvnet" in cff["title"]
    assert [author["name"] for author in cff["authors"]] == ["The cconvnet authors"]
    assert cff["license"] == PROJECT["project"]["license"]
    (paper,) = cff["references"]
    assert (paper["type"], paper["year"]) == ("conference-paper", 2012)
    assert [author["family-names"] for author in paper["authors"]] == ["Krizhevsky", "Sutskever", "Hinton"]


# ---- commands that install ------------------------------------------------------------------------------


def installs_by_name(text: str) -> list[str]:
    """Return commands that install this package from a package index, where another may have its name."""
    commands = re.findall(r"pip3? install[^\n`]*", text)
    return [line for line in commands if re.search(r"""(?<![\w./-])cconvnet(?![\w./-])""", line)]


def test_no_command_asks_a_package_index_for_this_package() -> None:
    texts = [name for name in tracked() if name.endswith((".py", ".md", ".toml", ".yml", ".html", ".ipynb"))]
    texts += ["Makefile", "Dockerfile"]
    found = {
        name: lines
        for name in texts
        if (ROOT / name).is_file() and name != Path(__file__).relative_to(ROOT).as_posix()
        if (lines := installs_by_name((ROOT / name).read_text(encoding="utf-8")))
    }
    assert found == {}


def test_such_commands_are_noticed() -> None:
    for bad in ("cconvnet", "'cconvnet[plot]'", "-U cconvnet==0.1.0", "numpy cconvnet"):
        assert installs_by_name(f"matplotlib is missing: pip install {bad}") != [], bad
    for good in (
        "'.[plot]'",
        "matplotlib",
        "dist/cconvnet-0.1.0-cp311-cp311-linux_x86_64.whl",
        "./cconvnet/",
    ):
        assert installs_by_name(f"pip install {good}") == [], good


def test_one_module_makes_the_commands_that_install() -> None:
    makers = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "cconvnet").rglob("*.py"))
        if "pip install" in path.read_text(encoding="utf-8")
    ]
    assert makers == ["cconvnet/system/installation.py"]
