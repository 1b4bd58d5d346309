"""Tests of the emulator by programs, tests/emulator/*.cu, that the host compiler builds.

Each program runs in three builds: with the assembly switch, with ucontext, and with sanitizers. The tests
check the words that it prints.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.emulator_programs import BUILDS, COMPILER, compile_cuda, execute

TESTS = Path(__file__).parent
SCHEDULES = ["forward", "reverse", "random"]

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER.split()[0]) is None, reason=f"no host compiler ({COMPILER})"
)

Results = dict[str, list[int]]


@pytest.fixture(scope="session")
def results(build: Callable[[str, str], Path]) -> Callable[[str, str], Results]:
    """Return a function results(program, build) that returns the output of each case."""
    cache: dict[tuple[str, str], Results] = {}

    def get(program: str, kind: str) -> Results:
        if (program, kind) not in cache:
            done = execute(build(program, kind))
            assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
            lines = [line.rsplit(":", 1) for line in done.stdout.splitlines()]
            cache[program, kind] = {name: [int(v) for v in line.split()] for name, line in lines}
        return cache[program, kind]

    return get


@pytest.fixture(params=BUILDS)
def barriers(request: pytest.FixtureRequest, results: Callable[[str, str], Results]) -> Results:
    return results("barriers", request.param)


@pytest.fixture(params=BUILDS)
def warp(request: pytest.FixtureRequest, results: Callable[[str, str], Results]) -> Results:
    return results("warp", request.param)


@pytest.fixture(params=BUILDS)
def tensor(request: pytest.FixtureRequest, results: Callable[[str, str], Results]) -> Results:
    return results("tensor", request.param)


# ---- blocks -------------------------------------------------------------------------------------


def expected_sums() -> list[int]:
    i = np.arange(5 * 256)
    return list((i * i % 1009).reshape(5, 256).sum(axis=1))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_reduction_is_right_under_every_schedule(barriers: Results, schedule: str) -> None:
    assert barriers[f"reduce {schedule}"] == expected_sums()


def test_a_missing_barrier_shows(barriers: Results) -> None:
    wrong = [s for s in SCHEDULES if barriers[f"reduce without barrier {s}"] != expected_sums()]
    assert "forward" in wrong and "random" in wrong


def test_os_threads_are_served_one_after_the_other(barriers: Results) -> None:
    assert barriers["os thread 0"] == barriers["os thread 1"] == expected_sums()


def rounds(order: list[int]) -> np.ndarray:
    """Return the order of running: [block, before or after the barrier, thread].

    The launch has 12 blocks of 60 threads.
    """
    return np.array(order).reshape(12, 2, 60)


def test_forward_and_reverse_schedules(barriers: Results) -> None:
    forward = np.arange(12 * 60).reshape(12, 1, 60).repeat(2, axis=1)
    assert np.array_equal(rounds(barriers["order forward seed 1 first"]), forward)
    assert np.array_equal(rounds(barriers["order reverse seed 1 first"]), forward[::-1, :, ::-1])


def test_random_schedule(barriers: Results) -> None:
    first = rounds(barriers["order random seed 1 first"])
    assert np.array_equal(first, rounds(barriers["order random seed 1 second"]))
    assert not np.array_equal(first, rounds(barriers["order random seed 2 first"]))
    blocks = first[:, 0, 0] // 60
    assert sorted(blocks) == list(range(12)) and list(blocks) != list(range(12))
    threads = first - 60 * blocks[:, None, None]
    assert np.array_equal(np.sort(threads), np.broadcast_to(np.arange(60), threads.shape))
    # Every round of every block has an order of its own.
    assert len({tuple(order) for order in threads.reshape(24, 60)}) == 24


def test_shared_memory_is_nan_at_every_blocks_start(barriers: Results) -> None:
    assert barriers["nan"] == [1] * 12


def test_shared_objects_are_apart_aligned_and_shared(barriers: Results) -> None:
    assert barriers["shared"] == [1, 1, 1]


@pytest.mark.parametrize("divisor", [1, 3, 100])
def test_barriers_that_vote(barriers: Results, divisor: int) -> None:
    predicate = np.arange(50) % divisor == divisor - 1
    assert barriers[f"or {divisor}"] == [predicate.any()] * 50
    assert barriers[f"and {divisor}"] == [predicate.all()] * 50
    assert barriers[f"count {divisor}"] == [predicate.sum()] * 50


def test_stacks_are_reused(barriers: Results) -> None:
    """One stack serves all threads that never wait; 256 serve a block that waits, and the next."""
    assert barriers["stacks"] == [1, 256, 1]


def test_a_thread_keeps_its_rounding_mode(barriers: Results) -> None:
    third = int(np.float32(1 / 3).view(np.int32))
    assert barriers["rounding"] == [third - 1, third, third]


@pytest.mark.parametrize("kind", BUILDS)
def test_a_stack_overflow_is_a_crash(build: Callable[[str, str], Path], kind: str) -> None:
    program = build("barriers", kind)
    assert execute(program, "recurse", "20").stdout == f"sum: {20 * 21 // 2}\n"
    done = execute(program, "recurse", "300")
    assert done.stdout == ""
    if kind == "sanitized":
        assert "stack-overflow" in done.stderr
    else:
        assert done.returncode == -signal.SIGSEGV


# ---- warps --------------------------------------------------------------------------------------

LANES = np.arange(32)


def shuffle_sources(kind: str, operand: int, width: int) -> np.ndarray:
    """Return the lane that each lane reads.

    The rules are those of the warp shuffle functions in the CUDA C++ Programming Guide.
    """
    first = LANES // width * width
    if kind == "idx":
        return first + operand % width
    if kind == "up":
        return np.where(LANES - operand >= first, LANES - operand, LANES)
    if kind == "down":
        return np.where(LANES + operand < first + width, LANES + operand, LANES)
    source = LANES ^ operand
    return np.where(source < first + width, source, LANES)


@pytest.mark.parametrize("kind", ["idx", "up", "down", "xor"])
@pytest.mark.parametrize("number", ["int", "float", "double", "u64"])
def test_shuffles(warp: Results, kind: str, number: str) -> None:
    for width in [1, 2, 4, 8, 16, 32]:
        for operand in [0, 1, 2, 3, 7, 16, 31]:
            one = 100 + shuffle_sources(kind, operand, width)
            got = warp[f"{kind} {number} {operand} {width}"]
            assert got == [*one, *(one + 32)], (operand, width)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_groups_of_lanes(warp: Results, schedule: str) -> None:
    assert warp[f"split {schedule}"] == list(np.where(LANES % 2 == 0, LANES ^ 2, 31))
    met = np.full(32, -1)
    met[[0, 2, 4]] = [2 + 400, 2, 0]
    met[[8, 10, 12, 14]] = [1200 + 10, -1 + 10, 1200, 14]
    assert warp[f"met {schedule}"] == list(met)
    rotated = (LANES + 5) % 32
    assert warp[f"rotate {schedule}"] == [*rotated, *(rotated + 32)]
    squares = np.arange(64) ** 2
    assert warp[f"sum {schedule}"] == [squares[:32].sum(), squares[32:].sum()]


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0000FFFF, 0x80000001])
@pytest.mark.parametrize("ballot", [0, 0xFFFFFFFF, 0x80000000, 0x12345678])
def test_votes(warp: Results, mask: int, ballot: int) -> None:
    def from_mask(value: int) -> list[int]:
        return [value if mask >> lane & 1 else -1 for lane in range(32)]

    name = f"{mask} {ballot}"
    votes = mask & ballot
    assert warp[f"ballot {name}"] == from_mask(votes - 2**32 if votes >= 2**31 else votes)
    assert warp[f"any {name}"] == from_mask(int(votes != 0))
    assert warp[f"all {name}"] == from_mask(int(votes == mask))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_syncwarp(warp: Results, schedule: str) -> None:
    expected = list(np.arange(64) ^ 1)
    assert warp[f"exchange {schedule}"] == expected
    assert warp[f"exchange without barrier {schedule}"] != expected


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warp_that_runs_ahead_shows_a_missing_barrier(warp: Results, schedule: str) -> None:
    """In the other schedules all warps read before the first may write."""
    expected = list(np.arange(64) ^ 32)
    assert warp[f"overwrite {schedule}"] == expected
    without_barrier = [-1] * 32 + expected[32:] if schedule == "reverse" else expected
    assert warp[f"overwrite without barrier {schedule}"] == without_barrier


@pytest.mark.parametrize("number", ["int", "unsigned", "u64"])
def test_integer_atomics(warp: Results, number: str) -> None:
    assert warp[f"atomics {number}"] == [64, 1, 1, 1, 1, 1, 1, 1, 1]


def test_the_last_block_sees_what_all_wrote(warp: Results) -> None:
    assert warp["last block"] == [55, 55, 55, 0]


def test_device_functions(warp: Results) -> None:
    assert warp["functions"] == [3, -1, 8, 32, 31, 4, 1, 1, 1, 1, 1, 1, 1]


# ---- tensor cores -------------------------------------------------------------------------------


def test_a_copy_is_done_when_its_group_is_waited_for(tensor: Results) -> None:
    """Until the wait the target contains NaN, all bits 1, instead of its former contents."""
    pending = [-1] * 4
    first, second = list(range(100, 104)), list(range(104, 108))
    assert tensor["copies"] == [
        *pending * 3,
        *pending * 3,
        *(first + pending * 2),
        *(first + second + [0] * 4),
    ]
    assert tensor["open group"] == [-1, 100]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_missing_wait_or_barrier_shows(tensor: Results, schedule: str) -> None:
    good, without_wait, without_barrier = tensor[f"neighbours {schedule}"]
    assert good == 256 and without_wait == 0 and without_barrier < 256


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_matrix_fragments(tensor: Results, schedule: str) -> None:
    """The words of each lane and matrix are those of ldmatrix in the PTX ISA."""
    lane, matrix, element = np.ogrid[:32, :4, :2]
    row, column = lane // 4, lane % 4 * 2 + element
    assert tensor[f"plain {schedule}"] == list((100 * matrix + 10 * row + column).flat)
    assert tensor[f"transposed {schedule}"] == list((100 * matrix + 10 * column + row).flat)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("kind", "k"), [("bf16", 16), ("bf16 transposed", 16), ("tf32", 8)])
def test_a_warps_product_is_a_matrix_product(tensor: Results, schedule: str, kind: str, k: int) -> None:
    a = (np.arange(16 * k) * 7 % 13 - 6).reshape(16, k)
    b = (np.arange(8 * k) * 5 % 11 - 5).reshape(8, k)
    row, column = np.ogrid[:16, :8]
    start = 1000 * (1 + row // 8 * 2 + column % 2)
    assert tensor[f"product {kind} {schedule}"] == list((start + a @ b.T).flat)


def test_rounding_to_tf32(tensor: Results) -> None:
    """Rounding is to nearest, ties away from zero; NaNs are truncated; a product ignores the low 13 bits."""
    rounded = [0x3F800000, 0x3F802000, 0xBF802000, 0x3F802000, 0x7F800000]
    rounded += [0x7F800000, 0xFF800000, 0x00000000, 0x80002000, 0x7FFFE000]
    assert tensor["rounding"] == list(np.array(rounded, np.uint32).view(np.int32))
    assert tensor["low bits"] == [32]


def test_errors_of_copies_and_fragments(tensor: Results) -> None:
    names = ["boundary of 16 bytes", "a row is not on a boundary", "allowed are 101376"]
    names.append("the launch's shared memory, which has 16")
    assert [tensor[name] for name in names] == [[1]] * 4


# ---- errors -------------------------------------------------------------------------------------


def line_of(program: str, mark: str) -> str:
    """Return FILE:LINE of the line that ends in "// LINE mark"."""
    path = TESTS / f"{program}.cu"
    lines = path.read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.endswith(f"// LINE {mark}")]
    return f"{path}:{number}"


def at(operation: str, mark: str) -> str:
    return f"{operation}, {line_of('errors', mark)}"


@pytest.fixture(params=BUILDS)
def errors(request: pytest.FixtureRequest, build: Callable[[str, str], Path]) -> dict[str, list[str]]:
    """Return the error of each case, once for each schedule it ran under."""
    done = execute(build("errors", request.param))
    # A leak would be reported too.
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    thrown: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, what = line.split(": ", 1)
        if name == "again":
            assert what.split() == ["2"] * 32
            continue
        assert what.startswith("reusable "), line
        thrown.setdefault(name, []).append(what.removeprefix("reusable "))
    return thrown


def test_errors_name_kernel_block_threads_and_lines(errors: dict[str, list[str]]) -> None:
    never = "threads wait for others that never arrive"
    block = "block (0,0,0)"
    assert errors["return"] == 3 * [
        f"DivergenceError: barrier_after_return, block (2,0,0): {never}; 48 threads (0,0,0) to "
        f"(47,0,0) wait at {at('__syncthreads', 'early return')}; 2 threads (48,0,0) to (49,0,0) "
        "returned"
    ]
    assert errors["two barriers"] == 3 * [
        f"DivergenceError: two_barriers<3, 4>, {block}: {never}; 16 threads (0,0,0), (2,0,0), "
        f"(4,0,0), (6,0,0), ... wait at {at('__syncthreads', 'even')}; 16 threads (1,0,0), "
        f"(3,0,0), (5,0,0), (7,0,0), ... wait at {at('__syncthreads', 'odd')}"
    ]
    mixed = (
        f": {never}; 32 threads (0,0,0) to (31,0,0) wait at {at('__syncthreads', 'first warp')}; "
        f"31 threads (32,0,0) to (39,0,0), (41,0,0) to (63,0,0) wait at "
        f"{at('__syncwarp', 'second warp')} for lanes 0xffffffff; thread (40,0,0) waits at "
        f"{at('__syncthreads', 'lane 8')}"
    )
    for text in errors["mixed"]:  # whichever of the two blocks runs first
        assert re.sub(r"\(0,[01],0\)", "B", text, count=1) == (
            f"DivergenceError: barrier_and_warp_operation, block B{mixed}"
        )
    assert errors["loop"] == 3 * [
        f"DivergenceError: one_round_too_many, {block}: {never}; 4 threads (0,0,0) to (1,0,0), "
        f"(0,0,1) to (1,0,1) returned; 4 threads (0,1,0) to (1,1,0), (0,1,1) to (1,1,1) wait at "
        f"{at('__syncthreads', 'loop')}"
    ]
    assert errors["lane"] == 3 * [
        f"DivergenceError: lane_returned, {block}: {never}; 31 threads (0,0,0) to (4,0,0), "
        f"(6,0,0) to (31,0,0) wait at {at('__shfl_down_sync', 'lane 5')} for lanes 0xffffffff; "
        "thread (5,0,0) returned"
    ]
    assert errors["two shuffles"] == 3 * [
        f"DivergenceError: two_shuffles, {block}: {never}; 8 threads (0,0,0) to (7,0,0) wait at "
        f"{at('__shfl_xor_sync', 'low lanes')} for lanes 0xffffffff; 24 threads (8,0,0) to "
        f"(31,0,0) wait at {at('__shfl_xor_sync', 'high lanes')} for lanes 0xffffffff"
    ]
    assert errors["trap"] == 3 * [
        f"KernelError: throws_while_others_wait, {block}, thread (33,0,0): {at('__trap', 'trap')}: called"
    ]


@pytest.mark.parametrize(
    ("case", "mark", "expected"),
    [
        (
            "not in mask",
            "ballot",
            "KernelError: not_in_mask, block (0,0,0), thread (16,0,0): __ballot_sync, LINE: "
            "called by a lane that is not in its mask 0x0000ffff",
        ),
        (
            "source",
            "source",
            "KernelError: source_not_in_mask, block (0,0,0), thread (0,0,0): __shfl_sync, LINE: "
            "reads from lane 20, which is not in its mask",
        ),
        (
            "width",
            "width",
            "KernelError: bad_width, block (0,0,0), thread (0,0,0): __shfl_sync, LINE: "
            "the width 12 is not a power of 2 up to 32",
        ),
        (
            "short warp",
            "syncwarp",
            "DivergenceError: full_mask, block (0,0,0), thread (32,0,0): __syncwarp, LINE: the "
            "mask 0xffffffff names lanes which the block of 40 threads does not have",
        ),
    ],
)
def test_misused_warp_operations(errors: dict[str, list[str]], case: str, mark: str, expected: str) -> None:
    assert errors[case] == [expected.replace("LINE", line_of("errors", mark))]


def test_other_errors(errors: dict[str, list[str]]) -> None:
    assert errors["shared"] == [
        "KernelError: too_much_shared, block (0,0,0): uses 50176 bytes of shared memory, more than 49152"
    ]
    assert errors["nested"] == [
        "KernelError: launches, block (0,0,0): launches empty, which only the host may do"
    ]
    (copy,) = errors["copy"]
    assert copy.startswith("CudaError: cudaMemcpyAsync(y, nullptr, 4, ")
    assert f"failed at {TESTS / 'errors.cu'}:" in copy and "cudaErrorInvalidValue" in copy


def test_launch_limits(errors: dict[str, list[str]]) -> None:
    limits = {name: text for name, (text, *_) in errors.items() if name.startswith("limit ")}
    allowed = {name for name, text in limits.items() if text == "nothing was thrown"}
    assert allowed == {"limit largest", "limit largest block"} and len(limits) == 16
    for name in limits.keys() - allowed:
        text = limits[name]
        assert text.startswith(f"CudaError: launch of empty failed at {TESTS / 'errors.cu'}:")
        assert "cudaErrorInvalidConfiguration" in text
    assert "grid (1,65536,1), block (1,1,1)" in limits["limit grid y"]
    assert "grid (1,1,1), block (32,33,1)" in limits["limit block"]


# ---- sanitizers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "kernel", "report"),
    [
        ("shared", "shared_write", "heap-buffer-overflow"),
        ("global", "global_read", "heap-buffer-overflow"),
        ("misaligned", "", "misaligned address"),
    ],
)
def test_sanitizers_name_the_kernels_line(
    build: Callable[[str, str], Path], case: str, kernel: str, report: str
) -> None:
    program = build("bounds", "sanitized")
    good = execute(program, case, "0")
    assert (good.returncode, good.stdout) == (0, "done: 0\n"), good.stderr
    bad = execute(program, case, "1")
    assert bad.returncode != 0 and "done" not in bad.stdout
    assert report in bad.stderr
    first_frame = next(line for line in bad.stderr.splitlines() if "#0 " in line or "runtime error" in line)
    assert kernel in first_frame and line_of("bounds", case) in first_frame


def test_sanitizers_may_look_for_uses_of_a_stack_after_return(
    build: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames then live on a fake stack, which must follow the fiber."""
    monkeypatch.setenv("ASAN_OPTIONS", "detect_stack_use_after_return=1")
    done = execute(build("warp", "sanitized"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == execute(build("warp", "assembly")).stdout


# ---- the compiler -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("FLOAT_ATOMIC", "floating-point atomics are forbidden"),
        ("SHARED_KEYWORD", "shared memory comes from shared_memory<T>()"),
        ("TOO_LARGE", "a block has 48 KiB of shared memory"),
        ("CONSTRUCTOR", "CUDA runs no constructors or destructors on shared memory"),
        ("REFERENCE", "a kernel takes its arguments by value"),
        ("SHORT_SHUFFLE", "CUDA shuffles 4-byte and 8-byte numbers"),
        ("NOTHING_WRONG", ""),
    ],
)
def test_refused_by_the_compiler(case: str, message: str) -> None:
    flags = ["-fsyntax-only", f"-D{case}", "-Wno-unused"]
    done = compile_cuda(TESTS / "refused.cu", flags)
    if message:
        assert done.returncode != 0 and message in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_two_files_of_one_program_share_the_machine(tmp_path: Path) -> None:
    program = tmp_path / "program"
    done = compile_cuda(TESTS / "module_a.cu", [str(TESTS / "module_b.cu"), "-o", str(program)])
    assert done.returncode == 0, done.stderr
    eight = "7 6 5 4 3 2 1 0"
    assert execute(program).stdout == f"reversed: {eight}\norder: {eight}\n"
