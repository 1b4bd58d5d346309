"""Machine code of the kernels keeps its promises, which needs no GPU to check."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cconvnet.profile import machine_code as reading
from cconvnet.profile.facts import shipped_text
from cconvnet.profile.occupancy import occupancy

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tools import kernel_facts  # noqa: E402
from tools.compile_settings import find_nvcc  # noqa: E402


def _load() -> ModuleType:
    path = ROOT / "benchmarks" / "machine_code.py"
    spec = importlib.util.spec_from_file_location("cconvnet_machine_code", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cconvnet_machine_code"] = module
    spec.loader.exec_module(module)
    return module


machine_code = _load()


def read(path: Path, arch: str = reading.ARCH) -> list[reading.Kernel]:
    try:
        return reading.read(path, arch)
    except machine_code.ToolMissing as error:
        pytest.skip(str(error))


# ---- the library's kernels ------------------------------------------------------------------------------


@functools.cache
def kernels_of_the_module(arch: str) -> list[reading.Kernel]:
    """Read the kernels that were built, which takes many seconds, or skip the test."""
    if not machine_code.MODULE.exists():
        pytest.skip("no CUDA module was built here")
    kernels = read(machine_code.MODULE, arch)
    if not kernels:
        pytest.skip(f"the CUDA module was not built for {arch}")
    return kernels


def test_the_kernels_keep_their_promises() -> None:
    kernels = kernels_of_the_module(machine_code.ARCH)
    assert machine_code.broken(kernels) == []
    # A pattern that finds no kernel any more holds nothing.
    idle = [p.words for p in machine_code.PROMISES if not any(map(p.binds, kernels))]
    assert idle == []


# One tool writes the files of all architectures, so one of them shows whether it was run.
ARCHS = [
    pytest.param(arch, marks=[] if arch == reading.ARCH else [pytest.mark.long])
    for arch in kernel_facts.ARCHS
]


@pytest.mark.parametrize("arch", ARCHS)
def test_the_facts_that_the_package_contains_are_fresh(arch: str) -> None:
    text = kernel_facts.text_of(kernels_of_the_module(arch))
    assert shipped_text(arch) == text, "python tools/kernel_facts.py writes them"


# ---- kernels that break them ----------------------------------------------------------------------------

FAULTY = r"""
#include "core/launch.cuh"

template <class T, int...> struct Tile {};
template <class T, int...> struct TensorTile {};
template <class T, int...> struct FewChannelsTile {};
struct Values {};

// A step for each turn of the loop, so that little of it is products.
__device__ void multiply_floats(int steps, const float4* x, float* y) {
  __shared__ float4 step[256];
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    step[threadIdx.x] = x[i * 256 + threadIdx.x];
    __syncthreads();
    const float4 a = step[threadIdx.x ^ 1], b = step[threadIdx.x ^ 2];
    sum += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
  }
  y[threadIdx.x] = sum;
}

template <class Tile>
__global__ void __launch_bounds__(256) small_gemm(int steps, const float4* x, float* y) {
  multiply_floats(steps, x, y);
}

template <class Tile>
__global__ void __launch_bounds__(256) conv_fprop_gemm(int steps, const float4* x, float* y) {
  multiply_floats(steps, x, y);
}

template <class Tile>
__global__ void __launch_bounds__(256) conv_dgrad_gemm(int steps, const float4* x, float* y) {
  multiply_floats(steps, x, y);
}

template <int WIDTH, class Operation>
__global__ void __launch_bounds__(256) elementwise(const float* x, float* y) {
  for (int i = 0; i < WIDTH; ++i) y[threadIdx.x * WIDTH + i] = x[threadIdx.x * WIDTH + i];
}

// 1,024 threads have 64 registers each.
__global__ void __launch_bounds__(1024) spills(int steps, float* x) {
  float held[100];
  for (int i = 0; i < 100; ++i) held[i] = x[i * 1024 + threadIdx.x];
  for (int step = 0; step < steps; ++step) {
    for (int i = 0; i < 100; ++i) held[i] = held[i] * held[99 - i] + 1;
  }
  for (int i = 0; i < 100; ++i) x[i * 1024 + threadIdx.x] = held[i];
}

__global__ void __launch_bounds__(256) indexes(int steps, const int* places, float* x) {
  float held[64] = {};
  for (int step = 0; step < steps; ++step) held[places[step]] += 1;
  for (int i = 0; i < 64; ++i) x[i * 256 + threadIdx.x] = held[i];
}

__global__ void unbounded(float* x) { x[threadIdx.x] = 1; }

