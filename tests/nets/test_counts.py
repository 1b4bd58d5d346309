"""The table of a network's layers; and the networks that were there before the builder, field by field."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import cconvnet as cc
from cconvnet import nets
from cconvnet.nets import NetSpec, TrainRecipe, alexnet, alexnet_2012, spec_to_dict

# ---- the table -------------------------------------------------------------------------------------------


def test_a_table_is_printed() -> None:
    net = cc.image(8, 8, 1).conv(2, 3, pad=1).relu().maxpool(2).fc(10).softmax("tiny & small")
    assert str(net.table()).splitlines() == [
        "layer         type          inputs  output  parameters  multiply-adds",
        "------------  ------------  ------  ------  ----------  -------------",
        "conv1         conv          data     8x8x2          20          1,152",
        "pool1         pool          conv1    4x4x2",
        "fc1           fc            pool1   1x1x10         330            320",
        "cost          softmax_cost  fc1     1x1x10",
        "------------  ------------  ------  ------  ----------  -------------",
        "tiny & small                                       350          1,472",
    ]
    html = net._repr_html_()
    assert "tiny &amp; small" in html and html.count("<tr>") == 6


def test_inputs_of_a_product_count_each() -> None:
    x = cc.image(4, 4, 3)
    table = x.conv(2, 3, pad=1, also=x.select([0])).fc(2, bias=None).softmax().table()
    assert (table.rows[1].parameters, table.rows[1].multiply_adds) == (2 * 9 * 4 + 2, 16 * 2 * 9 * 4)
    assert table.rows[2].parameters == 16 * 2 * 2
    local = x.local(2, 3).fc(2).softmax().table().rows[0]
    assert (local.parameters, local.multiply_adds) == (4 * 2 * (27 + 1), 4 * 2 * 27)


# ---- networks field by field ------------------------------------------------------------------------------

# SHA-256 of each network's JSON, at its own size and at another, written before the builder was there.
DIGESTS = {
    "lenet": ["1f894746446176c7", "1a12cdc529dee700", "efcd617880c6e0ce"],
    "cifar-quick": ["7d35c882603031b7", "b04c152a9a2bd4c7"],
    "cifar-18pct": ["8f7ab5929b2e930c", "99d3d4cd5b1f8b61"],
    "cifar-13pct": ["4f4ff12a59961db5", "d89b86c620c04d8f"],
    "cifar-11pct": ["66d0cae81b3768f2", "ea5960e3f876bffb", "7c8dcc534032652d"],
    "alexnet": ["9e1f69e6496724dc", "5145b9d7ca8af2a8", "8ceb3f297559c94f"],
    "alexnet-2012": ["72e90b71fc8d26f5", "773d5445840c5393", "0957dcd653716813"],
}


# Fields that recipes did not have then; the built-in networks leave them at their defaults.
LATER = ("schedule", "warmup", "warmup_from", "pad")


def digest(spec: NetSpec) -> str:
    values = spec_to_dict(spec)
    plain = spec_to_dict(dataclasses.replace(spec, recipe=TrainRecipe(batch=1, epochs=1, lr=1)))
    for name in LATER:
        if values["recipe"][name] == plain["recipe"][name]:
            del values["recipe"][name]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def test_every_built_in_network_is_what_it_was() -> None:
    found = {}
    for name in DIGESTS:
        found[name] = [digest(nets.build(name)), digest(nets.build(name, (256, 256, 3), 100))]
    for name, module in (("alexnet", alexnet), ("alexnet-2012", alexnet_2012)):
        found[name].append(digest(module.build((76, 76, 3), 5, width=1 / 16)))
    found["lenet"].append(digest(nets.build("lenet", (28, 28, 1), 10)))
    found["cifar-11pct"].append(digest(nets.build("cifar-11pct", (40, 36, 1), 7)))
    assert found == DIGESTS
