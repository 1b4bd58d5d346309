"""The profile of a step: what is counted of each launch, its prediction, tables, comparison and picture."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import succeed, succeed_here

from cconvnet.devices.counting import Access, Instruction, Launch, Line, WarpOperation, counting_module
from cconvnet.errors import DeviceUnavailable
from cconvnet.profile import code, measure, tables, walk
from cconvnet.profile import result as results
from cconvnet.profile.chips import chip_of
from cconvnet.profile.facts import Facts, Part
from cconvnet.profile.walk import Called, observer

TILE = "conv_fprop_implicit_gemm<TensorTile<bfloat16, 128, 128, 32, 64, 64, 3>, bfloat16>"
STEPS = 38


# Its machine code as far as it matters here: a loop of one step, and what is around it.
FACTS = Facts(
    "conv_fprop.cu", TILE, "sm_90a", 219, 49168, 128, 1,
    (
        Part(None, False, Counter({"STG.16": 16, "SHFL": 128, "BAR": 1, "IADD3": 400}), (), ()),
        Part(0, True, Counter({"HMMA": 64, "LDSM": 16, "LDGSTS.16": 8, "BAR": 1, "IADD3": 60}), (), (15,)),
    ),
)  # fmt: skip


class Known(code.Kernels):
    """The facts about one kernel."""

    def __init__(self) -> None:
        super().__init__("sm_90a", None)
        self._found = {TILE: FACTS}


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects that happen to be in the checkout are not read."""
    monkeypatch.setattr(code, "checkout", lambda: None)


def access(
    kind: str, space: str, requests: int, sectors: int = 0, wavefronts: int = 0, ways: int = 1
) -> Access:
    """Return accesses of 16 bytes; sectors of all requests, and wavefronts without conflicts."""
    instruction = Instruction(0, kind, space, 16, (Line(f"kernels/{kind}.cu", 7, "kernel"),))
    return Access(
        instruction, "", requests, 32 * requests, sectors, sectors, sectors, ways * wavefronts, wavefronts
    )


def tile(grid: int = 1458, ways: int = 1, kernel: str = TILE) -> Launch:
    """Return a launch of a tile of a convolution of 38 steps, of which one block ran; 4 warps of a block."""
    copies = access("copy", "global", 32 * STEPS, sectors=512 * STEPS)
    matrices = access("matrix", "shared", 64 * STEPS, wavefronts=256 * STEPS, ways=ways)
    stores = access("store", "global", 64, sectors=1024)
    operations = {
        "__syncthreads": 4 * (STEPS + 1),
        "mma.m16n8k16.bf16": 4 * 64 * STEPS,
        "__shfl_xor_sync": 512,
    }
    return Launch(
        kernel=kernel, site=Line("kernels/conv_fprop.cu", 1, ""), grid=(grid, 1, 1), block=(128, 1, 1),
        shared_bytes=16, launch_bytes=49152, blocks_run=1, busiest=1.0, cut_blocks=0, barriers=STEPS + 1,
        accesses=(copies, matrices, stores),
        operations=tuple(WarpOperation(name, "", 0, warps) for name, warps in operations.items()),
        races=(),
    )  # fmt: skip


def called(launch: Launch, **values: Any) -> Called:
    given = {
        "layer": "conv2", "part": "fprop", "operation": "conv_fprop", "problem": "ConvProblem(...)",
        "row": "conv_fprop_implicit_gemm_bf16_128x128x32", "runner_up": "other", "flops": 57_330_892_800,
        "bytes": 66_307_072, "launches": [launch],
    }  # fmt: skip
    return Called(**given | values)


def row_of(launch: Launch, **values: Any) -> dict[str, Any]:
    (row,) = results.rows(called(launch, **values), Known(), chip_of("sm_90a"), "bf16")
    return row


def profile_of(*rows: dict[str, Any]) -> dict[str, Any]:
    """Return a profile with these rows."""
    chip = chip_of("sm_90a")
    return {
        "what": "profile", "machine": {"commit": "abc1234"}, "net": "alexnet", "batch": 128,
        "precision": "bf16", "arch": "sm_90a", "chip": results.chips.to_dict(chip),
        "code": "the package's facts", "counted": True, "kernels": list(rows),
        "step": {"whole": True} | results.step(rows, chip),
    }  # fmt: skip


# ---- one launch -------------------------------------------------------------------------------------------


