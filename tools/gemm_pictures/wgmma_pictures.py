"""Pictures of docs/wgmma.md, of what wgmma_layout.cu prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import gemm_layout
from sheets import BLUE, EMPTY, GREEN, ORANGE, PALE, bare, box

from cconvnet.plots.figures import FAINT, INK, RULE, drawn

SIDE, STAGES = 4, 3  # of the images and of the ring in wgmma_layout.cu


@dataclass
class WgmmaLayout:
    """The output of wgmma_layout.cu.

    Attributes:
        swizzles: By bytes of a line, for each line of 128 bytes: the position of each chunk of 16.
        windows: By tap, for each line of a box: image, row and column of its pixel; None where it is padding.
        sums: For each thread of a warp group: the row and column of each of its sums.
        events: In their order: the warp, what it does, and the step.
    """

    swizzles: dict[int, list[list[int]]] = field(default_factory=dict)
    windows: dict[int, list[tuple[int, ...] | None]] = field(default_factory=dict)
    sums: list[list[tuple[int, int]]] = field(default_factory=list)
    events: list[tuple[int, str, int]] = field(default_factory=list)


def read(folder: Path) -> WgmmaLayout:
    """Compile wgmma_layout.cu into a folder with the host compiler, run it, and return what it prints."""
    layout = WgmmaLayout()
    more = gemm_layout.KERNELS / "gemm" / "tensor_map.cu"
    for line in gemm_layout.printed_by("wgmma_layout", folder, more):
        head, _, rest = line.partition(":")
        kind, *names = head.split()
        numbers = [int(number) for number in rest.split()]
        if kind == "swizzle":
            layout.swizzles.setdefault(int(names[0]), []).append(numbers)
        elif kind == "window":
            pixel = None if numbers[0] < 0 else tuple(numbers)
            layout.windows.setdefault(int(names[0]), []).append(pixel)
        elif kind == "sums":
            layout.sums.append([*zip(numbers[::2], numbers[1::2], strict=True)])
        else:
            _, warp, what, step = names
            layout.events.append((int(warp), what, int(step)))
    return layout


def windows(path: Path, found: WgmmaLayout) -> None:
    """Draw the pixels that one copy gathers for a tap."""
    tap, shown = 2, 20
    r, s = divmod(tap, 3)
    with drawn(
        path, 10.5, 3.2, "One instruction gathers a tap of a row of windows",
        f"Images of 4 x 4, filters of 3 x 3, padding of 1: tap r = {r}, s = {s} of 20 windows",
    ) as page:  # fmt: skip
        images, lines = page.subplots(1, 2, gridspec_kw={"width_ratios": [14, 20]})
        bare(images, 14, 8)
        for image in range(2):
            left = image * 7.5
            for h in range(-1, SIDE + 1):
                for w in range(-1, SIDE + 1):
                    inside = 0 <= h < SIDE and 0 <= w < SIDE
                    box(images, left + w + 1, h + 1.5, 1, 1, PALE[BLUE] if inside else EMPTY)
            images.text(left, 0.2, f"image {image}, and its padding", fontsize=8.5, color=FAINT)
        for line, pixel in enumerate(found.windows[tap][:shown]):
            image, window = divmod(line, SIDE * SIDE)
            # The pixel that tap (r, s) of window (p, q) reads, padding or not.
            p, q = divmod(window, SIDE)
            x, y = image * 7.5 + q + s, p + r + 0.5
            box(images, x, y, 1, 1, ORANGE if pixel else "#c9ced4")
            images.text(x + 0.5, y + 0.5, str(line), ha="center", va="center", fontsize=7, color="white")
        bare(lines, 20, 8)
        for line, pixel in enumerate(found.windows[tap][:shown]):
            column, row = divmod(line, 5)
            x, y = column * 5, row * 1.2 + 1.5
            box(lines, x, y, 4.6, 1, PALE[ORANGE] if pixel else EMPTY)
            text = f"n {pixel[0]}, h {pixel[1]}, w {pixel[2]}" if pixel else "zeros"
            lines.text(x + 0.2, y + 0.5, f"{line}", va="center", fontsize=7.5, color=INK)
            lines.text(x + 4.4, y + 0.5, text, va="center", ha="right", fontsize=7, color=FAINT)
        lines.text(0, 1.1, "shared memory: a line of channels for each window", fontsize=8.5, color=FAINT)


def stream(path: Path) -> None:
    """Draw the stream of padded images, and what two taps of a tile read of it."""
    pitch, images, first, windows = SIDE + 1, 2, 8, 16
    r, s = 1, 2
    shift = r * pitch + s
    last = first + windows + 2 * pitch + 2  # behind the last pixel that a tap reads
    with drawn(
        path, 10.5, 4.2, "Padded images as one stream",
        f"Two images of 4 x 4, filters of 3 x 3: windows {first} to {first + windows - 1}, "
        f"and their pixels at tap r = {r}, s = {s}, {shift} further on",
    ) as page:  # fmt: skip
        places, plane = page.subplots(1, 2, gridspec_kw={"width_ratios": [7, 20]})
        bare(places, pitch + 1, images * pitch + 1)
        for u in range(images * pitch * pitch):
            row, column = divmod(u, pitch)
            inside = row % pitch and column
            read = first + shift <= u < first + shift + windows
            color = (ORANGE if inside else "#c9ced4") if read else PALE[BLUE] if inside else EMPTY
            box(places, column, row + 0.6, 1, 1, color)
            places.text(
                column + 0.5, row + 1.1, f"{u}", ha="center", va="center", fontsize=7,
                color="white" if read else FAINT,
            )  # fmt: skip
        places.text(0, 0.3, "padding above and on the left", fontsize=8.5, color=FAINT)
        bare(plane, 20, images * pitch + 1)
        for u in range(first, last):
            y, x = divmod(u - first, 10)
            read = first + shift <= u < first + shift + windows
            inside = u // pitch % pitch and u % pitch
            color = (ORANGE if inside else "#c9ced4") if read else PALE[BLUE] if inside else EMPTY
            box(plane, 2 * x, y * 2 + 0.9, 1.9, 1.2, color)
            plane.text(
                2 * x + 0.95, y * 2 + 1.5, f"{u}", ha="center", va="center", fontsize=7.5,
                color="white" if read else FAINT,
            )  # fmt: skip
        plane.text(
            0, 0.5, "a plane of shared memory: 8 channels, 16 bytes, of each pixel; one copy for all taps",
            fontsize=8.5, color=FAINT,
        )  # fmt: skip
        plane.text(
            0, 7.4, "orange: rows of A at this tap; grey: those that read padding, as zeros",
            fontsize=8.5, color=FAINT,
        )  # fmt: skip


def swizzles(path: Path, found: WgmmaLayout) -> None:
    """Draw where the copy engine puts chunks, for each length of line."""
    with drawn(
        path, 10.5, 4.6, "Lines of 128, 64 and 32 bytes, swizzled",
        "Eight lines of 128 bytes of shared memory: all 32 banks; numbers are chunks of 16 bytes",
    ) as page:  # fmt: skip
        for axes, (size, lines) in zip(page.subplots(1, 3), found.swizzles.items(), strict=True):
            bare(axes, 8, 8)
            per_line = size // 16
            label = {"ha": "right", "va": "center", "fontsize": 7, "color": FAINT}
            for line, positions in enumerate(lines):
                for chunk, position in enumerate(positions):
                    first = chunk % per_line == 0
                    x, y = position % 8, position // 8
                    box(axes, x, y, 1, 1, ORANGE if first else PALE[BLUE])
                    axes.text(
                        x + 0.5, y + 0.5, f"{chunk % per_line}", ha="center", va="center", fontsize=8,
                        color="white" if first else FAINT,
                    )  # fmt: skip
                axes.text(-0.15, line + 0.5, f"{line * 128}", **label)
            count = 128 // size
            one = "one line" if count == 1 else f"{count} lines"
            axes.set_title(f"{size} bytes: {one} in 128 bytes", fontsize=9)


def sums(path: Path, found: WgmmaLayout) -> None:
    """Draw which sums of a product of 64 x 32 a warp and a lane hold."""
    with drawn(
        path, 10.5, 4.9, "The sums of a warp group",
        "A product of 64 x 32: warp 1 (blue), its lane 13 (orange)",
    ) as page:  # fmt: skip
        axes = page.subplots()
        bare(axes, 100, 64)
        box(axes, 0, 0, 32, 64, EMPTY)
        for thread in range(32, 64):
            for row, column in found.sums[thread]:
                box(axes, column, row, 1, 1, PALE[BLUE], linewidth=0)
        for row, column in found.sums[32 + 13]:
            box(axes, column, row, 1, 1, ORANGE, linewidth=0)
        for warp in range(4):
            axes.plot([0, 32], [16 * warp] * 2, color=INK, linewidth=0.8)
            axes.text(34, 16 * warp + 8, f"warp {warp}", va="center", fontsize=8.5)
        box(axes, 46, 16, 52, 28, EMPTY, edgecolor=RULE)
        axes.text(47, 18.5, "lane 13, sum by sum: row, column", fontsize=8.5)
        for i, (row, column) in enumerate(found.sums[32 + 13]):
            x, y = 47 + i % 4 * 12.5, 24 + i // 4 * 5
            axes.text(x, y, f"{i}: {row}, {column}", fontsize=8, color=FAINT)


def ring(path: Path, found: WgmmaLayout) -> None:
    """Draw a run of the ring of stages, event by event."""
    last = len(found.events)
    with drawn(
        path, 10.5, 3.4, "A ring of three stages",
        "A run in the emulator, event after event, in random order; numbers are steps, colours stages",
    ) as page:  # fmt: skip
        axes = page.subplots()
        colors = (BLUE, ORANGE, GREEN)
        rows = {0: 2.2, 1: 1.1, 2: 0.0}
        begun: dict[tuple[int, int], int] = {}
        for time, (warp, what, step) in enumerate(found.events):
            color = colors[step % STAGES]
            if what == "copy":
                axes.barh(rows[0], 0.9, left=time, height=0.7, color=PALE[color])
                axes.text(time + 0.45, rows[0], f"{step}", ha="center", va="center", fontsize=8)
            elif what == "multiply":
                begun[warp, step] = time
            else:
                left = begun[warp, step]
                axes.barh(rows[warp], time + 0.9 - left, left=left, height=0.7, color=color)
                middle = (left + time + 0.9) / 2
                axes.text(middle, rows[warp], f"{step}", ha="center", va="center", fontsize=8, color="white")
        axes.set(
            xlim=(-0.3, last), ylim=(-0.6, 2.8), yticks=[*rows.values()], xticks=[],
            yticklabels=["one lane copies", "group 0 multiplies", "group 1 multiplies"],
        )  # fmt: skip
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)


def pairs(path: Path) -> None:
    """Draw which rows of both factors the blocks of a pair load, and for which tiles."""
    with drawn(
        path, 10.5, 3.9, "A pair of blocks loads what both need once",
        "Two tiles of 128 x 256 that are neighbours along m: block 0 (blue), block 1 (orange)",
    ) as page:  # fmt: skip
        axes = page.subplots()
        bare(axes, 150, 52)
        left, top, columns, rows, depth = 46, 16, 64, 16, 10
        label = {"ha": "center", "va": "center", "fontsize": 8.5}
        for block, color in enumerate((BLUE, ORANGE)):
            y, half = top + block * (rows + 1), columns // 2
            box(axes, left - 2 - depth, y, depth, rows, color)
            axes.text(left - 2 - depth / 2, y + rows / 2, "A", color="white", **label)
            axes.text(left - 4 - depth, y + rows / 2, f"128 rows, for block {block}", ha="right", va="center",
                      fontsize=8.5, color=FAINT)  # fmt: skip
            box(axes, left + block * half, top - 2 - depth, half, depth, color)
            axes.text(left + (block + 0.5) * half, top - 2 - depth / 2, "half of B", color="white", **label)
            box(axes, left, y, columns, rows, PALE[color])
            axes.text(left + columns / 2, y + rows / 2, f"the sums of block {block}", **label)
        axes.text(left + columns / 2, top - 4 - depth, "256 columns, each half for both blocks", ha="center",
                  va="bottom", fontsize=8.5, color=FAINT)  # fmt: skip
        texts = ("a step of a block alone:", "128 + 256 rows", "", "of a block of a pair:", "128 + 128 rows")
        for line, text in enumerate(texts):
            axes.text(left + columns + 5, top + 8 + 4 * line, text, fontsize=8.5, color=INK)


def draw(folder: Path, scratch: Path) -> None:
    """Draw every picture into a folder."""
    found = read(scratch)
    windows(folder / "wgmma-windows.png", found)
    stream(folder / "wgmma-stream.png")
    swizzles(folder / "wgmma-swizzle.png", found)
    sums(folder / "wgmma-sums.png", found)
    ring(folder / "wgmma-ring.png", found)
    pairs(folder / "wgmma-pairs.png")
