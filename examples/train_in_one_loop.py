"""Train LeNet on the embedded digits in one visible loop: no trainer, no checkpoints, no command line."""

from cconvnet import data, nets
from cconvnet.evaluate import evaluate
from cconvnet.network import Network

source = data.open_source(None)  # the 1,797 handwritten digits that the package contains
network = Network(nets.build("lenet"), batch=64, devices="cpu:0", seed=0)

with (
    data.Loader(source.train, batch=64, seed=0) as train,
    data.Loader(source.test, batch=64, shuffle=False, drop_last=False) as test,
):
    step = 0
    for epoch in range(5):
        for batch in train.epoch(epoch):
            network.load(batch.images, batch.labels, batch.top, batch.left, batch.mirror)
            network.train_step(step, lr=0.02, momentum=0.9)  # forward, backward, update
            step += 1
        error = evaluate(network, test.epoch(0)).error_top1
        print(f"epoch {epoch + 1}: test error {error:.2%}")

assert error < 0.05
