"""What ``cconvnet bench`` measures: kernels, whole steps, their limits, and how they scale.

rows        the layers and passes of a network, as operations on problems
work        how many operations and bytes each must do and move: its floor
verify      whether a result of any size is right, at little cost
timing      how long a call takes on a device
workers     processes that are measured side by side
sides, ours  what each side of a comparison of kernels must offer, and ours
machine     what a result says of the machine it was measured on
peers/      PyTorch and cuDNN, where they are installed
kernels, step, roofline, scaling   one module for each command
kernel_table, pictures   what they found, in lines and in charts
"""
