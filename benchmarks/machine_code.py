"""Report nvcc's machine code of each kernel, on a machine without a GPU: `make machine-code`.

    python benchmarks/machine_code.py --arch sm_90a --json kernels.json build/*/cuda/conv_fprop.o

Reads the CUDA module, or the given objects and cubins, with cuobjdump. A line of the table describes a
kernel: its registers, its shared memory, how many blocks of it a multiprocessor holds and which resource is
used up first; then its instructions, in all and in its hot loop. Loads and stores are named with their bytes:
LDG.16 is a load of 16 bytes from global memory by each thread. The last lines name the kernels that break
PROMISES. If there are any, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cconvnet.profile.machine_code import ARCH, TENSOR, Kernel, ToolMissing, read  # noqa: E402

MODULE = ROOT / "cconvnet" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"


# ---- promises -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """A promise about the machine code of some kernels.

    Attributes:
        words: The promise in words.
        kernels: A regular expression that matches the names of kernels that promise it.
        kept: Returns whether a kernel keeps it.
        exceptions: Regular expressions of kernels that do not keep it, each with the reason.
    """

    words: str
    kernels: str
    kept: Callable[[Kernel], bool]
    exceptions: Mapping[str, str] = field(default_factory=dict)

    def binds(self, kernel: Kernel) -> bool:
        """Return whether a kernel promises it."""
        return re.search(self.kernels, kernel.name) is not None


def _has(counts: Counter[str], *begins: str) -> bool:
    return any(kind.startswith(begins) for kind in counts)


def _loads(counts: Counter[str]) -> set[str]:
    """Return the kinds of loads from global memory."""
    return {kind for kind in counts if kind.startswith(("LDG.", "LDGSTS."))}


# The shares of the hot loops are those of nvcc 13.0 for sm_90a, less at most two hundredths, since another
# version may order instructions differently. A kernel below its share lost speed.
_TILE = r"_gemm<((Split)?Tensor)?Tile<"
_TENSOR_SHARES = {
    r"^conv_fprop_\w+<TensorTile<bfloat16, 128, 128, ": 0.39,
    r"^conv_dgrad_\w+<TensorTile<bfloat16, 128, 128, ": 0.31,
    r"^conv_wgrad_\w+<TensorTile<bfloat16, 128, 128, ": 0.33,
    r"^conv_fprop_\w+<TensorTile<float, 128, 128, ": 0.21,
    r"^conv_(dgrad|wgrad)_\w+<TensorTile<float, 128, 128, ": 0.18,
}


def _before_products(name: str) -> int:
    """Return the most instructions between a step's barrier and its first product."""
    if "TensorTile<bfloat16" in name:
        return 64
    # nvcc computes more of this tile's addresses there.
    return 125 if "TensorTile<float, 256, 48, " in name else 115


