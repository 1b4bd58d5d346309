"""Tests of the tiles of matrix products: the outputs of each thread, and the banks of operands."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "gemm_pictures"))
import gemm_layout

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++").split()[0]) is None, reason="no host compiler"
)

BANKS = 8  # of 16 bytes, the size of a chunk
SECTOR = 32  # bytes of global memory


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> gemm_layout.Layout:
    return gemm_layout.read(tmp_path_factory.mktemp("layout"))


def conflicts(lines: list[list[int]], height: int, width: int) -> int:
    """Count the reads of `height` lines by `width` chunks, aligned, that meet twice on a bank."""
    return sum(
        len(
            {position % BANKS for line in lines[top : top + height] for position in line[left : left + width]}
        )
        != height * width
        for top in range(0, len(lines), height)
        for left in range(0, len(lines[0]), width)
    )


def test_each_output_of_a_tile_is_one_thread_s(found: gemm_layout.Layout) -> None:
    assert len(found.threads) == 30
    for name, threads in found.threads.items():
        block_m, block_n, _ = (int(side) for side in name.split("_")[1].split("x"))
        outputs = Counter(
            (row, column + i)
            for rows, columns in threads
            for row in rows
            for column in columns
            for i in range(4)
        )
        assert outputs == Counter((m, n) for m in range(block_m) for n in range(block_n)), name


@pytest.mark.parametrize("size", [2, 4])
def test_a_warp_s_stores_cover_whole_sectors(found: gemm_layout.Layout, size: int) -> None:
    """Its lanes write groups of four elements of 2 or 4 bytes into a matrix of 128 columns."""
    for name, threads in found.threads.items():
        for first in range(0, len(threads), 32):
            warp = threads[first : first + 32]
            for i in range(len(warp[0][0])):
                for j in range(len(warp[0][1])):
                    places = [(rows[i] * 128 + columns[j]) * size // SECTOR for rows, columns in warp]
                    assert len(set(places)) == 32 * 4 * size // SECTOR, name


def test_a_swizzle_permutes_the_chunks_of_a_line(found: gemm_layout.Layout) -> None:
    for name, lines in found.swizzles.items():
        for line, positions in enumerate(lines):
            begin = line * len(positions)
            assert sorted(positions) == list(range(begin, begin + len(positions))), name


def test_what_a_warp_reads_at_once_is_on_different_banks(found: gemm_layout.Layout) -> None:
    """ldmatrix reads a chunk of eight lines; floats across k are read as two chunks of four lines."""
    assert len(found.swizzles) == 84
    for name, lines in found.swizzles.items():
        by_pairs = name.startswith(("fp32x3", "tf32")) and name.endswith("across_k")
        assert conflicts(lines, *((4, 2) if by_pairs else (8, 1))) == 0, name


def test_finished_sums_are_written_and_read_on_different_banks(found: gemm_layout.Layout) -> None:
    """A warp writes two chunks of four rows at once; it reads eight chunks of a row, or four of two rows."""
    assert len(found.results) == 21
    for name, rows in found.results.items():
        positions = sorted(position for row in rows for position in row)
        assert positions == list(range(len(rows) * len(rows[0]))), name
        assert conflicts(rows, 4, 2) == 0, name
        assert conflicts(rows, *((2, 4) if len(rows[0]) == 12 else (1, 8))) == 0, name


def test_without_the_swizzle_rows_share_banks(found: gemm_layout.Layout) -> None:
    chunks = len(found.swizzles["bf16_128x128x64_a_along_k"][0])
    plain = [[line * chunks + chunk for chunk in range(chunks)] for line in range(128)]
    assert conflicts(plain, 8, 1) == 128 // 8 * chunks
