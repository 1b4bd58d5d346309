"""Write a kernel of your own: compile a .cu file for the emulator, call it on NumPy arrays, and break it."""

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"  # of the checkout


def compiled(folder: Path, *flags: str) -> ctypes.CDLL:
    """Compile row_sums.cu with the host compiler; each CUDA thread becomes a fiber."""
    library = folder / f"row_sums{''.join(flags)}.so"
    source = ["-x", "c++", str(HERE / "row_sums.cu")]
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{KERNELS}", *flags, *source, "-o", str(library)],
        check=True,
    )
    return ctypes.CDLL(str(library))


def row_sums(library: ctypes.CDLL, x: np.ndarray) -> np.ndarray:
    """Return the sum of each row of a float32 matrix."""
    sums = np.full(len(x), np.nan, np.float32)
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
    library.run.argtypes = [pointer, ctypes.c_int, ctypes.c_int, pointer]
    library.run(x, *x.shape, sums)
    return sums


x = np.random.default_rng(0).integers(-9, 10, (4, 1000)).astype(np.float32)  # integers: every sum is exact
with tempfile.TemporaryDirectory() as folder:
    good = row_sums(compiled(Path(folder)), x)
    bad = row_sums(compiled(Path(folder), "-DFORGET_THE_BARRIER"), x)

print("expected          ", x.sum(axis=1))
print("the kernel        ", good)
print("without a barrier ", bad)
assert np.array_equal(good, x.sum(axis=1))
assert not np.array_equal(
    bad, good
)  # on a GPU this bug may show once in a thousand runs; here it always does