def test_the_work_of_a_launch_is_that_of_a_warp_and_a_block() -> None:
    work = results.work_of(tile(), 66_307_072, chip_of("sm_90a"))
    assert work.counted == {
        "LDGSTS.16": 8 * STEPS, "LDSM": 16 * STEPS, "STG.16": 16, "BAR": STEPS + 1, "HMMA": 64 * STEPS,
        "SHFL": 128,
    }  # fmt: skip
    assert work.traffic.passed == 512 * STEPS + 1024 and work.traffic.wavefronts == 256 * STEPS
    assert work.dram_bytes == 66_307_072
    # Partial results that L2 holds are not read from memory.
    assert results.work_of(tile(grid=10), None, chip_of("sm_90a")).dram_bytes == 0


def test_a_row_holds_facts_counts_and_prediction() -> None:
    row = row_of(tile())
    assert row["kernel"] == TILE and row["blocks_per_multiprocessor"] == 2 and row["threads"] == 128
    assert row["waves"] == pytest.approx(1458 / 264) and row["barriers"] == STEPS + 1
    assert row["hot_loop"]["tensor"] == pytest.approx(64, rel=0.01)
    assert row["binds"] == "l2" and row["conflict_ways"] == 1
    assert row["least_seconds"] < row["seconds"] < row["most_seconds"]
    assert row["floor_seconds"] == pytest.approx(57_330_892_800 / 790e12)
    assert row["lost_seconds"] == row["seconds"] - row["floor_seconds"]
    assert row["lines"]["conflicts"][0]["line"] == "kernels/matrix.cu:7"
    # The documented prediction of AlexNet's conv2, within its stated error.
    assert row["seconds"] == pytest.approx(144e-6, rel=0.35)
    assert json.loads(json.dumps(row)) == row


def test_instructions_for_each_product_are_counted() -> None:
    row = row_of(tile())
    products = 57_330_892_800 / 2
    threads = 1458 * 128
    assert row["instructions_per_product"] == pytest.approx(
        sum(row["instructions"].values()) * threads / products
    )
    assert row_of(tile(), flops=0)["instructions_per_product"] is None


def test_a_planted_bank_conflict_is_visible() -> None:
    row = row_of(tile(ways=4))
    assert (
        row["conflict_ways"] == 4 and row["binds"] == "shared" and row["seconds"] > row_of(tile())["seconds"]
    )
    text = "\n".join(tables.kernel_lines(row))
    assert "shared memory: 4.00 wavefronts for each that is needed" in text
    assert re.search(r"kernels/matrix.cu:7 +matrix +16.0 wavefronts a request, 4.00 times the least", text)


def test_half_the_tile_is_visible() -> None:
    halved = row_of(tile(grid=2 * 1458))
    _, ((*_, times, instructions, bound),) = tables.compare_table(
        profile_of(row_of(tile())), profile_of(halved)
    )
    assert float(times) == pytest.approx(0.5, abs=0.06) and float(instructions) == 2 and bound == "l2"


def test_a_kernel_without_machine_code_is_named() -> None:
    row = row_of(tile(kernel="new_kernel<3>"))
    assert row["missing"] == "no machine code of new_kernel<3> for sm_90a" and "seconds" not in row
    profile = profile_of(row, row_of(tile()))
    assert "seconds" not in profile["step"] and profile["step"]["missing"] == [row["missing"]]
    assert row["missing"] in tables.step_lines(profile)


def test_a_call_that_was_not_counted_still_has_its_facts() -> None:
    row = row_of(tile(), launches=[])
    assert row["kernel"] == TILE and row["registers"] > 100 and row["hot_loop"]["tensor"] == 64
    assert "seconds" not in row and "grid" not in row
    assert tables.step_table(profile_of(row))[1][0][2] == "bf16_128x128x32"


def test_the_runner_up_is_predicted() -> None:
    row = row_of(tile(), runner_up_launches=[tile(grid=3000)])
    assert row["runner_up"]["row"] == "other" and row["runner_up"]["seconds"] > row["seconds"]
    assert "next other, " in "\n".join(tables.kernel_lines(row))


def test_sums_of_a_step() -> None:
    first, second = row_of(tile()), row_of(tile(grid=264))
    step = profile_of(first, second)["step"]
    assert step["kernel_seconds"] == first["seconds"] + second["seconds"]
    assert step["seconds"] == pytest.approx(step["kernel_seconds"] + 2 * 1.3e-6)
    assert step["floor_seconds"] == first["floor_seconds"] + second["floor_seconds"]


# ---- for people -------------------------------------------------------------------------------------------


def test_everything_fits_into_a_hundred_columns() -> None:
    row = row_of(tile(), runner_up_launches=[tile(grid=3000)])
    for line in tables.kernel_lines(row) + tables.step_lines(profile_of(row)):
        assert len(line) <= 100, line