_WIDE = (
    r"^(elementwise|limit_rows)<[48]\b",
    r"^column_(sums|pairs)<[48], ",
    r"^batch_norm_rows<[48], ",
    r"^\w+<\w+:\d+, [48], ",
    r"^unpool_(forward|backward)<[48], ",
    r"^conv_depthwise_(fprop|dgrad)<[48], ",
    r"^lrn_(across_\w+|maxpool_\w+)<\d, true, ",
    r"^lrn_(map|maxpool_ring)<",
    r"^input_transform_bands<",
)
# Instructions of kernels that their issue bounds, counted in all with nvcc 13.0 for sm_90a, and a few more.
_MOST = {
    r"^lrn_maxpool_ring<5, bfloat16>": 1330,
    r"^lrn_maxpool_ring<5, float>": 1450,
    r"^lrn_maxpool_backward_columns<5, true, bfloat16>": 450,
    r"^lrn_maxpool_backward_columns<5, true, float>": 295,
    r"^input_transform_bands<bfloat16>": 670,
}
PROMISES = (
    Promise(
        "no spilled registers and no local memory",
        "",
        lambda kernel: not (kernel.stack or kernel.local or _has(kernel.counts, "LDL", "STL")),
    ),
    Promise("launch bounds", "", lambda kernel: kernel.threads is not None),
    Promise(
        "products by tensor cores",
        "(Tensor|FewChannels|Wgmma|Halo|HaloWgrad)Tile<",
        lambda kernel: _has(kernel.hot_loop, *TENSOR),
    ),
    Promise(
        "weights that the copy engine loads and stores, and no thread",
        r"^fc_wgrad_wgmma_streamed<",
        lambda kernel: kernel.counts["UTMASTG"] > 0 and not _has(kernel.counts, "STG"),
    ),
    Promise(
        "fragments by ldmatrix",
        "(Tensor|FewChannels)Tile<bfloat16,",
        lambda kernel: _has(kernel.hot_loop, "LDSM"),
    ),
    Promise(
        "strict fp32: no tensor-core instruction",
        r"^(?!.*(Tensor|FewChannels|Wgmma|Halo|HaloWgrad)Tile<)",
        lambda kernel: not _has(kernel.counts, *TENSOR),
    ),
    Promise(
        "loads and stores of 16 bytes",
        "|".join(_WIDE),
        lambda kernel: kernel.counts["LDG.16"] > 0 and kernel.counts["STG.16"] > 0,
        {
            r"^elementwise<4, SplitReduce<\w+<bfloat16>": "four sums of floats become 8 bytes of bfloat16s",
            r"^elementwise<4, TreeSum<bfloat16": "four bfloat16s of 8 bytes become four sums",
            r"^lrn_map<Step:(0|2), ": "nvcc splits the stores of its walk",
            r"^column_sums<[48], Values<": "neighbouring lanes store one sum each",
            r"^column_pairs<[48], ": "neighbouring lanes store one pair each",
            r"^column_sums<4, InputGradients<bfloat16, SplitSums<": "four floats become 8 bytes of bfloat16s",
        },
    ),
    Promise(
        "loads of 16 bytes",
        r"^conv_depthwise_wgrad<[48], |^lars_squares<true>",
        lambda kernel: "LDG.16" in _loads(kernel.counts),
    ),
    Promise(
        "maxima of bfloat16s in pairs",
        r"^(pool_forward<Pooling:0, 8, bfloat16|lrn_maxpool_ring<\d, bfloat16)>",
        lambda kernel: _has(kernel.counts, "HMNMX2", "VHMNMX") and not _has(kernel.counts, "FMNMX"),
    ),
    Promise(
        "no more instructions than counted",
        "|".join(_MOST),
        lambda kernel: (
            kernel.arch != ARCH
            or any(
                kernel.counts.total() <= most for name, most in _MOST.items() if re.search(name, kernel.name)
            )
        ),
    ),
    Promise(
        "no load narrower than 16 bytes in the hot loop",
        r"_gemm<(Tile<float, (\d+, ){5}4>|(Split)?TensorTile<)",
        lambda kernel: set() < _loads(kernel.hot_loop) <= {"LDG.16", "LDGSTS.16"},
    ),
    Promise(
        "at most five instructions for each product of tensor cores in the hot loop",
        r"^conv_\w+_few_channels<FewChannelsTile<bfloat16, (128|64, 160|96)",
        lambda kernel: kernel.hot_loop.total() <= 5 * kernel.hot_loop["HMMA"],
    ),
    Promise("one barrier in each step", _TILE, lambda kernel: kernel.hot_loop["BAR"] == 1),
    Promise(
        "no integer division in the hot loop",
        _TILE,
        lambda kernel: kernel.hot_loop["DIVISION"] == 0,
        {r"^local_dgrad_": "which filters reach a pixel is found by dividing, for each of them"},
    ),
    Promise(
        "few instructions between a step's barrier and its first product",
        "_gemm<TensorTile<",
        lambda kernel: kernel.before_products <= _before_products(kernel.name),
    ),
    Promise(
        "their share of products by tensor cores in the hot loop",
        "|".join(_TENSOR_SHARES),
        lambda kernel: all(
            kernel.share(TENSOR) >= least
            for names, least in _TENSOR_SHARES.items()
            if re.search(names, kernel.name)
        ),
    ),
    Promise(
        "at least 12 warps on a multiprocessor",
        "_gemm<Tile<",
        lambda kernel: (held := kernel.occupancy) is not None and held.warps >= 12,
    ),
    Promise(
        "a hot loop of 85% FFMA",
        r"^conv_\w+<Tile<float, 128, 128, ",
        lambda kernel: kernel.share(["FFMA", "FFMA2"]) >= 0.85,
    ),
)


