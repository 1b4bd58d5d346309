"""Measurements of ``cconvnet bench``: kernels, whole steps, their limits, and their scaling.

A module for each command:

kernels       every layer and pass of a network, beside cuDNN's and PyTorch's kernels
step          whole training steps, beside PyTorch's
roofline      each operation within a step, and its distance from the device's limits
scaling       growth of time and memory with the batch and the images
rank_scaling  the same command with --ranks: predictions for several ranks, from the step of one
exchange      exchanges of gradients between ranks, beside MPI's
checkpoint    saving checkpoints while a network trains
data          decoding, loading and copying images to the device

Modules that they share:

cases         the layers and passes of a network, as operations on problems
cost          the operations and bytes that each call needs at least
peaks         the peak rates of a device, from which floors follow
timing        the time of calls on a device
tiles         large random arrays, made on the device
verify        verification of results of any size, at little cost
processes     processes that are measured side by side
peers/        sides of comparisons: ours, PyTorch's and cuDNN's
charts        images of results
rank_charts   images of those about ranks

Modules with a command line of their own:

lines         one side of a comparison of kernels, a JSON line for each case
merging       results of kernels, merged from such lines
step_forms    our step in each form: pinned, pipelined, replayed
"""
