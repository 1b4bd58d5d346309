"""Split AlexNet over two devices, as in 2012, and see that the result is that of one device.

Both devices are the CPU here, so that it runs everywhere. On a machine with two GPUs name "cuda:0,cuda:1".
"""

import numpy as np

from cconvnet.nets import alexnet
from cconvnet.network import Network

# AlexNet at an eighth of its width, for ten classes, on images of 128x128 pixels.
spec = alexnet.build((128, 128, 3), classes=10, width=1 / 8)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
labels = rng.integers(0, 10, 8)

losses = {}
for names in ("cpu:0", "cpu:0,cpu:1"):
    network = Network(spec, batch=8, devices=names.split(","), towers=2, seed=0)
    for step in range(3):
        network.load(images, labels)  # the centre crop of each image
        network.train_step(step, lr=0.01, momentum=0.9)
    losses[names] = network.result().loss
    print(f"{names:12}  loss {losses[names]:.6f}, {network.copied_bytes:,} bytes copied")

print("\ncopies of a step on two devices:")
for copy in network.describe()["copies"]:
    print(
        f"  {copy['source']:8} {copy['from']} -> {copy['to']} for {copy['layer']:8} {copy['bytes']:7,} bytes"
    )

one, two = losses.values()
assert one == two  # to the last bit: devices decide where the towers are, not what they compute
