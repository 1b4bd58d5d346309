"""The layers and passes of networks as cases, and the first convolution in both of its forms."""

from __future__ import annotations

import json

import pytest

import cconvnet as cc
from cconvnet import nets
from cconvnet._problem import ConvProblem
from cconvnet.bench import verify
from cconvnet.bench.cases import Case, cases, find, select
from cconvnet.bench.peers.cconvnet_kernels import Ours
from cconvnet.devices import PRECISIONS
from cconvnet.layers import over_blocks
from cconvnet.nets import NetSpec
from cconvnet.network import Network
from cconvnet.operations import OPERATIONS
from cconvnet.testing.networks import NETWORKS

PASSES = ("fprop", "dgrad", "wgrad")


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
    assert [case.label for case in cases("alexnet", 2) if case.operation == "dropout"] == ["dropout6 x2"]
    assert "fc8 relu_bias_backward" not in names
    assert names[-2:] == ["cost softmax_cross_entropy", "update sgd_update"]
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


def own_net() -> NetSpec:
    """Return a network of one's own: equal layers, two inputs, local filters, tanh, a branch, and others."""
    x = cc.image(12, 12, 2).conv(4, 3, pad=1).tanh().conv(4, 3, pad=1, name="again").tanh()
    same = cc.concat(x.conv(4, 3, pad=1, name="left").relu(), x.conv(4, 3, pad=1, name="right").relu())
    y = same.lrn(groups=2, name="norm").maxpool(3, 2, name="pool").contrast_norm(name="local_norm")
    z = y.local(3, 3, name="local").relu()
    z = z.fc(6, also=y, neuron="relu", name="fc").dropout(0.75, name="drop")
    return z.fc(3, name="out").softmax("own")


def test_rows_of_a_network_of_ones_own() -> None:
    table = cases(own_net(), 2)
    assert [(case.label, case.operation) for case in table if case.is_product] == [
        ("conv1", "conv_fprop"), ("conv1", "conv_wgrad"),
        *(("again x3", f"conv_{part}") for part in PASSES),
        *(("local", f"local_{part}") for part in PASSES),
        *((name, f"fc_{part}") for name in ("fc.0", "fc.1", "out") for part in PASSES),
    ]  # fmt: skip
    rest = [(case.label, case.operation.removesuffix("_backward")) for case in table if not case.is_product]
    assert [row for row in rest if not row[1].endswith("_forward")] == [
        ("conv1 x2", "neuron"), ("left x2", "relu_bias"), ("norm", "lrn"), ("pool", "maxpool"),
        ("norm+pool", "lrn_maxpool"), ("local_norm", "contrast_norm"), ("local", "relu_bias"),
        ("fc.0", "relu_bias"), ("drop", "dropout"), ("cost", "softmax_cross_entropy"),
        ("update", "sgd_update"),
    ]  # fmt: skip
    weights = 4 * 9 * 2 + 3 * 4 * 9 * 4 + 9 * 3 * 9 * 8 + 6 * (9 * 3 + 25 * 8) + 3 * 6
    assert find(own_net(), 2, "update", "sgd_update").problem.count == weights
    assert find(own_net(), 2, "right", "conv_dgrad").layer == "again"
    assert [case.layer for case in select(table, "left")] == ["again"] * 3 + ["left"]
    # Every position of a local layer has biases of its own.
    assert find(own_net(), 2, "local", "relu_bias_backward").problem.k == 3 * 3 * 3


@pytest.mark.parametrize(
    "name",
    ["again neuron_backward", "local_norm contrast_norm_backward", *(f"local local_{p}" for p in PASSES)],
)
def test_results_of_such_rows_are_checked(name: str) -> None:
    """One element that is off is an error."""
    layer, operation = name.split()
    side = Ours("cpu:0", "fp32")
    key = find(own_net(), 2, layer, operation).key
    answer = side.prepare(**json.loads(json.dumps(key)))
    assert (answer["wrong"], answer["failed"]) == ({}, {})
    case = find(**key)
    inputs = verify.checked_inputs(case)
    (plan,) = side.plans(case)
    plan.load(inputs)
    plan.call()
    results = plan.results()
    verify.check(case, inputs, results)
    (wrong,) = results.values()
    wrong.reshape(-1)[wrong.size // 2] += 0.01
    with pytest.raises(AssertionError, match="the largest error of"):
        verify.check(case, inputs, results)


def test_selecting_rows() -> None:
    table = cases("alexnet", 1)
    assert {case.layer for case in select(table, "conv2")} == {"conv2"}
    assert {case.operation for case in select(table, "wgrad")} == {"conv_wgrad", "fc_wgrad"}
    assert {case.operation for case in select(table, "conv_wgrad")} == {"conv_wgrad"}
    assert {case.layer for case in select(table, "lrn*, pool5")} == {
        "lrn1",
        "lrn2",
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

    def names(rows: list[Case]) -> list[str]:
        return [case.name for case in rows if "_blocks" not in case.name]

    assert names(table) == names(cases(network, 2))
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