// Narrow loads, divisions, two barriers, and so much shared memory that few warps have room.
template <class Tile>
__global__ void __launch_bounds__(32) slow_gemm(int steps, const int* divisors, const float* x, float* y) {
  __shared__ float step[12000];
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    step[threadIdx.x] = x[(i + threadIdx.x) / divisors[i]];
    __syncthreads();
    sum += step[threadIdx.x ^ 1] * step[threadIdx.x ^ 2];
    __syncthreads();
  }
  y[threadIdx.x] = sum;
}

__device__ void multiply(float* d, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Products by tensor cores, of operands that no ldmatrix reads.
template <class Tile>
__global__ void __launch_bounds__(32) products_gemm(int steps, const uint4* x, float* y) {
  __shared__ uint4 step[32];
  float d[4] = {};
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    step[threadIdx.x] = x[i * 32 + threadIdx.x];
    __syncthreads();
    const uint4 a = step[threadIdx.x ^ 1], b = step[threadIdx.x ^ 2];
    multiply(d, &a.x, &b.x);
  }
  for (int i = 0; i < 4; ++i) y[threadIdx.x * 4 + i] = d[i];
}

// The same, with much to compute before the product.
__device__ void multiply_late(int steps, const uint4* x, float* y) {
  __shared__ uint4 step[32];
  float d[4] = {};
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    step[threadIdx.x] = x[i * 32 + threadIdx.x];
    __syncthreads();
    uint4 a = step[threadIdx.x ^ 1], b = step[threadIdx.x ^ 2];
    for (int turn = 0; turn < 100; ++turn) a.x = a.x * b.x + a.y;
    multiply(d, &a.x, &b.x);
  }
  for (int i = 0; i < 4; ++i) y[threadIdx.x * 4 + i] = d[i];
}

template <class Tile>
__global__ void __launch_bounds__(32) conv_fprop_gemm(int steps, const uint4* x, float* y) {
  multiply_late(steps, x, y);
}

template <class Tile>
__global__ void __launch_bounds__(32) conv_fprop_few_channels(int steps, const uint4* x, float* y) {
  multiply_late(steps, x, y);
}

// A long calculation, and the maximum of two floats.
template <int SIZE, class T>
__global__ void __launch_bounds__(256) lrn_maxpool_ring(const uint4* x, uint4* y) {
  uint4 value = x[threadIdx.x];
#pragma unroll
  for (int i = 0; i < 1500; ++i) value.x = value.x * value.y + i;
  value.z = __float_as_uint(fmaxf(__uint_as_float(value.z), __uint_as_float(value.w)));
  y[threadIdx.x] = value;
}

template <int WIDTH, class T>
__global__ void __launch_bounds__(256) conv_depthwise_wgrad(const T* x, T* y) {
  y[threadIdx.x] = 2 * x[threadIdx.x];
}

// Threads load and store the weights.
template <class T>
__global__ void __launch_bounds__(256) fc_wgrad_wgmma_streamed(float4* w) {
  w[threadIdx.x].x *= 2;
}

struct Table { float at[30000]; };

__global__ void __launch_bounds__(64) from_launch(const int* places, float* x) {
  Table& table = cconvnet::launch_shared_memory<Table>();
  for (int i = threadIdx.x; i < 30000; i += 64) table.at[i] = x[i];
  __syncthreads();
  x[threadIdx.x] = table.at[places[threadIdx.x]];
}

template __global__ void small_gemm<Tile<float, 64, 64, 8, 8, 4, 4>>(int, const float4*, float*);
template __global__ void conv_fprop_gemm<Tile<float, 128, 128, 8, 8, 8, 4>>(int, const float4*, float*);
template __global__ void conv_dgrad_gemm<Tile<float, 128, 128, 8, 8, 8, 4>>(int, const float4*, float*);
template __global__ void small_gemm<TensorTile<float, 64, 64>>(int, const float4*, float*);
template __global__ void products_gemm<TensorTile<float, 64, 64>>(int, const uint4*, float*);
template __global__ void products_gemm<TensorTile<cconvnet::bfloat16, 64, 64>>(int, const uint4*, float*);
template __global__ void conv_fprop_gemm<TensorTile<cconvnet::bfloat16, 128, 128, 64>>(
    int, const uint4*, float*);
template __global__ void products_gemm<Tile<float, 64, 64, 8, 8, 4, 4>>(int, const uint4*, float*);
template __global__ void conv_fprop_few_channels<FewChannelsTile<cconvnet::bfloat16, 128, 64>>(
    int, const uint4*, float*);
