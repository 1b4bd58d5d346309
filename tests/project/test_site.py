"""The site of docs/ is built without a warning, and its tables of code and variables are true."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, as `make docs` does, and return its folder."""
    pytest.importorskip("mkdocs", reason="mkdocs is missing: make docs installs it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages(site: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(site.rglob("*.html")):
        yield path, path.read_text(encoding="utf-8")


def test_every_page_is_in_the_site(site: Path) -> None:
    for path in DOCS.rglob("*.md"):
        name = "index" if path.name == "README.md" else path.stem
        assert (site / path.relative_to(DOCS)).with_name(f"{name}.html").exists()
    assert (site / "source" / "SECURITY.html").exists()


def test_the_menu_and_the_overview_list_the_same_pages() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(.*?)\]\((.*?\.md)\)", overview, re.MULTILINE)
    assert re.findall(r"- (.+): ([\w-]+\.md)$", menu, re.MULTILINE)[1:] == listed


def test_links_of_the_site_lead_to_files_of_the_site(site: Path) -> None:
    """Source files that pages link are pages too, so no link leaves the folder."""
    broken = []
    for path, text in pages(site):
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            name = link.partition("#")[0].partition("?")[0]
            if not re.match(r"[a-z]+:", link) and name and not (path.parent / name).exists():
                broken.append(f"{path.relative_to(site)}: {link}")
    assert [line for line in broken if "404.html" not in line] == []


def test_lists_and_tables_of_code_hosts_are_lists_and_tables_of_the_site(site: Path) -> None:
    """A list needs no empty line before it on a code host; on the site it would be a paragraph."""
    left = []
    for path, text in pages(site):
        article = re.sub(r"<pre.*?</pre>", "", text.partition("<article")[2], flags=re.DOTALL)
        for paragraph in re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", article, re.DOTALL):
            if re.search(r"(?:^|\n)\s*(?:[-*] |\d+\. |\|)", paragraph):
                left.append(f"{path.relative_to(site)}: {paragraph[:60]}")
    assert left == []


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    for path, text in pages(site):
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", text)
        assert [tag for tag in tags if re.search(r'(?:src|href)="https?:', tag)] == [], path


def test_a_notebook_becomes_a_page(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("cconvnet_site", ROOT / "tools" / "site.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw==\n", "text/plain": "curve"}}
    table = {"data": {"text/html": ["<table>\n</table>"], "text/plain": ["4"]}}
    outputs = [{"text": ["2\n"]}, {"data": {"text/plain": ["3"]}}, table, picture]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {"cell_type": "code", "source": ["print(2)\n", "3"], "outputs": outputs},
    ]
    path = tmp_path / "some.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert module.notebook(path) == (
        "# Title\nText.\n\n`````python\nprint(2)\n3\n`````\n\n`````text\n2\n`````\n\n`````text\n3\n`````\n\n"
        "<table> </table>\n\n![curve](data:image/png;base64,iVBORw==)\n"
    )
    assert module.spaced("Text:\n- one\n- two") == "Text:\n\n- one\n- two"
    assert module.spaced("```\na\n- b\n```") == "```\na\n- b\n```"


# ---- tables ---------------------------------------------------------------------------------------------


def test_line_counts_of_the_tour_are_true() -> None:
    """The numbers of lines in docs/architecture.md are right to a tenth."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.*?) \|.*\| ([\d,]+) \|$", text.partition("## The core in reading order")[2], re.M
    )
    assert len(rows) > 10
    wrong = []
    for names, given in rows:
        paths = [ROOT / name for name in re.findall(r"`([\w./]+)`", names)]
        files = [f for p in paths for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()]
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        if abs(lines - int(given.replace(",", ""))) > max(10, lines / 10):
            wrong.append(f"{names}: {lines}, not {given}")
    assert wrong == []


def variables_read() -> set[str]:
    """Return the CCONVNET_ variables that code reads: Python, make, the shell, and getenv in C++."""
    folders = ("cconvnet", "tests", "benchmarks", "tools", "examples")
    paths = [ROOT / "setup.py", ROOT / "Makefile", ROOT / ".ci" / "run"]
    paths += [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    # Macros of the preprocessor have the same prefix.
    name = re.compile(r"(?<!-D)\b(CCONVNET_[A-Z_]+)\b")
    found = {word for path in paths for word in name.findall(path.read_text(encoding="utf-8"))}
    for path in (path for folder in ("kernels", "bindings") for path in (ROOT / folder).rglob("*.*")):
        found |= set(re.findall(r'getenv\("(CCONVNET_\w+)"\)', path.read_text(encoding="utf-8")))
    return found


def test_every_variable_is_explained() -> None:
    page = (DOCS / "environment.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| .*?`(CCONVNET_[A-Z_]+)`", page, re.M))
    assert explained == variables_read()
    assert "CCONVNET_LOG_KERNELS" in explained and len(explained) > 12
