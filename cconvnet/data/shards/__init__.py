"""Prepared pictures in a few large, checked files. In reading order:

format        the files of a folder of shards, and dataset.json, which describes them
reader        shards as data to train on
writer        the files, written
encoding      the size and the encoding of prepared pictures
writer_pool   processes that write one shard after another
prepare       the preparation of a whole data set, which can be interrupted and resumed
verify        the check of all files
"""

from __future__ import annotations

from cconvnet.data.shards.format import JOURNAL, ShardSet, matches, read_shard_set
from cconvnet.data.shards.reader import RawSplit, open_dataset

__all__ = ["JOURNAL", "RawSplit", "ShardSet", "matches", "open_dataset", "read_shard_set"]
