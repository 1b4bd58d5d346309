"""Blocks of code in the project's documents, and the commands in them.

A comment above a block can name its use. CONTRIBUTING.md lists the comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_COMMENT = re.compile(r"<!-- (.*) -->")
_FENCE = re.compile(r"(`{3,})(\w*)$")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: The word behind the fence, empty without one.
        line: The number of its first line.
        text: The code.
        use: The comment above it.
    """

    language: str
    line: int
    text: str
    use: str = ""


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a document, fenced or indented by four spaces."""
    lines = text.splitlines()
    use, blank, index = "", True, 0
    while index < len(lines):
        line = lines[index]
        if fence := _FENCE.match(line):
            end = lines.index(fence[1], index + 1)
            yield Block(fence[2], index + 2, "\n".join(lines[index + 1 : end]) + "\n", use)
            index, use = end, ""
        elif blank and line.startswith("    "):
            end = next((i for i in range(index, len(lines)) if not lines[i].startswith("    ")), len(lines))
            yield Block("", index + 1, "\n".join(entry[4:] for entry in lines[index:end]) + "\n", use)
            index, use = end - 1, ""
        elif line:
            comment = _COMMENT.fullmatch(line)
            use = comment[1] if comment else ""
        blank = not line
        index += 1


def commands(text: str, program: str) -> Iterator[str]:
    """Yield the lines of a document that run a program: in blocks, and in code within a line."""
    prose = text
    for block in blocks(text):
        prose = prose.replace(block.text, "")
        if block.language in ("", "console", "sh", "bash"):
            for line in block.text.replace("\\\n", " ").splitlines():
                for part in line.removeprefix("$ ").split("&&"):
                    if re.match(rf"\s*{program}( |$)", part):
                        yield re.sub(r"\s+# .*", "", part).strip()
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        if span.startswith(f"{program} "):
            yield " ".join(span.split())
