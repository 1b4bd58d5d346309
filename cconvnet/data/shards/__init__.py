"""Shards: prepared pictures in a few large, checked files.

The modules in reading order:

- ``format``: the files of a folder of shards, and dataset.json, which describes them.
- ``reader``: shards opened as data to train on.
- ``writer``: the writing of the files.
- ``encoding``: the size and the encoding of prepared pictures.
- ``journal``: the plan, the lock and the records of an unfinished preparation.
- ``writer_pool``: processes that write one shard after another.
- ``prepare``: the preparation of a whole dataset, interruptible and resumable.
- ``verify``: the check of every byte.
"""

from __future__ import annotations

from cconvnet.data.shards.format import JOURNAL, ShardSet, matches, read_shard_set
from cconvnet.data.shards.reader import RawSplit, open_dataset

__all__ = ["JOURNAL", "RawSplit", "ShardSet", "matches", "open_dataset", "read_shard_set"]
