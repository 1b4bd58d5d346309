"""Draw the pictures of docs/seven-loops.md and docs/wgmma.md: `python tools/gemm_pictures docs/images`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import gemm_layout
import wgmma_pictures
from sheets import BLUE, EMPTY, GREEN, ORANGE, PALE, bare, box

from cconvnet.bench.cases import cases
from cconvnet.devices import get_device
from cconvnet.plots.figures import FAINT, INK, RULE, drawn

MULTIPROCESSORS = 132  # of an H100 or H200


def implicit_gemm(path: Path) -> None:
    """Draw how a window of an image is a row of the matrix A, which is never stored."""
    side, window, channels = 6, 3, 2
    p, q = 1, 2  # the output pixel that is shown
    with drawn(
        path, 10.5, 4.3, "A window is a row of a matrix",
        "6x6 pixels, 3x3 filters, C = 2, K = 4, stride 1: 16 outputs of 18 products each",
    ) as page:  # fmt: skip
        image, left, right, out = page.subplots(1, 4, gridspec_kw={"width_ratios": [10, 18, 5, 5]})
        taps = [PALE[BLUE], PALE[ORANGE], PALE[GREEN]]
        bare(image, side, 10)
        for h in range(side):
            for w in range(side):
                inside = p <= h < p + window and q <= w < q + window
                box(image, w, h, 1, 1, taps[h - p] if inside else EMPTY)
                if inside:
                    image.text(w + 0.5, h + 0.5, f"{h - p},{w - q}", ha="center", va="center", fontsize=7)
        box(image, q, p, window, window, "none", edgecolor=INK, linewidth=1.6)
        image.text(
            0, side + 0.9, f"x[n, :, :, :]\nthe window of\noutput p={p}, q={q}", fontsize=8.5, va="top"
        )
        depth, outputs = window * window * channels, (side - window + 1) ** 2
        row = p * (side - window + 1) + q
        bare(left, depth, outputs)
        for m in range(outputs):
            for k in range(depth):
                box(left, k, m, 1, 1, taps[k // channels // window] if m == row else EMPTY, linewidth=0.4)
        for tap in range(window * window):
            label = f"{tap // window},{tap % window}"
            left.text(
                (tap + 0.5) * channels, row + 0.5, label, ha="center", va="center", fontsize=7
            )  # fmt: skip
        box(left, 0, row, depth, 1, "none", edgecolor=INK, linewidth=1.6)
        left.set_title("A: row m = (n, p, q), column k = (r, s, c)\nread from x in place", fontsize=8.5)
        bare(right, 4, depth)
        for column in range(4):
            for k in range(depth):
                color = taps[k // channels // window] if column == 1 else EMPTY
                box(right, column, k, 1, 1, color, linewidth=0.4)
        box(right, 1, 0, 1, depth, "none", edgecolor=INK, linewidth=1.6)
        right.set_title("B: filters\n(r, s, c) by K", fontsize=8.5)
        bare(out, 4, outputs)
        for m in range(outputs):
            for k in range(4):
                box(out, k, m, 1, 1, INK if (m, k) == (row, 1) else EMPTY, linewidth=0.4)
        out.set_title("C: y[n, p, q, k]", fontsize=8.5)


def tiles(path: Path, found: gemm_layout.Layout) -> None:
    """Draw a block's tile of outputs as its warps and threads share it."""
    name = "fp32_128x128x16"
    threads = found.threads[name]
    tensor = found.threads["bf16_128x128x64"]
    with drawn(
        path, 10.5, 5.4, "Who computes what in a tile of 128 x 128 outputs",
        "256 threads on CUDA cores (left); 128 threads on tensor cores, after the last step (right)",
    ) as page:  # fmt: skip
        plain, cores = page.subplots(1, 2)
        bare(plain, 128, 128)
        box(plain, 0, 0, 128, 128, EMPTY)
        for thread in range(32):
            draw_thread(plain, threads[thread], PALE[BLUE], 4)
        draw_thread(plain, threads[13], ORANGE, 4)
        plain.set_title(
            f"{name}: warp 0 (blue), its thread 13 (orange)\n64 outputs in four 4 x 4 squares", fontsize=9
        )
        bare(cores, 128, 128)
        box(cores, 0, 0, 128, 128, EMPTY)
        for thread in range(32):
            draw_thread(cores, tensor[thread], PALE[BLUE], 4)
        draw_thread(cores, tensor[13], ORANGE, 4)
        cores.set_title(
            "bf16_128x128x64: warp 0 (blue), its lane 13 (orange)\nfour neighbours of every second row",
            fontsize=9,
        )


def draw_thread(axes: Any, thread: tuple[list[int], list[int]], color: str, group: int) -> None:
    """Fill the outputs of one thread: `group` columns from each of its columns, in each of its rows."""
    rows, columns = thread
    for row in rows:
        for column in columns:
            box(axes, column, row, group, 1, color, linewidth=0)


