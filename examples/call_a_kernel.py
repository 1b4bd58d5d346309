"""Call a kernel: the same convolution on the CPU, in the emulator, and on a GPU if there is one."""

import numpy as np

from cconvnet import devices, ops

rng = np.random.default_rng(0)
x = rng.standard_normal((8, 27, 27, 32), dtype=np.float32)  # N, H, W, C: eight images of 27x27 pixels
w = rng.standard_normal((64, 5, 5, 32), dtype=np.float32)  # K, R, S, C: 64 filters of 5x5 pixels
bias = rng.standard_normal(64, dtype=np.float32)

results = {}
for name in ("cpu:0", "emulator:0", "cuda:0"):
    try:
        device = devices.get_device(name)
    except devices.DeviceUnavailable as missing:
        print(f"{name:10}  {missing}")
        continue
    y = ops.conv_fprop(x, w, bias, padding=2, relu=True, device=device)  # bias and ReLU in the same kernel
    dw = ops.conv_wgrad(x, y, 5, padding=2, device=device)  # the gradient by the filters
    results[name] = y
    print(f"{name:10}  y {y.shape}, mean {y.mean():.6f}; dw {dw.shape}, mean {dw.mean():.3f}")

# The emulator runs the CUDA kernel itself, thread by thread. Devices differ only by the order of their sums.
first, *others = results
for name in others:
    difference = np.abs(results[first] - results[name]).max() / np.abs(results[first]).max()
    print(f"largest difference of {first} and {name}: {difference:.1e} of the largest value")
    assert difference < 1e-5
