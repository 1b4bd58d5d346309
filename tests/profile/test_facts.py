"""Facts about kernels: parts, waits, lines of a file, and freshness of the package's own."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from cconvnet.profile import code, source
from cconvnet.profile.code import row_of
from cconvnet.profile.facts import Facts, facts_of, from_line, shipped, to_line
from cconvnet.profile.machine_code import Instruction, Kernel

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tools import kernel_facts  # noqa: E402


def kernel(*lines: str, threads: int | None = 128) -> Kernel:
    """Return a kernel of lines such as "LDG.E R4, [R2]" and "BRA 3 always"."""
    instructions = []
    for place, line in enumerate(lines):
        opcode, _, operands = line.partition(" ")
        target, always = None, opcode == "EXIT"
        if opcode == "BRA":
            number, _, how = operands.partition(" ")
            target, always, operands = 16 * int(number), how == "always", ""
        instructions.append(Instruction(16 * place, opcode, target, always, operands))
    return Kernel("some.cu", "some<1>", "sm_90a", 40, 0, 0, 4096, threads, instructions)


def test_a_wait_counts_the_instructions_since_its_first_load() -> None:
    found = facts_of(
        kernel("LDG.E.128 R4, [R2]", "LDG.E R8, [R2]", "FADD R9, R1, R1", "FADD R9, R6, R1", "EXIT")
    )
    assert found.parts[0].waits == (3,)
    # A load that nothing reads is not waited for; a store reads its operands.
    assert facts_of(kernel("LDG.E R4, [R2]", "FADD R9, R1, R1", "EXIT")).parts[0].waits == ()
    assert facts_of(kernel("LDG.E R4, [R2]", "STG.E [R2], R4", "EXIT")).parts[0].waits == (1,)


def test_a_loop_waits_for_the_loads_of_the_passage_before() -> None:
    found = facts_of(kernel("MOV R1, R1", "FADD R9, R4, R1", "LDS.128 R4, [R2]", "BRA 1", "EXIT"))
    (loop,) = (part for part in found.parts if part.repeats)
    assert loop.shared_waits == (2,) and loop.waits == ()


def test_a_loop_has_its_own_instructions() -> None:
    found = facts_of(
        kernel("MOV R1, R1", "FFMA R1, R1, R1", "LDS R2, [R3]", "BRA 1", "STG.E [R2], R4", "EXIT")
    )
    assert [part.code for part in found.parts] == [
        {"MOV": 1, "STG.4": 1, "EXIT": 1},
        {"FFMA": 1, "LDS.4": 1, "BRA": 1},
    ]
    assert found.hot == 1 and found.hot_loop() == {"FFMA": 1, "LDS.4": 1, "BRA": 1}


def test_alike_sections_are_joined() -> None:
    filler = ["FADD R1, R1, R1"] * 24
    lines = ["BRA 26", *filler, "STG.E [R2], R4", "BRA 52", *filler, "STG.E [R2], R4", "EXIT"]
    found = facts_of(kernel(*lines))
    assert [part.code["STG.4"] for part in found.parts] == [0, 2]


def test_lines_of_a_file_are_the_same_facts() -> None:
    found = facts_of(kernel("LDG.E R4, [R2]", "FFMA R1, R4, R1", "LDS R2, [R3]", "BRA 1", "EXIT"))
    again = from_line(to_line(found), "sm_90a")
    assert again == found and isinstance(again.parts[1].code, Counter)


def test_a_hot_loop_counts_sections_as_often_as_they_run() -> None:
    found = Facts("", "", "sm_90a", 32, 0, 128, None, ())
    assert found.parts == ()
    filler = ["FADD R1, R1, R1"] * 24
    loop = facts_of(kernel("MOV R1, R1", "BRA 27", *filler, "STG.E [R2], R4", "BRA 1", "EXIT"))
    assert [part.repeats for part in loop.parts] == [False, True, False]
    assert loop.hot_loop([1.0, 10.0, 5.0])["FADD"] == 12


@pytest.mark.parametrize("arch", kernel_facts.ARCHS)
def test_the_package_knows_its_kernels(arch: str) -> None:
    found = shipped(arch)
    assert len(found) > 300
    for name, facts in found.items():
        assert facts.occupancy(facts.threads, facts.shared).blocks > 0, name


# Instructions of the hot loop for each product, of the 128 x 128 tiles on an H200: the present numbers, which
# may only sink.
MOST_INSTRUCTIONS = {
    ("fprop", "TensorTile<bfloat16"): 2.52, ("dgrad", "TensorTile<bfloat16"): 3.19,
    ("wgrad", "TensorTile<bfloat16"): 2.95, ("fprop", "TensorTile<float"): 4.54,
    ("dgrad", "TensorTile<float"): 5.32, ("wgrad", "TensorTile<float"): 5.48, ("fprop", "Tile<float"): 1.22,
    ("dgrad", "Tile<float"): 1.37, ("wgrad", "Tile<float"): 1.23,
}  # fmt: skip


@pytest.mark.parametrize(("direction", "tile"), MOST_INSTRUCTIONS)
def test_a_product_takes_no_more_instructions_than_before(direction: str, tile: str) -> None:
    begin = f"conv_{direction}_implicit_gemm<{tile}, 128, 128, "
    found = [facts for name, facts in shipped("sm_90a").items() if name.startswith(begin)]
    assert found, "a pattern that finds no kernel holds nothing"
    for facts in found:
        loop = facts.hot_loop()
        assert loop.total() / (loop["HMMA"] or loop["FFMA"]) <= MOST_INSTRUCTIONS[direction, tile], facts.name


# Instructions of the hot loop of warp groups for each product of 64 rows and 32 bytes of k. It hides them.
MOST_BESIDE_WARP_GROUPS = 21


def test_the_roles_of_warp_groups_are_told_apart() -> None:
    found = [facts for facts in shipped("sm_90a").values() if facts.has_warp_groups]
    assert len(found) == 69
    for facts in found:
        # One block of two or three groups that multiply on a multiprocessor, by the registers of all.
        assert facts.threads in (384, 512), facts.name
        assert facts.occupancy(facts.threads, facts.shared).blocks == 1, facts.name
        copies, products = (facts.inside(kind, innermost=False) for kind in ("UTMALDG", "HGMMA"))
        assert copies and products and not copies & products and 0 not in copies | products, facts.name
        assert facts.hot in facts.inside("HGMMA", innermost=True) <= products, facts.name
        loop = facts.hot_loop()
        multiplied = sum(number for kind, number in loop.items() if kind.startswith("HGMMA."))
        assert loop.total() <= MOST_BESIDE_WARP_GROUPS * multiplied, facts.name
    assert not any(facts.has_warp_groups for facts in shipped("sm_80").values())


def test_instructions_are_counted_by_source_line() -> None:
    if shutil.which("c++filt") is None:
        pytest.skip("c++filt is missing")
    text = """.text._Z5otherv:
