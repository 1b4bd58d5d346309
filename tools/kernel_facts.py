"""Write the facts about the kernels' machine code that the package contains.

    python tools/kernel_facts.py            # of the CUDA module, for the released architectures
    python tools/kernel_facts.py --check    # fail if the files are not those of the module
    python tools/kernel_facts.py --arch sm_90a build/*/cuda/*.o build/*/cuda/gemm/*.o    # of all objects

``cconvnet profile`` reads them where there is no nvcc. They need a CUDA module for all these architectures.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cconvnet.profile.facts import facts_of, shipped_file, shipped_text, to_line  # noqa: E402
from cconvnet.profile.machine_code import Kernel, read  # noqa: E402

MODULE = ROOT / "cconvnet" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
ARCHS = ("sm_80", "sm_90a", "sm_120")


def text_of(kernels: Iterable[Kernel]) -> str:
    """Return the file for an architecture, a line for each of its kernels; empty without any."""
    lines = {to_line(facts_of(kernel)) for kernel in kernels}
    return "".join(f"{line}\n" for line in sorted(lines))


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the files are old")
    parser.add_argument("--arch", action="append", choices=ARCHS, help="default: all of these")
    parser.add_argument("files", nargs="*", type=Path, help="nvcc's objects; default: the CUDA module")
    options = parser.parse_args()
    paths = options.files or [MODULE]
    if missing := [path for path in paths if not path.exists()]:
        parser.error(f"{missing[0]} is missing: make cuda")
    stale = []
    for arch in options.arch or ARCHS:
        file = shipped_file(arch)
        text = text_of(kernel for path in paths for kernel in read(path, arch))
        if not text:
            parser.error(f"there is no code for {arch}: CCONVNET_ARCHS names what is built")
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
