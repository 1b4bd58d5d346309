"""The supported layouts of a data folder, as error messages list them."""

from __future__ import annotations

LAYOUTS = """a data folder is one of
  train/CLASS/*.jpg and test/CLASS/*.jpg (or val, valid, validation), or only CLASS/*.jpg; .jpeg and .png too,
    also in subfolders of CLASS
  label images: train/images/*.jpg and train/labels/*.png of the same names, test/ likewise, and classes.txt;
    or Pascal VOC's folder, with JPEGImages, SegmentationClass and ImageSets/Segmentation
  MNIST's files: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte,
    t10k-labels-idx1-ubyte, each perhaps with .gz
  CIFAR-10's binary version: data_batch_1.bin to data_batch_5.bin, test_batch.bin, batches.meta.txt
  cuda-convnet's or CIFAR-10's batches for Python: data_batch_1, data_batch_2, ..., batches.meta, and perhaps
    test_batch
  ILSVRC-2012's archives as they come: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and
    ILSVRC2012_devkit_t12.tar.gz (or Caffe's synset_words.txt and val.txt)
  WebDataset tars: train/*.tar and test/*.tar (or val/*.tar), or *.tar called train..., test... or val...;
    labels are in .cls or .json, and classes.txt may name the classes
  shards that `cconvnet data prepare` made
or, in place of a folder, a file of arrays, .npz: x and y, and perhaps x_test, y_test and classes"""