\t//## File "/somewhere/kernels/lrn.cu", line 9
        /*0000*/                   MOV R1, R1 ;
.text._Z4somei:
\t//## File "/somewhere/kernels/lrn.cu", line 1
        /*0000*/                   MOV R1, R1 ;
\t//## File "/usr/include/math.h", line 2 inlined at "/somewhere/kernels/lrn.cu", line 1
        /*0010*/                   FFMA R1, R1, R1 ;
        /*0020*/                   BRA 0x10 ;
"""
    lines = source.parse_lines(text, "some")
    assert lines == {0: "kernels/lrn.cu:1", 16: "math.h:2", 32: "math.h:2"}
    assert source.parse_lines(text, "none") == {}
    looping = kernel("MOV R1, R1", "FFMA R1, R1, R1", "BRA 1", "EXIT")
    assert source.instructions_by_line(looping, [1.0, 5.0], lines) == {"kernels/lrn.cu:1": 1, "math.h:2": 10}


def test_a_folder_without_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no objects"):
        code.kernels("sm_90a", tmp_path)


def test_the_rows_of_tables_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "checkout", lambda: None)
    known = code.kernels("sm_90a")
    tile = next(
        name for name in shipped("sm_90a") if name.startswith("conv_dgrad_implicit_gemm<TensorTile<bf")
    )
    size = "x".join(re.findall(r"\d+", tile.partition("<bfloat16,")[2])[:3])
    for row in (f"conv_dgrad_implicit_gemm_bf16_{size}", f"fc_dgrad_gemm_bf16_{size}"):
        facts = known.of_row(row)
        assert facts is not None and facts.name == tile
    assert (
        row_of("conv_fprop_gemm<Tile<float, 128, 64, 8, 8, 8, 1>, float>")
        == "conv_fprop_gemm_fp32_128x64x8_scalar"
    )
    groups = "conv_wgrad_wgmma_bf16_128x192x64_lines_of_16"
    assert row_of("conv_wgrad_wgmma<WgmmaTile<bfloat16, 128, 192, 64, 4, Pairing:0>, 16>") == groups
    streamed = "fc_wgrad_wgmma_streamed_bf16_128x128x64"
    kernel = "fc_wgrad_wgmma_streamed<WgmmaTile<bfloat16, 128, 128, 64, 2, Pairing:0>, true>"
    assert row_of(kernel) == streamed
    cluster = "fc_dgrad_wgmma_cluster_bf16_128x128x64"
    slabs = "conv_fprop_wgmma_bf16_256x96x64_slabs_of_16"
    assert row_of("conv_fprop_wgmma<WgmmaTile<bfloat16, 256, 96, 16, 4, Pairing:0>, bfloat16>") == slabs
    pairs = "conv_wgrad_wgmma_bf16_128x192x64_pairs_along_n_lines_of_64"
    assert row_of("conv_wgrad_wgmma<WgmmaTile<bfloat16, 128, 192, 64, 4, Pairing:2>, 64>") == pairs
    for row in (groups, slabs, pairs, streamed, cluster):
        facts = known.of_row(row)
        assert facts is not None and facts.has_warp_groups and row_of(facts.name) == row
    assert known.of_row("no_such_row") is None and known.find("no_such_kernel") is None
