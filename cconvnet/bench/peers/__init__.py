"""Sides that cconvnet bench compares: ours, PyTorch's and cuDNN's. No other module imports PyTorch or cuDNN.

side              the interface of a side of a comparison of kernels, and the choice of its fastest right plan
cconvnet_kernels  our kernels; beside them cudnn and pytorch_kernels
                  in the windows of pytorch_windows
cconvnet_step     our training step; beside it pytorch_step, in the forms of `forms`
pytorch_net       any of our networks in PyTorch, made of pytorch_layers
cconvnet_data     our loader; beside it pytorch_data, both on the images of `feeding`
pytorch_training  PyTorch's training of a network from its first step to its last test
dropout_masks     ours, with which it does our steps
gpu, pytorch      the device, as cuDNN's and PyTorch's sides need it
padding           images with room for windows that extend beyond them
"""
