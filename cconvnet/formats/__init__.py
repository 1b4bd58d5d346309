"""Files of other programs, read without running anything in them, and networks that the user names.

The modules in reading order:

- ``pickles``, ``matlab``, ``ini``: pickles, MATLAB tables, INI files with line numbers.
- ``cuda_convnet``: a network in cuda-convnet's two files, read as a NetSpec.
- ``cuda_convnet_sections``, ``cuda_convnet_draft``: the checked sections, and the network under construction.
- ``cuda_convnet_layers``, ``cuda_convnet_weights``, ``rates``: the layers and their values.
- ``cuda_convnet_extras``: comments that keep what these files cannot say, such as the recipe.
- ``cuda_convnet_writer``: a network written as these files.
- ``cuda_convnet_checkpoint``: cuda-convnet's checkpoints.
- ``torch_files``, ``torch_writer``, ``safetensors_files``: named tensors of PyTorch's files and safetensors.
- ``layer_names``, ``layouts``: names and layouts of a network's tensors in other programs.
- ``pixel_weights``: a classifier's weights in a network that answers for each pixel.
- ``weights``: trained weights of any of these files, fitted to a network, and a table of formats.
- ``protobuf``: messages in protobuf's wire format.
- ``drafts``: a network and its weights under construction, from the layers of another program.
- ``onnx_reader``: a network in an ONNX file. ``onnx_schema``, ``onnx_graph``, ``onnx_constants``,
  ``onnx_operators`` and ``onnx_channels``: the fields of its messages, its nodes, constants, and operators as
  layers.
- ``onnx_writer``: a network written as an ONNX file, by ``onnx_layers`` and ``onnx_nodes``.
- ``prototxt``: protobuf's text format.
- ``caffe_reader``: a network of Caffe with its weights, by ``caffe_layers`` and ``caffe_weights``.
- ``own_nets``: networks in files of the user's own: Python, which is run, and JSON.
- ``netfiles``: networks as a user chooses them: a NetSpec, a name or a file.
- ``networks``: networks without data, to be measured or described.
"""
