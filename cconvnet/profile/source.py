"""The instructions that a warp executes, by line of the kernel's source."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cconvnet.devices.counting import short_file
from cconvnet.profile.facts import parts_of_places
from cconvnet.profile.machine_code import Kernel, demangle, find_tool, short_name

_FUNCTION = re.compile(r"^\.text\.(\S+):$")
_LINE = re.compile(r'^\s+//## File "([^"]+)", line (\d+)')
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/")


def instructions_by_line(kernel: Kernel, runs: Sequence[float], lines: Mapping[int, str]) -> Counter[str]:
    """Return the instructions that a warp executes, by line, as ``kernels/lrn.cuh:81``.

    Args:
        kernel: The kernel.
        runs: How often a warp runs each part of its facts.
        lines: The line of each address of its code.
    """
    total: Counter[str] = Counter()
    for place, part in parts_of_places(kernel).items():
        line = lines.get(kernel.code[place].address)
        if line is not None:
            total[line] += runs[part]  # type: ignore[assignment]
    return total


def lines_of(path: Path, arch: str, name: str) -> dict[int, str]:
    """Return the source line of each address of a kernel in an object that was compiled with -lineinfo.

    Args:
        path: The object.
        arch: The architecture whose code is read.
        name: The kernel's name without namespaces and arguments.

    Raises:
        ToolMissing: cuobjdump, nvdisasm or c++filt is missing.
        ValueError: The object cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        _run(folder, find_tool("cuobjdump"), "-arch", arch, "-xelf", "all", str(path.resolve()))
        cubins = sorted(Path(folder).glob("*.cubin"))
        text = "".join(_run(folder, find_tool("nvdisasm"), "-g", "-c", str(cubin)) for cubin in cubins)
    return parse_lines(text, name)


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


def parse_lines(text: str, name: str) -> dict[int, str]:
    """Return the line of each address of a kernel in the output of nvdisasm."""
    lines = text.splitlines()
    functions = {place: found[1] for place, line in enumerate(lines) if (found := _FUNCTION.match(line))}
    names = dict(zip(functions, map(short_name, demangle(functions.values())), strict=True))
    begin = next((place for place, own in names.items() if own == name), None)
    if begin is None:
        return {}
    end = min((place for place in functions if place > begin), default=len(lines))
    known: dict[int, str] = {}
    current = ""
    for line in lines[begin:end]:
        if marked := _LINE.match(line):
            current = f"{short_file(marked[1])}:{marked[2]}"
        elif current and (instruction := _INSTRUCTION.match(line)):
            known[int(instruction[1], 16)] = current
    return known
