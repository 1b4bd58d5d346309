"""Write the facts about the kernels' machine code that the package contains.

    python tools/kernel_facts.py            # of the CUDA module, for the released architectures
    python tools/kernel_facts.py --check    # fail if the files are not those of the module

``cconvnet profile`` reads them where there is no nvcc. They need a CUDA module for all these architectures.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cconvnet.profile.facts import facts_of, shipped_file, shipped_text, to_line  # noqa: E402
from cconvnet.profile.machine_code import read  # noqa: E402

MODULE = ROOT / "cconvnet" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
ARCHS = ("sm_80", "sm_90a", "sm_120")


def text_of(module: Path, arch: str) -> str:
    """Return the file for an architecture, a line for each kernel; empty without code for it."""
    lines = {to_line(facts_of(kernel)) for kernel in read(module, arch)}
    return "".join(f"{line}\n" for line in sorted(lines))


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the files are old")
    options = parser.parse_args()
    if not MODULE.exists():
        parser.error("there is no CUDA module here: make cuda")
    stale = []
    for arch in ARCHS:
        file, text = shipped_file(arch), text_of(MODULE, arch)
        if not text:
            parser.error(f"the CUDA module was not built for {arch}")
        if text != shipped_text(arch):
            stale.append(file)
            if not options.check:
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(
        *(f"{file.relative_to(ROOT)} {'is old' if options.check else 'is written'}" for file in stale),
        sep="\n",
    )
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
