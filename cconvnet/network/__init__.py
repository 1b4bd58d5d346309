"""A network: a graph of named layers, each placed on a device, with static shapes.

Everything is decided when the network is made: the order of the layers, which of them are fused, which edges
cross devices and are copied, and where every array is. A step then runs the layers in order, forward and
backward, and allocates nothing; on a GPU it is captured once and replayed as one launch.

    >>> network = Network(nets.build("lenet"), batch=64, devices="cpu:0", precision="bf16")
    >>> network.load(images, labels)
    >>> network.train_step(step=0, lr=0.01, momentum=0.9)
    >>> network.result().loss

train_step() is forward(), backward() and update() in one, which can also be called one by one.

Layers that follow each other are fused where one kernel does their work: normalisation with the pooling after
it, dropout with the product before it, the update with the gradient of the weights. The result is
bit-identical to that of separate layers.

The result does not depend on where layers are placed, but for the rounding of two kinds of sums. Where three
or more layers read an activation, the gradients of those that share a copy of it are summed before they are
copied back. And a layer that reads a split one sums over each part by itself, so the number of towers counts,
but not where they live.

Modules, in reading order:
    network: the class Network, which hands all work to the modules below.
    graph: the layers on their devices, the copies between them, and the order of both passes.
    beside: layers that learn at the same time as others.
    decided: activations without a gradient, which only decide what becomes of others.
    places: layers that write their channels into a concatenation.
    memory: the allocation of arrays; gradients that share memory.
    levels: the parts of a network between FC layers that several processes compute together.
    buckets: ranges of gradients that are exchanged at once.
    shards: gradients of the parts of a batch, summed over one process or several, and their updates.
    step: the forward pass, the backward pass, the update, and the captured step.
    together: steps in which several processes compute FC layers together.
    batch: the arguments of Network.load, checked.
    outputs: activations on the host.
    describe: a network as JSON values and as a table.
    state: all that training changes, saved and loaded.
    gradients: those of activations and images, for pictures of what a network saw.
    anomaly: the first value that is not finite.
    footprint: the memory that a network needs, before it is allocated.
    gradcheck: gradients against finite differences and a float64 reference.
    synthetic: training steps on random images.
    tracing: the time of each layer's pass in a step.
    rank_tracing: the same of several ranks on one clock, with their waits for each other.
"""

from cconvnet.network.anomaly import Anomaly
from cconvnet.network.describe import table
from cconvnet.network.memory import Slot, plan_memory
from cconvnet.network.network import Network
from cconvnet.network.step import Observer, StepResult

__all__ = ["Anomaly", "Network", "Observer", "Slot", "StepResult", "plan_memory", "table"]
