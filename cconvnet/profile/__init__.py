"""Prediction of what binds each kernel of a training step on a GPU, and of its time, without a GPU.

Modules in reading order:

- ``machine_code`` (with ``loops`` and ``occupancy``): what cuobjdump prints of a kernel
- ``facts``, ``code``: what the model needs of it; the checkout's objects, or a file of the package
- ``walk``: the launches of a step, counted in the emulator
- ``passages``: how often each part of a kernel runs
- ``chips``: the constants of each GPU, and where they are from
- ``model``: cycles of each resource, and the time
- ``source``: instructions by source line
- ``result``: everything about each kernel as JSON values
- ``measure``: measured times beside it
- ``tables``, ``picture``: for people
"""
