"""Mutants of the kernels: single faults that the tests must notice, for test_mutation.py.

A mutant is one of kernels/*.cu and *.cuh in which, in device code, one thing is missing:

- a barrier (`__syncthreads`, `__syncwarp`, `meet`, that of a cluster), a wait for asynchronous copies,
  products or stores, an arrival at a barrier with phases, the start of products, or the end of a group of
  these;
- a bounds guard: a comparison by <, <=, > or >=, or with kOutside, that decides in an `if`, a `?:` or a named
  value whether something is read or written. Where several are joined by &&, || or &, each is removed alone.

Further mutants, where something is wrong instead of missing, are in faults.py.
"""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.faults import FAULTS, Fault

KERNELS = Path(__file__).parents[2] / "kernels"
EQUIVALENT = Path(__file__).with_suffix(".json")
# The environment variable that chooses a mutant of switchable kernels by its number.
CHOICE = "CCONVNET_MUTANT"
# What a process writes on standard error at its end if it came to the chosen mutant.
REACHED = "the mutant was reached"

_BARRIER = re.compile(
    r"__sync(?:threads|warp)\(\);|ptx::(?:wait_for_copies<[^;]*>|close_(?:copy|product|store)_group"
    r"|arrive_at_cluster|wait_for_cluster)\(\);"
    r"|ptx::(?:wait|arrive|arrive_in_block|arrive_and_expect|start_products"
    r"|wait_for_(?:products|stores)<\d>|meet<\w+>)\([^;]*\);"
)
# A barrier that also combines values of the threads.
_VOTE = re.compile(r"__syncthreads_or\((\w+)\)")
_DEVICE = re.compile(r"\b__(?:device|global)__\b")
# Written with spaces, as template arguments are not.
_ORDER = re.compile(r" [<>]=? |kOutside")
_JOINT = re.compile(r"&&|\|\|| &\s")
_LEAVES = re.compile(r"\s*(?:return|continue|break)\b")


@functools.cache
def _text(file: str) -> str:
    return (KERNELS / file).read_text()


@dataclass(frozen=True)
class Mutant:
    """The characters begin .. end of `file` replaced by `replacement`."""

    file: str
    begin: int
    end: int
    replacement: str

    @property
    def source(self) -> str:
        return _text(self.file)

    @property
    def line(self) -> str:
        """The whole line that is changed."""
        source = self.source
        begin = source.rfind("\n", 0, self.begin) + 1
        return source[begin : source.find("\n", self.begin)].strip()

    @property
    def key(self) -> dict[str, str]:
        """Identifies this mutant when lines move: the file, the line, and the text that is gone from it."""
        return {"file": self.file, "line": self.line, "gone": self.source[self.begin : self.end]}

    @property
    def number(self) -> int:
        """Identifies this mutant in switchable kernels: the same as long as its file does not change."""
        return zlib.crc32(f"{self.file} {self.begin} {self.end} {self.replacement}".encode())

    def __str__(self) -> str:
        number = self.source.count("\n", 0, self.begin) + 1
        becomes = "" if self.replacement in (";", "true", "false") else f" -> {self.replacement}"
        return f"{self.file}:{number}: {self.key['gone']}{becomes}"


def _closing(source: str, opening: int) -> int:
    """Return the index of the bracket that closes the one at `opening`."""
    depth = 0
    for i in range(opening, len(source)):
        if source[i] in "([{":
            depth += 1
        elif source[i] in ")]}":
            depth -= 1
            if depth == 0:
                return i
    raise ValueError(f"no closing bracket for {source[opening : opening + 40]!r}")


def _unclosed(text: str) -> int:
    """Return the index after the last bracket that is not closed in the text, or 0."""
    opened = [0]
    for i, character in enumerate(text):
        if character in "([{":
            opened.append(i + 1)
        elif character in ")]}" and len(opened) > 1:
            opened.pop()
    return opened[-1]


def _without_comments(source: str) -> str:
    """Return the source with comments blanked out, every other character at its index."""
    return re.sub(r"//[^\n]*", lambda m: " " * len(m[0]), source)


def _device_code(source: str) -> Iterator[tuple[int, int]]:
    """Find the bodies of device functions: the indices of their braces."""
    end = 0
    for match in _DEVICE.finditer(source):
        if match.start() < end:
            continue
        # Past the parameters (and __launch_bounds__) to the first brace outside parentheses.
        i = match.end()
        while source[i] not in "{;":
            i = _closing(source, i) + 1 if source[i] == "(" else i + 1
        if source[i] == "{":
            end = _closing(source, i)
            yield i, end