template __global__ void lrn_maxpool_ring<5, cconvnet::bfloat16>(const uint4*, uint4*);
template __global__ void conv_depthwise_wgrad<4, float>(const float*, float*);
template __global__ void fc_wgrad_wgmma_streamed<Values>(float4*);
template __global__ void elementwise<1, Values>(const float*, float*);
template __global__ void elementwise<4, Values>(const float*, float*);
template __global__ void slow_gemm<Tile<float, 32, 32, 8, 4, 4, 4>>(int, const int*, const float*, float*);
"""
STRICT = "products_gemm<Tile<float, 64, 64, 8, 8, 4, 4>>"
# What each of those breaks.
BROKEN = {
    "small_gemm<Tile<float, 64, 64, 8, 8, 4, 4>>": set(),
    "conv_fprop_gemm<Tile<float, 128, 128, 8, 8, 8, 4>>": {"a hot loop of 85% FFMA"},
    "conv_dgrad_gemm<Tile<float, 128, 128, 8, 8, 8, 4>>": {"a hot loop of 85% FFMA"},
    "elementwise<1, Values>": set(),
    "elementwise<4, Values>": {"loads and stores of 16 bytes"},
    "spills": {"no spilled registers and no local memory"},
    "unbounded": {"launch bounds"},
    "slow_gemm<Tile<float, 32, 32, 8, 4, 4, 4>>": {
        "no load narrower than 16 bytes in the hot loop",
        "one barrier in each step",
        "no integer division in the hot loop",
        "at least 12 warps on a multiprocessor",
    },
    "indexes": {"no spilled registers and no local memory"},
    "from_launch": set(),
    "small_gemm<TensorTile<float, 64, 64>>": {"products by tensor cores"},
    "products_gemm<TensorTile<float, 64, 64>>": set(),
    "products_gemm<TensorTile<bfloat16, 64, 64>>": {"fragments by ldmatrix"},
    "conv_fprop_gemm<TensorTile<bfloat16, 128, 128, 64>>": {
        "fragments by ldmatrix",
        "few instructions between a step's barrier and its first product",
        "their share of products by tensor cores in the hot loop",
    },
    STRICT: {"strict fp32: no tensor-core instruction"},
    "conv_fprop_few_channels<FewChannelsTile<bfloat16, 128, 64>>": {
        "fragments by ldmatrix",
        "at most five instructions for each product of tensor cores in the hot loop",
    },
    "conv_depthwise_wgrad<4, float>": {"loads of 16 bytes"},
    "fc_wgrad_wgmma_streamed<Values>": {"weights that the copy engine loads and stores, and no thread"},
    "lrn_maxpool_ring<5, bfloat16>": {"maxima of bfloat16s in pairs", "no more instructions than counted"},
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is missing")
    folder = tmp_path_factory.mktemp("machine_code")
    source, cubin = folder / "faulty.cu", folder / "faulty.cubin"
    source.write_text(FAULTY, encoding="utf-8")
    command = [str(nvcc), "-std=c++17", "-O3", f"-arch={machine_code.ARCH}", "-lineinfo", "-cubin"]
    command += [f"-I{ROOT / 'kernels'}", str(source), "-o", str(cubin)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return cubin


def test_a_broken_promise_is_seen(faulty: Path) -> None:
    found = {
        kernel.name: {p.words for p in machine_code.PROMISES if p.binds(kernel) and not p.kept(kernel)}
        for kernel in read(faulty)
    }
    assert found == BROKEN
    # There is none that nothing can break.
    assert set.union(*found.values()) == {promise.words for promise in machine_code.PROMISES}


def test_the_command_names_what_is_broken(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kernels.json"
    assert machine_code.main([str(faulty), "--json", str(file)]) == 1
    out = capsys.readouterr().out
    assert f"{STRICT} breaks its promise: strict fp32: no tensor-core instruction" in out
    value = json.loads(file.read_text(encoding="utf-8"))
    assert len(value["broken"]) == sum(map(len, BROKEN.values()))
    kernels = {kernel["name"]: kernel for kernel in value["kernels"]}
    assert kernels.keys() == BROKEN.keys()
    assert kernels["from_launch"]["shared"] == 4 * 30000
    assert kernels["from_launch"]["occupancy"]["limit"] == "shared memory"
    strict = kernels[STRICT]
    assert (strict["threads"], strict["shared"], strict["hot_loop"]["HMMA"]) == (32, 512, 1)
    assert strict["occupancy"] == {"blocks": 32, "warps": 32, "share": 0.5, "limit": "blocks"}


def test_an_exception_must_be_needed(faulty: Path) -> None:
    kernels = read(faulty)
    promise = next(p for p in machine_code.PROMISES if p.words == "launch bounds")
    excepting = replace(promise, exceptions={"^unbounded$": "a reason"})
    assert machine_code.broken(kernels, [excepting]) == []
    (line,) = machine_code.broken(
        kernels, [replace(excepting, exceptions={"^(unbounded|spills)$": "a reason"})]
    )
    assert "spills is excepted but keeps" in line


def test_what_cannot_be_read(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(faulty)
    for arguments, why in [
        ([str(faulty), "--arch", "sm_80"], "there is no kernel for sm_80"),
        ([str(faulty), "--arch", "sm_21"], "arch must be one of"),
        ([__file__], "test_machine_code.py cannot be read"),
    ]:
        with pytest.raises(SystemExit):
            machine_code.main(arguments)
        assert why in capsys.readouterr().err


# ---- parts of the reader --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "blocks", "limit"),
    [
        # As cuda_occupancy.h of CUDA 13.0 has them.
        ("sm_75", 32, 0, 256, 4, "warps"),
        ("sm_80", 16, 16912, 256, 8, "warps"),
        ("sm_80", 128, 40000, 96, 4, "shared memory"),
        ("sm_86", 20, 0, 64, 16, "blocks"),
        ("sm_89", 64, 5000, 192, 5, "registers"),
        ("sm_90a", 32, 16912, 64, 12, "shared memory"),
        ("sm_90a", 128, 16912, 256, 2, "registers"),
        ("sm_90a", 168, 40000, 512, 0, "registers"),
        ("sm_90a", 33, 0, 96, 16, "registers"),
        ("sm_120", 33, 90000, 64, 1, "shared memory"),
    ],
)
def test_occupancy(arch: str, registers: int, shared: int, threads: int, blocks: int, limit: str) -> None:
    held = occupancy(arch, registers, shared, threads)
    assert (held.blocks, held.limit) == (blocks, limit)
    assert held.warps == blocks * threads // 32


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        ("void cconvnet::(anonymous namespace)::column_sums<4>(int, float const*, float*)", "column_sums<4>"),
        ("cconvnet::(anonymous namespace)::dropout(cconvnet::Arguments, float*)", "dropout"),
        (
            "void cconvnet::elementwise<8, cconvnet::(anonymous namespace)::Back<(cconvnet::Neuron)3> >(int)",
            "elementwise<8, Back<Neuron:3>>",
        ),
        ("void gemm<cconvnet::Tile<32, 8>, cconvnet::bfloat16>(int)", "gemm<Tile<32, 8>, bfloat16>"),
    ],
)
def test_short_names(demangled: str, short: str) -> None:
    assert reading.short_name(demangled) == short


def _kernel(*code: tuple[str, int | None]) -> Any:
    """Of instructions and, for branches, the places they go to."""
    instructions = [
        reading.Instruction(16 * place, opcode, None if target is None else 16 * target)
        for place, (opcode, target) in enumerate(code)
    ]
    return reading.Kernel("", "", "sm_90a", 32, 0, 0, 0, 32, instructions)


def test_the_hot_loop_is_the_innermost_with_the_most_products() -> None:
    outer = [("LDS", None), ("FFMA", None), ("BRA", 1)]
    # A loop around two, one with two products and one with one; the end of a kernel branches to itself.
    both = _kernel(
        ("MOV", None),
        *outer,
        ("LDS.128", None),
        ("FFMA", None),
        ("FFMA", None),
        ("BRA", 4),
        ("BRA", 0),
        ("BRA", 9),
    )
    assert both.hot_loop == {"LDS.16": 1, "FFMA": 2, "BRA": 1}
    assert both.share(["FFMA"]) == 0.5
    # Branches forward, and loops that read nothing from shared memory.
    assert not _kernel(("BRA", 2), ("FFMA", None), ("LDS", None)).hot_loop
    assert not _kernel(("FFMA", None), ("BRA", 0), ("LDS", None)).hot_loop


def test_instructions_before_the_first_product_are_counted_from_the_barrier() -> None:
    loop = [("MOV", None), ("BAR.SYNC", None), ("LDSM", None), ("IADD3", None), ("LDS", None)]
    kernel = _kernel(("HMMA", None), *loop, ("HMMA.16816", None), ("HMMA.16816", None), ("BRA", 1))
    assert kernel.before_products == 3
    assert _kernel(("LDS", None), ("FFMA", None), ("BRA", 0)).before_products == 1


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("LDG.E.128.CONSTANT", "LDG.16"),
        ("LDG.E.U16", "LDG.2"),
        ("STG.E", "STG.4"),
        ("LDGSTS.E.BYPASS.128", "LDGSTS.16"),
        ("LDSM.16.MT88.4", "LDSM"),
        ("HMMA.16816.F32.BF16", "HMMA"),
        ("I2F.U32.RP", "DIVISION"),
        ("I2F.S32", "I2F"),
    ],
)
def test_kinds_of_instructions(opcode: str, kind: str) -> None:
    assert reading.Instruction(0, opcode).kind == kind