def test_profiles_are_compared() -> None:
    before, after = profile_of(row_of(tile(ways=4))), profile_of(row_of(tile()))
    header, rows = tables.compare_table(before, after)
    assert header[:2] == ["layer", "pass"] and rows[0][-1] == "shared -> l2"
    lines = tables.compare_lines(before, after)
    assert re.search(r"predicted: [\d.]+ ms -> [\d.]+ ms, [\d.]+ times as fast", lines[-1])
    after["chip"] = copy.deepcopy(after["chip"])
    after["chip"]["constants"]["l2"]["value"] = 1
    assert tables.compare_lines(before, after)[-1] == "the two were predicted with different constants"


def test_measured_times_stand_beside_the_predicted_ones() -> None:
    profile = profile_of(row_of(tile()))
    seconds = profile["kernels"][0]["seconds"]
    rows = [{"layer": "conv2", "operation": "conv_fprop", "seconds": seconds / 2}]
    base = {"net": "alexnet", "batch": 128, "precision": "bf16", "machine": {"chip": "a made-up GPU"}}
    measure.add(profile, base | {"what": "kernels", "rows": rows})
    assert profile["kernels"][0]["model_error"] == pytest.approx(1.0)
    assert tables.step_table(profile)[0][-2:] == ["measured", "error"]
    measure.add(profile, base | {"what": "step", "step_seconds": 2 * profile["step"]["seconds"]})
    assert "error of the model: -50%" in tables.step_lines(profile)
    with pytest.raises(ValueError, match="precision fp32, not bf16"):
        measure.add(profile, base | {"what": "kernels", "rows": rows, "precision": "fp32"})
    with pytest.raises(ValueError, match="no row"):
        measure.add(profile, base | {"what": "kernels", "rows": []})


def test_lines_of_a_report_are_searched(tmp_path: Path) -> None:
    profile = profile_of(row_of(tile()))
    given = {"what": "step", "net": "alexnet", "batch": 128, "machine": {}, "step_seconds": 1.0}
    file = tmp_path / "step.jsonl"
    file.write_text("".join(json.dumps(given | {"precision": name}) + "\n" for name in ("fp32", "bf16")))
    assert measure.load(file, profile)["precision"] == "bf16"
    file.write_text(json.dumps(given | {"precision": "fp32"}))
    with pytest.raises(ValueError, match="no result of alexnet, batch 128, bf16"):
        measure.load(file, profile)
    file.write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        measure.load(file, profile)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from cconvnet.plots import PlotError
    from cconvnet.profile.picture import draw

    draw(profile_of(row_of(tile()), row_of(tile(ways=4))), tmp_path / "profile.svg")
    assert (
        "conv2 fprop" in (tmp_path / "profile.svg").read_text() or (tmp_path / "profile.svg").stat().st_size
    )
    with pytest.raises(PlotError, match="nothing was predicted"):
        draw(profile_of(row_of(tile(), launches=[])), tmp_path / "profile.svg")


# ---- branches ---------------------------------------------------------------------------------------------


def timed(
    seconds: float, beside: bool = False, multiprocessors: int = 0, megabytes: float = 0
) -> dict[str, Any]:
    return {
        "seconds": seconds, "beside": beside, "multiprocessors": multiprocessors,
        "dram_bytes": 1e6 * megabytes, "follows": False,
    }  # fmt: skip


def test_a_branch_runs_beside_kernels_that_leave_room() -> None:
    chip = chip_of("sm_90a")
    gap = chip["node"] * 1e-6

    def elapsed(*rows: dict[str, Any]) -> float:
        return results.elapsed(rows, chip)

    first, branch = timed(1e-3), timed(2e-3, True)
    assert elapsed(first, branch, timed(3e-3)) == pytest.approx(6e-3 + 3 * gap)  # takes turns
    assert elapsed(first, branch, timed(3e-3, False, 44)) == pytest.approx(4e-3 + 2 * gap)
    assert elapsed(first, branch, timed(1e-3, False, 44)) == pytest.approx(3e-3 + 2 * gap)
    # What uses all multiprocessors waits for the branch.
    later = timed(1e-3, False, 44), timed(5e-3)
    assert elapsed(first, branch, branch, *later) == pytest.approx(10e-3 + 4 * gap)
    moved = elapsed(first, timed(1e-3, True, 0, 9000), timed(1e-3, False, 44, 9000), timed(1e-3))
    assert moved == pytest.approx(2e-3 + 2 * gap + 18e9 / (chip["dram"] * 1e9 * chip["overlap"]))


def test_a_gap_is_shorter_before_a_kernel_that_follows() -> None:
    chip = chip_of("sm_90a")
    assert results.elapsed([timed(1e-3)], chip) == pytest.approx(1e-3 + 1.3e-6)
    assert results.elapsed([timed(1e-3) | {"follows": True}], chip) == pytest.approx(1e-3 + 0.8e-6)


