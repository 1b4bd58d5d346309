"""The model on cases that are computed by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from cconvnet.profile.chips import Chip, Constant, chip_of
from cconvnet.profile.facts import Facts, Part
from cconvnet.profile.model import (
    RESOURCES,
    SECTOR,
    Traffic,
    Work,
    group_of,
    pipe_cycles,
    predict,
    serial_cycles,
    tensor_cycles,
)

# Round numbers: ten multiprocessors at one cycle a nanosecond, of which nothing is lost.
ROUND = {
    "multiprocessors": 10, "clock": 1, "overlap": 1, "dram": 1000, "tensor_bf16": 4096, "tensor_tf32": 2048,
    "tensor_bf16_wgmma": 8192, "tensor_tf32_wgmma": 4096,
    "issue": 4, "fp32": 128, "integer": 64, "special": 16, "shared": 128, "l1": 128, "l2": 32, "alone": 2,
    "barrier": 10, "l2_latency": 100, "dram_latency": 500, "shared_latency": 30, "block_start": 0,
}  # fmt: skip
CHIP = Chip("sm_90a", "round", {name: Constant(value, "", "assumed", "") for name, value in ROUND.items()})
NO_TRAFFIC = Traffic(0, 0, 0, 0, 0)


def facts(name: str = "kernel", registers: int = 255, **code: int) -> Facts:
    """Return the facts of a kernel without loops; 255 registers let two blocks of 128 threads in."""
    return Facts("", name, "sm_90a", registers, 0, 128, None, (Part(None, False, Counter(code), (), ()),))


def work(grid: int = 20, traffic: Traffic = NO_TRAFFIC, dram_bytes: float = 0) -> Work:
    return Work(grid, 128, 0, {}, traffic, dram_bytes)


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("HMMA", "tensor"), ("HGMMA.128", "tensor"), ("SYNCS", "control"), ("UTMALDG", "uniform"),
        ("FFMA", "fp32"), ("IMAD", "fp32"), ("HFMA2", "fp32"), ("MUFU", "special"), ("DIVISION", "special"),
        ("LDGSTS.16", "global"), ("LDGDEPBAR", "control"), ("STG.4", "global"), ("LDSM", "shared"),
        ("SHFL", "shared"), ("LDC", "uniform"), ("UIADD3", "uniform"), ("BRA", "control"),
        ("FSETP", "integer"), ("HMNMX2", "integer"), ("IADD3", "integer"), ("F2FP", "integer"),
    ],
)  # fmt: skip
def test_groups_of_instructions(kind: str, group: str) -> None:
    assert group_of(kind) == group


def test_cycles_of_each_pipe() -> None:
    instructions = {"HMMA": 2, "FFMA": 8, "IMAD": 4, "LOP3": 4, "MUFU": 1, "SHFL": 3, "BAR": 2}
    traffic = Traffic(sectors=40, least_sectors=20, passed=30, wavefronts=12, least_wavefronts=6)
    cycles = pipe_cycles(instructions, work(traffic=traffic), CHIP)
    # Four warps of 32 lanes share each pipe. Half of the multiplications of integers pass a clock.
    assert cycles == {
        "tensor": 2 * 4 * 2048 / 2048,
        "issue": 24 * 4 / 4,
        "fp32": 128 * (8 / 128 + 4 / 64),
        "integer": 128 * 4 / 64,
        "special": 128 * 1 / 16,
        "shared": 12 + 3 * 4,
        "l1": 40 * SECTOR / 128,
        "l2": 30 * SECTOR / 32,
    }
    assert pipe_cycles({"HMMA": 2}, work(), CHIP, is_bf16=True)["tensor"] == 8


def groups(stores: int = 5) -> Facts:
    """Return the facts of warp groups of 384 threads: one warp copies, two groups multiply and store."""
    codes = [
        Part(None, False, Counter(BAR=1), (), ()),
        Part(0, False, Counter(MOV=3), (), ()),  # the role that copies
        Part(1, True, Counter(UTMALDG=2, UIADD3=28), (), ()),
        Part(0, True, Counter({"STG.16": stores}), (), ()),  # the other: tile after tile
        Part(3, True, Counter({"HGMMA.128": 4, "R2UR": 16}), (), ()),
    ]
    return Facts("", "WgmmaTile<bfloat16", "sm_90a", 168, 0, 384, 4, tuple(codes))


def multiplied(steps: float, tiles: float, busiest: float = 1.0, stores: int = 5) -> Work:
    """Return the work of a block of warp groups: the average of 12 warps; 8 multiply and one copies."""
    counted = {
        "BAR": 1, "UTMALDG": 2 * steps / 12, "HGMMA.128": 4 * steps * 8 / 12,
        "STG.16": stores * tiles * 8 / 12,
    }  # fmt: skip
    return Work(10, 384, 0, counted, NO_TRAFFIC, 0, busiest)


def test_products_of_warp_groups_have_a_rate_of_their_own() -> None:
    # A warp's share is 16 x 128 x 16 multiply-adds, of tf32s half as many.
    assert tensor_cycles({"HGMMA.128": 3}, CHIP, is_bf16=True) == 3 * 16 * 128 * 16 * 2 / 8192
    assert tensor_cycles({"HGMMA.128": 3}, CHIP, is_bf16=False) == 3 * 16 * 128 * 8 * 2 / 4096
    assert tensor_cycles({"HMMA": 3}, CHIP, is_bf16=True) == 3


def test_warp_groups_write_their_sums_behind_their_products() -> None:
    facts = groups()
    assert facts.has_warp_groups and facts.inside("HGMMA", innermost=True) == {4}
    assert facts.inside("HGMMA", innermost=False) == {3, 4}
    assert facts.inside("UTMALDG", innermost=False) == {1, 2}
    found = predict(multiplied(steps=100, tiles=10), facts, CHIP)
    # A step's products are 4 x 8 shares of 8 cycles, a tile's stores 5 instructions at 2; the latency is 100.
    assert found.order[0] == "serial" and found.cycles["tensor"] == pytest.approx(100 * 4 * 8 * 8, rel=1e-3)
    assert found.seconds == pytest.approx((100 * 256 + 10 * 5 * 2 + 100) * 1e-9, rel=1e-3)


def test_copies_may_take_longer_than_products() -> None:
    facts = groups()
    slow = replace(facts.parts[2], code=Counter(UTMALDG=2, UIADD3=998))
    found = predict(
        multiplied(100, 10), replace(facts, parts=(*facts.parts[:2], slow, *facts.parts[3:])), CHIP
    )
    # One warp, an instruction in 2 cycles.
    assert found.seconds == pytest.approx((100 * 1000 * 2 + 100) * 1e-9, rel=1e-3)


def test_the_busiest_block_of_warp_groups_decides() -> None:
    even, uneven = (predict(multiplied(100, 10, busiest), groups(), CHIP).seconds for busiest in (1, 1.25))
    assert uneven - 100e-9 == pytest.approx(1.25 * (even - 100e-9), rel=1e-3)


def test_a_full_grid_takes_its_busiest_pipe() -> None:
    found = predict(work(grid=40, traffic=Traffic(0, 0, 1000, 0, 0)), facts(FFMA=10), CHIP)
    assert found.blocks == 2 and found.limit == "registers" and found.waves == 2
    # Four blocks of each multiprocessor, 1,000 sectors each at a sector a cycle.
    assert found.seconds == pytest.approx(4000e-9)
    assert found.order[0] == "l2" and found.tail == 0 and set(found.cycles) == set(RESOURCES)


def test_blocks_of_the_last_wave_share_nothing() -> None:
    # Two blocks of each multiprocessor, then one more on each.
    found = predict(work(grid=30, traffic=Traffic(0, 0, 1000, 0, 0)), facts(), CHIP)
    assert found.waves == 1.5 and found.seconds == pytest.approx(3000e-9) and found.tail == 0
    # One more block for the whole GPU costs as much.
    lost = predict(work(grid=21, traffic=Traffic(0, 0, 1000, 0, 0)), facts(), CHIP)
    assert lost.seconds == pytest.approx(3000e-9) and lost.tail == pytest.approx(0.3)


def test_a_lone_block_takes_its_serial_path() -> None:
    found = predict(work(grid=1), facts(FFMA=100, BAR=2), CHIP)
    # 102 instructions at 2 cycles, and two barriers.
    assert found.order[0] == "serial" and found.seconds == pytest.approx((204 + 20) * 1e-9)


def test_waits_are_as_long_as_what_is_not_hidden() -> None:
    one = facts(LDG=1)
    waiting = replace(one, parts=(replace(one.parts[0], waits=(10, 80), shared_waits=(5,)),))
    traffic = Traffic(0, 0, 10, 0, 0)
    # An instruction takes 2 cycles, so 20 of 100 are hidden, and all of the second.
    assert serial_cycles(waiting, [1.0], work(traffic=traffic), CHIP) == 2 + 80 + 20
    # What comes from memory takes longer: 480 and 340 of 500.
    far = work(traffic=traffic, dram_bytes=20 * 10 * SECTOR)
    assert serial_cycles(waiting, [1.0], far, CHIP) == 2 + 480 + 340 + 20


def test_memory_is_shared_by_the_whole_gpu() -> None:
    found = predict(work(dram_bytes=1e6), facts(FFMA=1), CHIP)
    assert found.order[0] == "dram" and found.seconds == pytest.approx(1e-6)


def test_a_bank_conflict_is_seen() -> None:
    plain = predict(work(traffic=Traffic(0, 0, 100, 200, 200)), facts(FFMA=1), CHIP)
    conflict = predict(work(traffic=Traffic(0, 0, 100, 400, 200)), facts(FFMA=1), CHIP)
    assert conflict.order[0] == "shared" and conflict.seconds == pytest.approx(2 * plain.seconds)


def test_half_a_tile_reads_more_from_l2() -> None:
    # A tile of m x n outputs reads m + n rows: of half the tiles, twice as many.
    def tile(m: int, n: int) -> float:
        blocks = 400 * 128 * 128 // (m * n)
        return predict(work(blocks, Traffic(0, 0, m + n, 0, 0)), facts(), CHIP).seconds

    assert tile(128, 64) == pytest.approx(1.5 * tile(128, 128))


def test_predictions_agree_with_the_documented_ones() -> None:
    """A GEMM of 128 x 128 x 32 steps is bound by L2: 35 bytes a cycle and multiprocessor."""
    steps, grid = 38, 1458
    passed = steps * 256 * 64 / SECTOR
    found = predict(Work(grid, 128, 0, {}, Traffic(0, 0, passed, 0, 0), 0), facts(), chip_of("sm_90a"))
    blocks = -(-grid // 132)
    assert found.seconds == pytest.approx(blocks * passed * SECTOR / 35 / 0.88 / 1.755e9)
