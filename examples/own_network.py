"""Your own network on your own arrays: build it, train it, look at it, use it."""

import numpy as np

import cconvnet as cc

# 900 pictures of 16x16 pixels: a bright stripe, lying, standing or slanting, in noise.
rng = np.random.default_rng(0)
names = ["lying", "standing", "slanting"]
labels = rng.integers(0, 3, 900)
rows, columns = np.mgrid[0:16, 0:16]
distance = np.stack([rows - 8, columns - 8, (rows - columns) * 0.7])[labels] + rng.uniform(-4, 4, (900, 1, 1))
bright = 90 + 80 * (np.abs(distance) < 1.5) + rng.normal(0, 40, (900, 16, 16))
images = bright.clip(0, 255).astype(np.uint8)

x = cc.image(16, 16, 1).conv(16, 5, pad=2).relu().maxpool(3, 2)
x = (x + x.conv(16, 3, pad=1)).relu()  # a residual block: `+` adds two values
net = x.mean().dropout(0.2).fc(3).softmax(name="stripes")
print(net.table())

# A third of the pictures is kept for tests. The run is a folder, as the command `cconvnet train` makes it.
run = cc.train(net, (images, labels), test=1 / 3, classes=names, epochs=20, lr=0.05, batch=50, quiet=True)
result = run.evaluate(quiet=True)
print(run)
print(f"test error {result.error_top1:.1%}; confusion, true class by predicted class:\n{result.confusion}")
print("a new picture:", run.predict(images[0]))
assert result.error_top1 < 0.1