def broken(kernels: Iterable[Kernel], promises: Iterable[Promise] = PROMISES) -> list[str]:
    """Return a line for each kernel that breaks a promise, and for each exception that is none."""
    lines = []
    for kernel in kernels:
        for promise in filter(lambda promise: promise.binds(kernel), promises):
            excepted = any(re.search(name, kernel.name) for name in promise.exceptions)
            if promise.kept(kernel) == excepted:
                what = "is excepted but keeps" if excepted else "breaks"
                lines.append(f"{kernel.file or 'cubin'}: {kernel.name} {what} its promise: {promise.words}")
    return lines


# ---- the table ------------------------------------------------------------------------------------------

_COLUMNS = (
    "kernel",
    "registers",
    "shared",
    "threads",
    "blocks",
    "warps",
    "limit",
    "spills",
    "LDG.16",
    "LDG",
    "STG.16",
    "STG",
    "divisions",
    "hot loop",
    "barriers",
    "LDS.16",
    "LDSM",
    "FFMA",
    "tensor",
)


def _cells(kernel: Kernel) -> list[str]:
    counts, loop, held = kernel.counts, kernel.hot_loop, kernel.occupancy

    def sum_of(of: Counter[str], *begins: str) -> int:
        return sum(number for kind, number in of.items() if kind.startswith(begins))

    numbers = [
        sum_of(counts, "LDL", "STL"),
        sum_of(counts, "LDG.16", "LDGSTS.16"),
        sum_of(counts, "LDG.", "LDGSTS."),
        counts["STG.16"],
        sum_of(counts, "STG"),
        counts["DIVISION"],
        loop.total(),
        loop["BAR"],
        loop["LDS.16"],
        loop["LDSM"],
    ]
    return [
        kernel.name,
        str(kernel.registers),
        str(kernel.shared),
        str(kernel.threads or "?"),
        str(held.blocks) if held else "?",
        f"{held.share:.0%}" if held else "?",
        held.limit if held else "?",
        *(str(number or "") for number in numbers),
        *(f"{kernel.share(kinds):.0%}" if kernel.share(kinds) else "" for kinds in (("FFMA",), TENSOR)),
    ]


def table(kernels: Sequence[Kernel]) -> str:
    """Return a line for each kernel, below its source.

    Columns from "hot loop" on count instructions of that loop.
    """
    lines = [list(_COLUMNS), *map(_cells, kernels)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    printed, source = text[:1], ""
    for kernel, line in zip(kernels, text[1:], strict=True):
        if kernel.file != source:
            source = kernel.file
            printed += ["", source]
        printed.append(line)
    return "\n".join(printed)


def as_json(kernel: Kernel) -> dict[str, Any]:
    """Return a kernel's properties as JSON values."""
    plain = {key: value for key, value in asdict(replace(kernel, code=())).items() if key != "code"}
    held = kernel.occupancy
    return {
        **plain,
        "occupancy": asdict(held) if held else None,
        "instructions": dict(kernel.counts),
        "hot_loop": dict(kernel.hot_loop),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=[MODULE], help="default: the CUDA module")
    parser.add_argument("--arch", default=ARCH, help=f"whose code is read ({ARCH})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all properties to a file")
    options = parser.parse_args(arguments)
    try:
        kernels = [kernel for path in options.files for kernel in read(path, options.arch)]
    except (ToolMissing, ValueError) as error:
        parser.error(str(error))
    if not kernels:
        parser.error(f"there is no kernel for {options.arch}: CCONVNET_ARCHS names what is built")
    print(table(kernels))
    lines = broken(kernels)
    print("", *lines or ["All promises are kept."], sep="\n")
    if options.json:
        value = {"kernels": [as_json(kernel) for kernel in kernels], "broken": lines}
        options.json.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
