"""The layers and passes of networks as cases, and the first convolution in both of its forms."""

from __future__ import annotations

import json

import pytest

from cconvnet import nets
from cconvnet._problem import ConvProblem
from cconvnet.bench.cases import NETWORKS, cases, find, select
from cconvnet.devices import PRECISIONS
from cconvnet.layers import over_blocks
from cconvnet.network import Network
from cconvnet.operations import OPERATIONS


def test_rows_of_alexnet() -> None:
    names = [case.name for case in cases("alexnet", 2)]
    assert names[:4] == [
        "conv1 conv_fprop",
        "conv1 conv_wgrad",
        "conv1 relu_bias_backward",
        "lrn1 lrn_forward",
    ]
    for operation in ("lrn_maxpool_forward", "lrn_maxpool_backward"):
        layers = [name.partition(" ")[0] for name in names if name.endswith(operation)]
        assert layers == ["lrn1+pool1", "lrn2+pool2"]
    assert len(names) == len(set(names))
    problem = find("alexnet", 2, "conv2", "conv_fprop", "bf16").problem
    assert (problem.precision, problem.groups, problem.y_shape) == ("bf16", 2, (2, 27, 27, 256))
    for layer in ("conv2", "conv5"):
        assert [f"{layer} conv_{p}" in names for p in ("fprop", "dgrad", "wgrad")] == [True] * 3
    assert [name for name in names if "dropout" in name] == ["fc6 dropout", "fc7 dropout"]
    assert "fc8 relu_bias_backward" not in names
    assert names[-2:] == ["loss softmax_cross_entropy", "update sgd_update"]
    update = find("alexnet", 2, "update", "sgd_update").problem
    # 60,965,224 parameters less 10,568 biases.
    assert update.count == 60_954_656


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_of_every_network_can_be_found_again(network: str) -> None:
    table = cases(network, 3)
    assert {case.operation for case in table} <= set(OPERATIONS)
    assert "conv_dgrad" not in [case.operation for case in table if case.layer == "conv1"]
    for case in table[:: max(len(table) // 20, 1)]:
        again = find(**json.loads(json.dumps(case.key)))
        assert (again.name, repr(again.problem)) == (case.name, repr(case.problem))


def test_selecting_rows() -> None:
    table = cases("alexnet", 1)
    assert {case.layer for case in select(table, "conv2")} == {"conv2"}
    assert {case.operation for case in select(table, "wgrad")} == {"conv_wgrad", "fc_wgrad"}
    assert {case.operation for case in select(table, "conv_wgrad")} == {"conv_wgrad"}
    assert {case.layer for case in select(table, "lrn*, pool5")} == {
        "lrn1",
        "lrn2",
        "lrn2_map",
        "pool5",
        "lrn1+pool1",
        "lrn2+pool2",
    }
    assert [case.name for case in select(table, "conv3 conv_dgrad")] == ["conv3 conv_dgrad"]
    assert select(table, None) == table
    with pytest.raises(ValueError, match="'conv9' names none of conv1, "):
        select(table, "conv2,conv9")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("network", ["alexnet", "resnet50", "googlenet"])
def test_the_first_convolution_stands_there_as_training_computes_it(network: str, precision: str) -> None:
    given = find(network, 2, "conv1", "conv_fprop", precision)
    blocks = find(network, 2, "conv1_blocks", "conv_fprop", precision)
    assert blocks.problem.precision == precision and blocks.problem.stride_h == 1
    assert (blocks.problem.p, blocks.problem.q) == (given.problem.p, given.problem.q)
    assert blocks.problem.flops * blocks.needed == pytest.approx(given.problem.flops)
    table = cases(network, 2, precision, blocks=True)
    wanted = ["conv1 conv_fprop", "conv1_blocks conv_fprop", "conv1 conv_wgrad", "conv1_blocks conv_wgrad"]
    assert [case.name for case in table[:4]] == wanted
    assert [case.name for case in table if "_blocks" not in case.name] == [r.name for r in cases(network, 2)]
    assert [case.trained for case in table[:2]] == [False, True]
    assert all(case.trained for case in (*table[4:], *cases(network, 2)))


@pytest.mark.parametrize("size", [67, 74])
def test_training_computes_that_very_convolution(size: int) -> None:
    spec = nets.alexnet.build((size, size, 3), 10, width=1 / 24)
    network = Network(spec, batch=2, devices=["emulator:0"])
    (own,) = (layer.branches[0].problem for layer in network.layers if "conv1" in layer.names)
    image, conv = spec.input, spec.layers[0].for_input(0)
    sizes = (2, image.height, image.width, 3, own.k, *conv.window)
    given = ConvProblem(*sizes, conv.stride, conv.padding, 1, conv.rounding)
    assert repr(own) == repr(over_blocks(given))


@pytest.mark.parametrize("network", ["vgg16", "cifar-quick"])
def test_a_convolution_without_stride_stands_there_once(network: str) -> None:
    assert [r.name for r in cases(network, 1, blocks=True)] == [r.name for r in cases(network, 1)]
