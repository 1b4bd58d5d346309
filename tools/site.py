"""Hooks of the site's build (mkdocs.yml): links that leave docs/.

A page may link any file of the repository, which a code host then shows. On the site such a file becomes a
page of its own below source/: a document or notebook as it is, source code highlighted, a folder as a list.
Data are copied.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FOLDER = "source"
COPIED = (".json", ".png")
LANGUAGES = {".cu": "cuda", ".cuh": "cuda", ".h": "cuda", ".cpp": "cpp", ".py": "python", ".cfg": "ini"}
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def targets(markdown: str, path: Path) -> Iterator[Path]:
    """Yield the files and folders of the repository that a document links, outside docs/ too."""
    for name, _ in _LINK.findall(markdown):
        if not re.match(r"[a-z]+:", name):
            yield (path.parent / name).resolve()


def uri_of(path: Path) -> str:
    """Return the place of a file among the site's sources."""
    if DOCS in path.parents:
        return path.relative_to(DOCS).as_posix()
    name = f"{FOLDER}/{path.relative_to(ROOT).as_posix()}"
    return name if path.suffix in (".md", *COPIED) else f"{name}.md"


def spaced(markdown: str) -> str:
    """Return a document whose lists begin after an empty line, which code hosts do not need."""
    lines: list[str] = []
    fenced = False
    for line in markdown.split("\n"):
        fenced ^= line.startswith("```")
        before = lines[-1] if lines else ""
        if not fenced and _ITEM.match(line) and before and not _ITEM.match(before) and before[0] != " ":
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def relinked(markdown: str, path: Path) -> str:
    """Return a document whose links lead to the site's pages, and whose lists are found there."""
    folder = posixpath.dirname(uri_of(path))

    def link(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", match[1]):
            return match[0]
        target = (path.parent / match[1]).resolve()
        return f"]({posixpath.relpath(uri_of(target), folder or '.')}{match[2] or ''})"

    return _LINK.sub(link, spaced(markdown))


def page_of(path: Path) -> str:
    """Return the page of a file or folder outside docs/."""
    if path.suffix == ".md":
        return relinked(path.read_text(encoding="utf-8"), path)
    if path.suffix == ".ipynb":
        return relinked(notebook(path), path)
    name = path.relative_to(ROOT).as_posix()
    head = f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n"
    if path.is_dir():
        names = sorted(f"{child.name}{'/' * child.is_dir()}" for child in path.iterdir())
        return head + "\n".join(f"- `{name}`" for name in names if not name.startswith((".", "__")))
    return f"{head}`````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text(encoding='utf-8')}\n`````\n"


def notebook(path: Path) -> str:
    """Return the text, the code and the results of a notebook."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"`````python\n{source}\n`````")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            printed = "".join(output.get("text", data.get("text/plain", ())))
            if "image/png" in data:
                picture = "".join("".join(data["image/png"]).split())
                parts.append(f"![{printed.strip()}](data:image/png;base64,{picture})")
            elif (html := "".join(data.get("text/html", ()))).startswith("<table"):
                parts.append(html.replace("\n", " "))
            elif printed:
                parts.append(f"`````text\n{printed.rstrip()}\n`````")
    return "\n\n".join(parts) + "\n"


def outside() -> dict[str, Path]:
    """Return the files outside docs/ that its pages link, and those that these link in turn, by their places.

    Raises:
        FileNotFoundError: A document links a file that does not exist.
    """
    found: dict[str, Path] = {}
    waiting = sorted(DOCS.rglob("*.md"))
    for path in waiting:
        for target in targets(path.read_text(encoding="utf-8"), path):
            if not target.exists():
                raise FileNotFoundError(f"{path.relative_to(ROOT)} links {target}, which does not exist")
            if DOCS not in target.parents and uri_of(target) not in found:
                found[uri_of(target)] = target
                waiting += [target] * (target.suffix == ".md")
    return found


# ---- hooks, which mkdocs calls by their names -------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of files outside docs/."""
    from mkdocs.structure.files import File

    for uri, path in outside().items():
        if path.suffix in COPIED:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
        else:
            files.append(File.generated(config, uri, content=page_of(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page of docs/ to the site's pages."""
    if page.file.src_uri.startswith(f"{FOLDER}/"):
        return markdown
    return relinked(markdown, DOCS / page.file.src_uri)