def swizzle(path: Path, found: gemm_layout.Layout) -> None:
    """Draw the banks of the eight lines that ldmatrix reads at once, with and without the swizzle."""
    lines = found.swizzles["bf16_128x128x64_a_along_k"]
    chunks = len(lines[0])
    with drawn(
        path, 10.5, 6.9, "The swizzle puts eight rows on different banks",
        "bf16_128x128x64: a row of A has 64 values of k, eight chunks of 16 bytes: once all 32 banks",
    ) as page:  # fmt: skip
        before, after = page.subplots(1, 2)
        plain = [[line * chunks + chunk for chunk in range(chunks)] for line in range(8)]
        for axes, placed, title in (
            (before, plain, "as in global memory"),
            (after, lines[:8], "chunk XOR row mod 8, as stored"),
        ):
            bare(axes, 8, chunks)
            used = [placed[line][1] % 8 for line in range(8)]
            for line in range(8):
                for chunk in range(chunks):
                    position = placed[line][chunk]
                    color = ORANGE if chunk == 1 else PALE[BLUE]
                    box(axes, position % 8, position // 8, 1, 1, color)
                    text = f"row {line}\nchunk {chunk}"
                    axes.text(
                        position % 8 + 0.5, position // 8 + 0.5, text, ha="center", va="center",
                        fontsize=7, color="white" if chunk == 1 else FAINT,
                    )  # fmt: skip
            worst = max(used.count(position) for position in used)
            times = "1 pass" if worst == 1 else f"{worst} passes"
            axes.set_title(f"{title}\neight rows' chunk 1 are read in {times}", fontsize=9)
            for position in range(8):
                axes.text(
                    position + 0.5, chunks + 0.35, f"banks\n{4 * position}-{4 * position + 3}",
                    ha="center", va="center", fontsize=7, color=FAINT,
                )  # fmt: skip
            axes.set_ylim(chunks + 0.7, -0.1)


def split_k(path: Path) -> None:
    """Draw the blocks of AlexNet's filter gradients, with one block for a tile and with splits."""
    names, tiles_only, with_splits = [], [], []
    for case in cases("alexnet", 128):
        if case.operation != "conv_wgrad":
            continue
        problem = case.problem
        groups = problem.groups
        rows, columns = problem.k // groups, problem.r * problem.s * problem.c // groups
        blocks = -(-rows // 128) * -(-columns // 128) * groups
        workspace = get_device("emulator:0").module.conv_wgrad_workspace(problem)
        names.append(f"{case.layer}\n{rows} x {columns}" + (f", {groups} groups" if groups > 1 else ""))
        tiles_only.append(blocks)
        # The workspace holds a float32 of every weight for each split.
        with_splits.append(blocks * max(1, workspace // (4 * problem.k * columns)))
    with drawn(
        path, 10.5, 3.8, "Splitting the sums fills the chip",
        "Blocks of 128 x 128 outputs in AlexNet's filter gradients, batch 128",
    ) as page:  # fmt: skip
        axes = page.subplots()
        places = range(len(names))
        for shift, counts, color, label in (
            (-0.2, tiles_only, FAINT, "a block for each tile"),
            (0.2, with_splits, BLUE, "a block for each tile and split"),
        ):
            bars = axes.bar([place + shift for place in places], counts, 0.38, color=color, label=label)
            axes.bar_label(bars, fontsize=8, padding=2)
        axes.axhline(MULTIPROCESSORS, color=ORANGE, linewidth=1.2, label="132 multiprocessors of an H200")
        axes.set_xticks(list(places), names, fontsize=8.5)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("blocks")
        axes.set_ylim(0, 1.25 * max(with_splits))
        axes.legend(loc="upper right", ncols=3, fontsize=8.5)


def stages(path: Path) -> None:
    """Draw how copies of later steps run while this step's pieces are multiplied."""
    count, ahead = 6, 2  # a tile of three stages
    with drawn(
        path, 10.5, 2.6, "Copies of the next two steps run behind the arithmetic",
        "A tile with three stages of shared memory; bars of one colour use the same stage",
    ) as page:  # fmt: skip
        axes = page.subplots()
        colors = (BLUE, ORANGE, GREEN)
        for step in range(count):
            lane = 1 + step % 3 * 0.36
            axes.barh(lane, 1.92, left=step - ahead, height=0.32, color=PALE[colors[step % 3]])
            axes.text(
                step - ahead + 0.96, lane, f"copy {step}", ha="center", va="center", fontsize=8, color=INK
            )
            axes.barh(0.4, 0.94, left=step, height=0.36, color=colors[step % 3])
            axes.text(
                step + 0.47, 0.4, f"multiply {step}", ha="center", va="center", color="white", fontsize=8
            )
            axes.axvline(step - 0.03, color=RULE, linewidth=0.8)
        axes.set(
            xlim=(-2.1, count), ylim=(0.1, 2.0), yticks=[0.4, 1.36], yticklabels=["tensor cores", "copies"]
        )
        axes.set_xticks(
            [step - 0.03 for step in range(count)], [f"barrier {step}" for step in range(count)], fontsize=8
        )
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)


def main() -> None:
    """Draw every picture into the folder that the command line names."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        found = gemm_layout.read(Path(scratch))
        wgmma_pictures.draw(folder, Path(scratch))
    implicit_gemm(folder / "implicit-gemm.png")
    tiles(folder / "gemm-tiles.png", found)
    swizzle(folder / "gemm-swizzle.png", found)
    stages(folder / "gemm-stages.png")
    split_k(folder / "gemm-split-k.png")


if __name__ == "__main__":
    main()
