"""A network: a graph of named layers, each placed on a device, with static shapes.

Everything is decided when the network is made: the order of the layers, which of them are computed together,
which edges cross devices and are copied, and where every array lies. A step then runs the layers in order,
forward and backward, and allocates nothing; on a GPU it is captured once and replayed as one launch.

    >>> network = Network(nets.build("lenet"), batch=64, devices="cpu:0", precision="bf16")
    >>> network.load(images, labels)
    >>> network.train_step(step=0, lr=0.01, momentum=0.9)
    >>> network.result().loss

train_step() is forward(), backward() and update() in one, which can also be called one by one.

Layers that follow each other are fused where one kernel does their work: normalisation with the pooling after
it, dropout with the product before it, the update with the gradient of the weights. The result is bitwise
that of the layers by themselves.

Activations are kept until the next forward pass. An activation's gradient lives only from the backward pass
of its last reader to that of its own layer, so the gradients of one device share one piece of memory; see
:func:`plan_memory`.

The result does not depend on where layers are placed, but for the rounding of two kinds of sums. Where three
or more layers read an activation, the gradients of those that share a copy of it are summed before they are
copied back. And a layer that reads a split one sums over each part by itself, so the number of towers counts,
though not where they live.

Modules, in reading order:
    network: the class Network.
    graph: the layers on their devices.
    memory: where gradients and workspaces are.
    batch: the arguments of Network.load.
    step: the passes of a training step.
    anomaly: the first value that is not finite.
    describe: a network as a table.
    footprint: the memory a network needs, known before it is taken.
    build, synthetic: a network without data, and steps on random images.
    gradcheck, tracing: gradients checked, and the time of a step by layer.
"""

from cconvnet.network.describe import table
from cconvnet.network.memory import Slot, plan_memory
from cconvnet.network.network import Network
from cconvnet.network.step import StepResult, do

__all__ = ["Network", "Slot", "StepResult", "do", "plan_memory", "table"]
