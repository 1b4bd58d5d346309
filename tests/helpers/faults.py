"""Faults of the kernels that are more than something missing: mutants for mutants.py, written by hand.

Each is a change of one text, within a line (or several) that is in the file once.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """`gone` becomes `becomes` in `text`, which is in the file once."""

    file: str
    text: str
    gone: str
    becomes: str


def _faults(file: str, *changes: tuple[str, str, str]) -> list[Fault]:
    return [Fault(file, *change) for change in changes]


FAULTS = [
    *_faults(
        "gemm/wgmma_tile.cuh",
        # Barriers: phases, bytes and threads.
        ("ptx::wait(memory.empty[turn.stage], turn.parity ^ 1);", "turn.parity ^ 1", "turn.parity"),
        ("ptx::wait(memory.full[turn.stage], turn.parity);", "turn.parity", "turn.parity ^ 1"),
        ("stage = 0, parity ^= 1;", "parity ^= 1", "parity"),
        ("Memory::STAGE_BYTES);", "Memory::STAGE_BYTES", "Memory::STAGE_BYTES - 16"),
        ("Memory::STAGE_BYTES);", "Memory::STAGE_BYTES", "Memory::STAGE_BYTES + 16"),
        ("init_barrier(full[stage], 1)", "1", "2"),
        (
            "memory.empty, Tile::CLUSTER * Tile::GROUPS * 4)",
            "Tile::GROUPS * 4",
            "Tile::GROUPS * 4 - 1",
        ),
        (
            "memory.empty, Tile::CLUSTER * Tile::GROUPS * 4)",
            "Tile::GROUPS * 4",
            "Tile::GROUPS * 4 + 1",
        ),
        ("memory.empty, Tile::CLUSTER * Tile::GROUPS * 4)", "Tile::CLUSTER", "1"),
        ("if (step > 0) release<Tile>(memory, before);", "before", "turn.stage"),
        # Pairs: who loads what for whom, who waits for whom.
        ("ptx::Multicast{full, 3}", "3", "1"),
        ("ptx::Multicast{full, 3}", "3", "7"),
        ("ptx::arrive_in_block(memory.empty[stage], lane);", "lane", "0"),
        ("A_SHARED ? rank * Tile::A_ROWS : 0", "rank", "0"),
        ("B_SHARED ? rank * Tile::B_ROWS : 0", "rank", "0"),
        ("block.n += b_row;", "block.n += b_row;", ";"),
        ("block.m += a_row;", "block.m += a_row;", ";"),
        ("stage.a[i].from(a_row)", "a_row", "0"),
        ("stage.b[i].from(b_row)", "b_row", "0"),
        ("block.m += cluster_rank<Tile>(number) * Tile::BLOCK_M;", "Tile::BLOCK_M", "0"),
        ("block.n += cluster_rank<Tile>(number) * Tile::BLOCK_N;", "Tile::BLOCK_N", "0"),
        ("if constexpr (Tile::PAIRED) meet_cluster<Tile>();", "meet_cluster<Tile>();", ";"),
        ("threadIdx.x / 32 == Tile::GROUPS * 4 &&", "threadIdx.x / 32 == Tile::GROUPS * 4", "true"),
        # Products in flight.
        (
            "ptx::wait_for_products<1>(sums);",
            "ptx::wait_for_products<1>(sums);",
            "ptx::wait_for_products<2>(sums);",
        ),
        (
            "ptx::wait_for_products<0>(sums);",
            "ptx::wait_for_products<0>(sums);",
            "ptx::wait_for_products<1>(sums);",
        ),
        # Factors: the fields of a descriptor, where k and rows are.
        (
            "return ptx::factor<SWIZZLE>(first, 8 * LINE_BYTES, SLAB * LINE_BYTES);",
            "return ptx::factor<SWIZZLE>(first, 8 * LINE_BYTES, SLAB * LINE_BYTES);",
            "return ptx::factor<SWIZZLE>(first, SLAB * LINE_BYTES, 8 * LINE_BYTES);",
        ),
        (
            "return ptx::factor<SWIZZLE>(first, 8 * LINE_BYTES, SLAB * LINE_BYTES);",
            "return ptx::factor<SWIZZLE>(first, 8 * LINE_BYTES, SLAB * LINE_BYTES);",
            "return ptx::factor<Swizzle::none>(first, 8 * LINE_BYTES, SLAB * LINE_BYTES);",
        ),
        (
            "return ptx::factor<SWIZZLE>(first, 8 * LINE_BYTES, SLAB * LINE_BYTES);",
            "SLAB * LINE_BYTES",
            "SLAB * LINE_BYTES / 2",
        ),
        ("ALONG_K ? at + row * LINE + k :", "row * LINE + k", "row * LINE"),
        (": at + row / LINE * (SLAB * LINE) + k * LINE;", "k * LINE", "k * LINE / 2"),
        (": at + row / LINE * (SLAB * LINE) + k * LINE;", "row / LINE * (SLAB * LINE)", "0"),
        ("stage.b[slab].factor(0, k)", "stage.b[slab].factor(0, k)", "stage.b[slab].factor(0, 0)"),
        ("stage.b[slab].factor(0, k)", "slab", "0"),
        (
            "factor((i * Tile::GROUPS + group) * 64, k)",
            "(i * Tile::GROUPS + group) * 64",
            "(i + group * Tile::PRODUCTS_M) * 64",
        ),
        ("factor((i * Tile::GROUPS + group) * 64, k)", "group", "0"),
        ("++i, k += Tile::SLAB)", "k += Tile::SLAB", "k += Tile::SLAB / 2"),
        # The sums' places.
        ("row = lane / 4 + j % 2 * 8", "j % 2", "(j + 1) % 2"),
        ("j / 2 * 8 + lane % 4 * 2;", "lane % 4 * 2", "lane % 4"),
        ("part * (Epilogue::WARP_N / 2) + 2 * j", "part * (Epilogue::WARP_N / 2)", "0"),
        ("number / Epilogue::PARTS * (Tile::GROUPS * 64);", "(Tile::GROUPS * 64)", "64"),
        ("number % Epilogue::PARTS * Epilogue::WARP_N;", "number % Epilogue::PARTS * Epilogue::WARP_N", "0"),
        ("sums[i][j] = 0.0f;", "sums[i][j] = 0.0f;", ";"),
    ),
    *_faults(
        "gemm/halo_tile.cuh",
        # Barriers: phases, bytes and threads of both rings.
        (
            "ptx::wait(memory.pixels_empty[pixels.stage], pixels.parity ^ 1);",
            "pixels.parity ^ 1",
            "pixels.parity",
        ),
        ("ptx::wait(memory.pixels_full[pixels.stage], pixels.parity);", "pixels.parity", "pixels.parity ^ 1"),
        ("ptx::wait(memory.empty[turn.stage], turn.parity ^ 1);", "turn.parity ^ 1", "turn.parity"),
        ("ptx::wait(memory.full[turn.stage], turn.parity);", "turn.parity", "turn.parity ^ 1"),
        ("shape.pixels * Tile::SLAB *", "shape.pixels", "Tile::PIXELS"),
        ("Memory::STAGE_BYTES);", "Memory::STAGE_BYTES", "Memory::STAGE_BYTES - 16"),
        ("if (tap == 0) ptx::arrive(memory.pixels_empty[pixels.stage ^ 1]);", "tap == 0", "true"),
        (
            "if (tap == 0) ptx::arrive(memory.pixels_empty[pixels.stage ^ 1]);",
            "pixels.stage ^ 1",
            "pixels.stage",
        ),
        ("if (before >= 0 && lane == 0) {", "lane == 0", "true"),
        ("  ptx::arrive(memory.empty[before]);\n          if (tap", "before", "turn.stage"),
        # Products in flight.
        (
            "ptx::wait_for_products<1>(sums);",
            "ptx::wait_for_products<1>(sums);",
            "ptx::wait_for_products<2>(sums);",
        ),
        (
            "ptx::wait_for_products<0>(sums);",
            "ptx::wait_for_products<0>(sums);",
            "ptx::wait_for_products<1>(sums);",
        ),
        # Factors: the fields of a descriptor, where k, rows and taps are.
        ("8 * PIXEL_BYTES, PLANE_BYTES);", "8 * PIXEL_BYTES, PLANE_BYTES", "PLANE_BYTES, 8 * PIXEL_BYTES"),
        ("memory.pixels[0][0] + group * 64 * kPlane,", "group * 64 * kPlane", "0"),
        ("pixels.stage * static_cast<uint32_t>(sizeof(memory.pixels[0]))", "pixels.stage", "0"),
        ("factor(0, k % Tile::LINE)", "k % Tile::LINE", "0"),
        ("k / kPlane * PLANE_BYTES + i * Tile::GROUPS", "k / kPlane", "0"),
        ("k / kPlane * PLANE_BYTES + i * Tile::GROUPS", "i * Tile::GROUPS", "i"),
        ("(ends_row ? shape.down : shape.right) * PIXEL_BYTES", "ends_row", "false"),
        ("if (ends_row) column = 0;", "column = 0", "column = column"),
        ("const int channel = slab * Tile::SLAB;", "slab * Tile::SLAB", "0"),
        ("channel + plane * kPlane);", "plane * kPlane", "0"),
        ("channel + piece * Tile::LINE, tap);", "piece * Tile::LINE", "0"),
    ),
    *_faults(
        "gemm/halo_wgrad_tile.cuh",
        ("ptx::wait(memory.empty[turn.stage], turn.parity ^ 1);", "turn.parity ^ 1", "turn.parity"),
        ("ptx::wait(memory.full[turn.stage], turn.parity);", "turn.parity", "turn.parity ^ 1"),
        ("Memory::STAGE_BYTES);", "Memory::STAGE_BYTES", "Memory::STAGE_BYTES + 16"),
        ("if (step > 0 && lane == 0) ptx::arrive", "lane == 0", "true"),
        ("if (step > 0 && lane == 0) ptx::arrive(memory.empty[before]);", "before", "turn.stage"),
        (
            "ptx::wait_for_products<1>(sums);",
            "ptx::wait_for_products<1>(sums);",
            "ptx::wait_for_products<2>(sums);",
        ),
        (
            "ptx::wait_for_products<0>(sums);",
            "ptx::wait_for_products<0>(sums);",
            "ptx::wait_for_products<1>(sums);",
        ),
        ("k * kPlane, PLANE_BYTES,", "PLANE_BYTES", "8 * PIXEL_BYTES"),
        ("stage.pixels[first_plane] + k * kPlane", "k * kPlane", "0"),
        ("group % Tile::GROUPS_C * (64 / kPlane)", "group % Tile::GROUPS_C", "0"),
        ("group / Tile::GROUPS_C * Tile::COLUMNS;", "group / Tile::GROUPS_C", "0"),
        ("a = ptx::advanced(a, right * PIXEL_BYTES);", "right * PIXEL_BYTES", "PIXEL_BYTES"),
        ("sums[tap][j] = 0.0f;", "sums[tap][j] = 0.0f;", ";"),
        ("lane / 4 + j / 2 % 2 * 8, filter", "j / 2 % 2", "(j / 2 + 1) % 2"),
        ("filter = j / 4 * 8 + lane % 4 * 2 + j % 2;", "lane % 4 * 2", "lane % 4"),
        ("sums[tap][part * (Epilogue::WARP_M / 2) + j];", "part * (Epilogue::WARP_M / 2)", "0"),
        ("(Tile::COLUMNS - Epilogue::WARP_M);", "Tile::COLUMNS - Epilogue::WARP_M", "0"),
        ("steps.k + step * Tile::BLOCK_K);", "step * Tile::BLOCK_K", "0"),
    ),
    *_faults(
        "conv_halo.cu",
        # The stream.
        (
            "of.gap_w() - of.pad_w, of.gap_h() - of.pad_h, 1, 1, kPlane, shape.pixels}",
            "of.gap_w() - of.pad_w",
            "0",
        ),
        ("1, 1, kPlane, shape.pixels}", "shape.pixels", "shape.pixels - 8"),
        ("int pitch() const { return w + gap_w(); }", "w + gap_w()", "w + 2 * gap_w()"),
        ("dilation_h * pitch() - span_w,", "dilation_h * pitch() - span_w", "dilation_h * pitch()"),
        ("block_m + span_h * pitch() + span_w,", "span_h * pitch()", "0"),
        # fprop and dgrad.
        ("at.group * shape.channels + channel, at.w, at.h, at.n", "at.group * shape.channels", "0"),
        ("return {n, row - shape.pad_h, column - shape.pad_w,", "row - shape.pad_h", "row"),
        ("tap * shape.channels + channel,", "tap * shape.channels", "tap"),
        ("at.group * shape.size.n + at.column);", "at.group * shape.size.n", "0"),
        ("at.column + i, shape.taps - 1 - tap,", "shape.taps - 1 - tap", "tap"),
        ("at.column + i, shape.taps - 1 - tap,", "at.column + i", "at.column"),
        # wgrad.
        ("position) + at.row * args.row);", "at.row * args.row", "0"),
        ("at.filter + i, w, h, n, 0,", "at.filter + i", "at.filter"),
        ("{0, 0, of.pitch() - of.columns,", "of.pitch() - of.columns", "0"),
        ("of.n, 0, shape.size.m, end);", "end", "shape.size.n"),
        ("end - shape.channels + place.first;", "place.first", "0"),
    ),
    *_faults(
        "conv_wgmma.cu",
        # What the maps say.
        ("{Tile::SLAB, Tile::B_ROWS}, swizzle);", "swizzle", "Swizzle::none"),
        (
            "Memory::SlabA::SWIZZLE);\n  const TensorMap filters = tiled_map(taps",
            "Memory::SlabA::SWIZZLE",
            "Swizzle::none",
        ),
        (
            "windows_of(problem, LINE, Tile::SLAB), Memory::SlabB::SWIZZLE",
            "Memory::SlabB::SWIZZLE",
            "Swizzle::none",
        ),
        (
            "pad_h,\n          problem.pad_w - (problem.s - 1) * problem.dilation_w,",
            "(problem.s - 1) * problem.dilation_w",
            "(problem.s - 1)",
        ),
        (
            "problem.pad_h - (problem.r - 1) * problem.dilation_h,\n          problem.stride_w",
            "(problem.r - 1) * problem.dilation_h",
            "(problem.r - 1)",
        ),
        (
            "          problem.stride_w,\n          problem.stride_h,\n",
            "problem.stride_w",
            "problem.stride_h",
        ),
        ("matrix(args.dy, bytes, size.k, problem.k)", "size.k", "size.k + 64"),
        # fprop.
        (
            "{n, p * args.problem.stride_h - args.problem.pad_h,",
            "p * args.problem.stride_h",
            "p * args.problem.stride_w",
        ),
        (
            "static_cast<int>(block.batch) * args.c_per_group,\n            static_cast<int>(block",
            "static_cast<int>(block.batch) * args.c_per_group",
            "0",
        ),
        (
            "static_cast<int>(block.batch * args.k_per_group + block.n)",
            "block.batch * args.k_per_group",
            "0u",
        ),
        ("to, at.first_channel + c, at.w, at.h,", "at.first_channel + c", "at.first_channel"),
        ("at.w, at.h, inside ? at.n : args.problem.n,", "inside ? at.n : args.problem.n", "at.n"),
        (
            "s * args.problem.dilation_w, r * args.problem.dilation_h);",
            "s * args.problem.dilation_w",
            "r * args.problem.dilation_w",
        ),
        (
            "s * args.problem.dilation_w, r * args.problem.dilation_h);",
            "r * args.problem.dilation_h",
            "s * args.problem.dilation_h",
        ),
        # dgrad.
        (
            "h + problem.pad_h - (problem.r - 1) * problem.dilation_h,\n            w",
            "problem.dilation_h",
            "1",
        ),
        ("at.first_filter + channel, at.q, at.p,", "at.first_filter + channel", "at.first_filter"),
        ("at.q, at.p, inside ? at.n : problem.n,", "inside ? at.n : problem.n", "at.n"),
        ("(problem.s - 1 - s) * problem.dilation_w", "problem.s - 1 - s", "s"),
        ("(problem.r - 1 - r) * problem.dilation_h", "problem.r - 1 - r", "r"),
        ("to, at.first_channel + i, tap, at", "at.first_channel + i", "at.first_channel"),
        ("tap, at.first_filter + channel);", "at.first_filter", "0"),
        # wgrad.
        ("at.first_filter + i, static_cast<int>(k)", "at.first_filter + i", "at.first_filter"),
        (
            "return {static_cast<int>(block.batch * args.k_per_group + block.m)",
            "block.batch * args.k_per_group",
            "0u",
        ),
        ("to, at.first_channel + c, w, h,", "at.first_channel + c", "c"),
        ("h = p * problem.stride_h - problem.pad_h, w =", "p * problem.stride_h", "p * problem.stride_w"),
        (
            "inside ? n : problem.n, s * problem.dilation_w, r * problem.dilation_h",
            "s * problem.dilation_w",
            "r * problem.dilation_w",
        ),
        (
            "inside ? n : problem.n, s * problem.dilation_w, r * problem.dilation_h",
            "r * problem.dilation_h",
            "r * problem.dilation_w",
        ),
    ),
    *_faults(
        "gemm/update_tile.cuh",
        # Barriers: phases, bytes and threads.
        (
            "ptx::wait(memory.left[turn.stage][group], turn.parity ^ 1);",
            "turn.parity ^ 1",
            "turn.parity",
        ),
        ("ptx::wait(memory.came[place.stage][group], place.parity);", "place.parity", "place.parity ^ 1"),
        (
            "came, StreamedWeights::LOADED_BYTES",
            "StreamedWeights::LOADED_BYTES",
            "StreamedWeights::LOADED_BYTES - 16",
        ),
        (
            "came, StreamedWeights::LOADED_BYTES",
            "StreamedWeights::LOADED_BYTES",
            "StreamedWeights::LOADED_BYTES + 16",
        ),
        ("init_barrier(memory.came[stage][group], 1)", "1", "2"),
        ("init_barrier(memory.left[stage][group], 1)", "1", "2"),
        ("if (warp == 1 && ptx::is_elected())", "ptx::is_elected()", "true"),
        ("ptx::meet<kWarpGroup>(1 + group);", "1 + group", "1"),
        # Stores in flight.
        ("ptx::wait_for_stores<1>();", "ptx::wait_for_stores<1>();", "ptx::wait_for_stores<2>();"),
        ("ptx::wait_for_stores<0>();", "ptx::wait_for_stores<0>();", "ptx::wait_for_stores<1>();"),
        ("ptx::arrive(memory.left[before][group]);", "before", "place.stage"),
        # The places of parts and of pairs.
        ("ptx::load_box(weights.v, maps.v, came, x, y);", "maps.v", "maps.w"),
        (
            "ptx::store_box(weights.w, maps.w, x, y);",
            "ptx::store_box(weights.w, maps.w, x, y);",
            "ptx::store_box(weights.w, maps.w, x, y + 1);",
        ),
        ("if (UPDATES) ptx::store_box(weights.v, maps.v, x, y);", "weights.v", "weights.w"),
        (
            "ptx::store_box(weights.rounded, maps.rounded, x, y);",
            "ptx::store_box(weights.rounded, maps.rounded, x, y);",
            "ptx::store_box(weights.rounded, maps.rounded, x + 8, y);",
        ),
        ("odd * 64", "odd * 64", "odd * 32"),
        ("odd * 32", "odd * 32", "odd * 16"),
        ("sums[(block ^ 2) * 4", "block ^ 2", "block"),
        ("sums[0] + n / 2", "n / 2", "0"),
        ("at(weights.w, (pair ^ block * 32) + half * 1024)", "half * 1024", "half * 512"),
        ("at(weights.v, (pair ^ block * 32) + half * 1024)", "block * 32", "0"),
        ("(rounded_pair ^ block * 16) + half * 512", "half * 512", "half * 1024"),
        ("if (step.halted()) return;", "step.halted()", "false"),
    ),
    *_faults(
        "gemm/matrix_pass.cuh",
        ("barrier, first + i, k);", "first + i", "first"),
        (
            "ptx::load_box(slab, map, barrier, k, first);",
            "ptx::load_box(slab, map, barrier, k, first);",
            "ptx::load_box(slab, map, barrier, k, 0);",
        ),
        ("sizeof(T), k, rows), {", "k", "k + 64"),
    ),
    *_faults(
        "fc_cluster.cu",
        ("    meet_cluster();\n    add_splits", "meet_cluster();", ";"),
        (
            "  // The sums stay until all blocks have read them.\n  meet_cluster();",
            "meet_cluster();",
            ";",
        ),
        ("i = block.split * THREADS + threadIdx.x;", "block.split * THREADS", "0"),
        ("for (int split = 1;", "1", "2"),
        (
            "ptx::load_from_block(memory.sums[Memory::place_of(row, group)], split)",
            "ptx::load_from_block(memory.sums[Memory::place_of(row, group)], split)",
            "memory.sums[Memory::place_of(row, group)]",
        ),
        ("ptx::block_of_cluster() * tiles", "ptx::block_of_cluster()", "0"),
        ("row = threadIdx.x / 32 * 16 + lane / 4", "threadIdx.x / 32 * 16", "0"),
    ),
    *_faults(
        "fc_update.cu",
        ("update.w_bf16 != nullptr", "update.w_bf16 != nullptr", "true"),
        (
            "sizeof(bfloat16), StreamedWeights::ROUNDED_SWIZZLE",
            "StreamedWeights::ROUNDED_SWIZZLE",
            "Swizzle::none",
        ),
        ("!SgdStep(*args.update).aligned()", "!SgdStep(*args.update).aligned()", "false"),
        ("!aligned(args.dw)", "!aligned(args.dw)", "false"),
        (
            "split_count(wgrad_size(problem)) == 1 &&",
            "split_count(wgrad_size(problem)) == 1",
            "true",
        ),
    ),
]