def test_the_table_marks_a_branch() -> None:
    branch = row_of(tile(), part="wgrad", beside=True)
    divided = row_of(tile(), multiprocessors=44)
    assert divided["waves"] == pytest.approx(1458 / 88) and divided["seconds"] > 2.5 * branch["seconds"]
    assert divided["floor_seconds"] == branch["floor_seconds"]
    profile = profile_of(branch, divided)
    assert [line[1] for line in tables.step_table(profile)[1]] == ["wgrad beside", "fprop"]
    assert any("while 1 others use 44 multiprocessors" in line for line in tables.step_lines(profile))
    assert any("take turns" in line for line in tables.step_lines(profile_of(branch, row_of(tile()))))


# ---- a whole network --------------------------------------------------------------------------------------


@pytest.fixture
def counted() -> Callable[..., dict[str, Any]]:
    try:
        counting_module()
    except DeviceUnavailable as error:
        pytest.skip(str(error))

    def profile(**values: Any) -> dict[str, Any]:
        return results.profile(**{"net": "lenet", "batch": 4, "observe": observer(1, 132)} | values)

    return profile


def test_a_step_is_counted_and_predicted(counted: Callable[..., dict[str, Any]]) -> None:
    result = counted()
    assert result["step"]["missing"] == [] and result["step"]["seconds"] > result["step"]["floor_seconds"] > 0
    assert {"fprop", "dgrad", "wgrad+update", "update"} <= {row["pass"] for row in result["kernels"]}
    assert all(row["binds"] in row["cycles"] for row in result["kernels"])
    assert {row["layer"] for row in result["kernels"] if row["beside"]} == {"fc1", "fc2"}
    assert json.loads(json.dumps(result)) == result


def test_layers_and_passes_are_chosen(counted: Callable[..., dict[str, Any]]) -> None:
    result = counted(layer="conv*", part="wgrad")
    rows = result["kernels"]
    assert {row["operation"] for row in rows} == {"conv_wgrad"} and not result["step"]["whole"]
    with pytest.raises(ValueError, match="its layers are data, conv1"):
        counted(layer="no_such_layer")


def test_a_row_is_forced(counted: Callable[..., dict[str, Any]]) -> None:
    (usual, *_) = counted(layer="conv2", part="fprop")["kernels"]
    other = usual["runner_up"]["row"]
    (forced, *_) = counted(layer="conv2", part="fprop", impl=other)["kernels"]
    assert forced["row"] == other and forced["kernel"] != usual["kernel"]
    assert forced["seconds"] == pytest.approx(usual["runner_up"]["seconds"], rel=0.5)
    with pytest.raises(ValueError, match="--impl must be a row"):
        counted(impl="no_such_row")


def test_the_command_prints_writes_and_compares(
    counted: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "profile.json"
    words = ["profile", "--net", "lenet", "--batch", "4", "--layer", "conv1", "--blocks", "1"]
    printed = succeed(*words, "--json", str(file))
    assert "predicted: " in printed and json.loads(file.read_text())["what"] == "profile"
    assert "1.00" in succeed("profile", "--compare", str(file), str(file))
    detail = succeed(*words, "--pass", "fprop")
    assert "cycles of a multiprocessor:" in detail and "hot loop" in detail


def test_a_network_from_a_file_and_one_that_nothing_trains_are_profiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing() -> Any:
        raise DeviceUnavailable("build it: make counting")

    monkeypatch.setattr(walk, "counting_module", missing)
    file = tmp_path / "net.py"
    file.write_text(
        "import cconvnet as cc\nnet = cc.image(8, 8, 1).conv(4, 3, name='mine').fc(2).softmax()\n"
    )
    for net, layer, size in ((str(file), "mine", ["--size", "12"]), ("resnet50", "layer4_1_conv2", [])):
        found = tmp_path / f"{layer}.json"
        words = ["--batch", "2", *size, "--json", str(found)]
        succeed_here("profile", "--net", net, "--layer", layer, "--pass", "forward,fprop", *words)
        (row,) = json.loads(found.read_text())["kernels"]
        assert (row["layer"], row["operation"]) == (layer, "conv_fprop")
        assert not size or "h=12, w=12" in row["problem"]


def test_without_the_counting_emulator_the_rest_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Any:
        raise DeviceUnavailable("build it: make counting")

    monkeypatch.setattr(walk, "counting_module", missing)
    printed = succeed_here("profile", "--net", "lenet", "--batch", "4", "--layer", "conv2", "--pass", "fprop")
    assert "registers" in printed and "floor: " in printed and "predicted" not in printed
    assert "nothing is counted or predicted: build it: make counting" in printed + capsys.readouterr().err
