"""What ``cconvnet bench`` measures: kernels, whole steps, their limits, and how they scale.

kernels, step, roofline, scaling, data   one module for each command
rows        the layers and passes of a network, as operations on problems
sides, ours what each side of a comparison of kernels offers, and our side
lines, merging   a side of its own, row by row, and the results that are made of its lines
step_forms  our step as it can be driven: pinned, pipelined, replayed
tiles       large random arrays, made on the device
verify      whether a result of any size is right, at little cost
networks, training   networks without data, and steps of them on random images
work        how many operations and bytes each call must do and move: its floor
ceilings    what a device can do at most
timing      how long a call takes on a device
workers     processes that are measured side by side
machine     what a result says of the machine it was measured on
kernel_table, pictures   what people see
peers/      PyTorch and cuDNN, where they are installed
"""