def _conjuncts(source: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Find the parts of a condition between &&, || and &, at the top level."""
    depth, start, i = 0, begin, begin
    while i < end:
        if source[i] in "([{":
            depth += 1
        elif source[i] in ")]}":
            depth -= 1
        elif depth == 0 and (joint := _JOINT.match(source, i)):
            yield start, i
            start = i = joint.end()
            continue
        i += 1
    yield start, end


def _end_of_argument(source: str, i: int) -> int:
    """Return the index of the comma or bracket behind an argument, from an index within it."""
    while source[i] not in ",)":
        i = _closing(source, i) + 1 if source[i] in "([{" else i + 1
    return i


def _guards(source: str, begin: int, end: int, opened: str) -> Iterator[tuple[int, int, str]]:
    """Find each comparison of the condition that looks like a bound, with the value that removes it."""
    for first, last in _conjuncts(source, begin, end):
        if order := _ORDER.search(source, first, last):
            opening = _unclosed(source[first : order.start()])
            if opening and re.match(r"[\w>]\(", source[first + opening - 2 :]):
                # An argument of a call, whose value is not a condition.
                first += opening
                last = _end_of_argument(source, order.end())
            text = source[first:last]
            stripped = text.strip()
            first += len(text) - len(text.lstrip())
            yield first, first + len(stripped), opened


def _conditions(source: str, begin: int, end: int) -> Iterator[tuple[int, int, str]]:
    """Find guards in an if, a named value or a ?: between begin and end."""
    for match in re.finditer(r"\bif \(", source[begin:end]):
        opening = begin + match.end() - 1
        closing = _closing(source, opening)
        opened = "false" if _LEAVES.match(source, closing + 1) else "true"
        yield from _guards(source, opening + 1, closing, opened)
    for match in re.finditer(r"[\w\]] = ([^;?{}]*);", source[begin:end]):
        yield from _guards(source, begin + match.start(1), begin + match.end(1), "true")
    if re.search(r"\bbool \w+\([^()]*\) const $", source[:begin]):
        for match in re.finditer(r"\breturn ([^;?]*);", source[begin:end]):
            yield from _guards(source, begin + match.start(1), begin + match.end(1), "true")
    for match in re.finditer(r"(?:\breturn|[^=!<>]=) ([^;?{}]*) \? ([^;?]*);", source[begin:end]):
        # The branch taken beyond the bounds decides which value removes the guard.
        opened = "false" if re.match(r"zeros|kOutside|0", match[2]) else "true"
        first = begin + match.start(1) + _unclosed(match[1])
        yield from _guards(source, first, begin + match.end(1), opened)


_SWITCH = f"""#pragma once
#include <cstdio>
#include <cstdlib>
struct ChosenMutant {{
  const char* name = std::getenv("{CHOICE}");
  const unsigned long number = name ? std::strtoul(name, nullptr, 10) : 0;
  bool reached = false;
  ~ChosenMutant() {{
    if (reached) std::fputs("{REACHED}\\n", stderr);
  }}
}};
inline ChosenMutant chosen_mutant;
inline bool is_mutant(unsigned long number) {{
  return number == chosen_mutant.number && (chosen_mutant.reached = true);
}}
"""


def _switched(text: str, begin: int, end: int, within: list[Mutant]) -> str:
    """Return the characters begin .. end with a choice of the mutants, some of which are within others."""
    parts = []
    while within:
        outer = within[0]
        same = [mutant for mutant in within if (mutant.begin, mutant.end) == (outer.begin, outer.end)]
        inner = [mutant for mutant in within if mutant.begin < outer.end and mutant not in same]
        assert all(mutant.end <= outer.end for mutant in inner), f"{outer} overlaps others"
        within = within[len(same) + len(inner) :]
        gone = _switched(text, outer.begin, outer.end, inner)
        if gone.rstrip().endswith((";", "}")):
            choices = [f"if (is_mutant({mutant.number})) {{ {mutant.replacement} }} else " for mutant in same]
            switch = f"{{ {''.join(choices)}{{ {gone} }} }}"
        else:
            choices = [f"is_mutant({mutant.number}) ? {mutant.replacement} : " for mutant in same]
            switch = f"({''.join(choices)}({gone}))"
        parts += [text[begin : outer.begin], switch]
        begin = outer.end
    return "".join([*parts, text[begin:end]])


def switchable(names: Collection[str]) -> dict[Path, str]:
    """Return these files with a choice of mutants at run time, and the header that they need, by path."""
    texts = {Path("kernels/mutants.h"): _SWITCH}
    for name in names:
        text = (KERNELS / name).read_text()
        switched = _switched(text, 0, len(text), [mutant for mutant in mutants() if mutant.file == name])
        texts[Path("kernels") / name] = f'#include "mutants.h"\n#line 1\n{switched}'
    return texts


def files() -> list[Path]:
    """Return the CUDA sources and headers, including those that only contain helpers."""
    return sorted(
        path
        for folder in (KERNELS, KERNELS / "core", KERNELS / "gemm")
        for path in folder.iterdir()
        if path.suffix in (".cu", ".cuh")
    )


def _written(fault: Fault) -> Mutant:
    source = _text(fault.file)
    if source.count(fault.text) != 1:
        raise ValueError(f"{fault.file} contains {source.count(fault.text)} times {fault.text!r}")
    begin = source.index(fault.text) + fault.text.index(fault.gone)
    return Mutant(fault.file, begin, begin + len(fault.gone), fault.becomes)


@functools.cache
def mutants() -> list[Mutant]:
    """Return all mutants, in the order of the files."""
    found: dict[tuple[str, int, int], Mutant] = {}
    for path in files():
        source = _without_comments(path.read_text())
        for begin, end in _device_code(source):
            changes = [
                (begin + m.start(), begin + m.end(), ";") for m in _BARRIER.finditer(source[begin:end])
            ]
            changes += [(begin + m.start(), begin + m.end(), m[1]) for m in _VOTE.finditer(source[begin:end])]
            changes += _conditions(source, begin, end)
            for first, last, replacement in changes:
                name = str(path.relative_to(KERNELS))
                found.setdefault((name, first, last), Mutant(name, first, last, replacement))
    written = [_written(fault) for fault in FAULTS]
    return sorted([*found.values(), *written], key=lambda m: (m.file, m.begin, -m.end))


def equivalents() -> list[dict[str, str]]:
    """Return the mutants that compute the same, each with its reason; keys as in Mutant.key."""
    listed: list[dict[str, str]] = json.loads(EQUIVALENT.read_text())
    return listed


def dependents(file: str) -> list[str]:
    """Return the .cu files that a kernel file is part of."""
    if file.endswith(".cu"):
        return [file]
    includers = [
        str(path.relative_to(KERNELS)) for path in files() if f'#include "{file}"' in path.read_text()
    ]
    return sorted({name for includer in includers for name in dependents(includer)})
