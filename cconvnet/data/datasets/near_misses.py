"""Explanations of folders that fit no layout: the contents found and the change that would help.

Data from other programs may be one level too deep, packed or without class folders. The folders for training
and testing may have other names. This module recognises each such near miss and names the remedy.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cconvnet.data import shards
from cconvnet.data.datasets import (
    cifar10,
    cuda_convnet,
    folder,
    imagenet,
    mnist,
    segmentation,
    webdataset,
)
from cconvnet.data.datasets.layouts import LAYOUTS
from cconvnet.data.listing import OTHER_PICTURES, entries, is_picture
from cconvnet.data.names import listed, printable
from cconvnet.errors import DataError

TRAIN_WORDS = ("train", "training", "trainset", "train_set", "training_set", "training-set", "train-set")
TEST_WORDS = (
    *("test", "testing", "testset", "test_set", "test-set", "val", "valid", "validation", "validate"),
    *("eval", "evaluation", "dev", "holdout"),
)
TARS = "tars"
# The limits of the search for a folder that would fit: depth and number of folders.
DEPTH, MAX_FOLDERS = 3, 200

_ARCHIVE = re.compile(r"(?i).*\.(tar|tgz|tbz2?|txz|zip|7z|rar)(\.(gz|xz|bz2|zst))?")
_CIFAR_ARCHIVE = re.compile(r"(?i)cifar-?(10|100)[-_.a-z]*\.(tar\.gz|tgz|tar)")
_IDX = re.compile(
    r"(?i)(?:.*[^a-z])?(train|test|t10k)[-_. ]?(images|labels)[-_. ]?idx([13])[-_. ]?ubyte(\.gz)?"
)
_CLASS_TAR = re.compile(r"n\d{8}\.tar")
SOLUTION = "LOC_val_solution.csv"  # of the challenge's page on Kaggle
_IMAGENET_VAL = re.compile(r"(?i)ilsvrc2012_val_\d+\.(jpe?g|png)")

_FILES = (
    *(f"{prefix}-{what}" for prefix in mnist.PREFIXES for what in (mnist.IMAGES, mnist.LABELS)),
    *(f"data_batch_{number}.bin" for number in range(1, 6)),
    *("test_batch.bin", "batches.meta.txt", "batches.meta", "test_batch", "data_batch_1", "data_batch_2"),
    *(imagenet.TRAIN, imagenet.VAL, imagenet.DEVKIT),
)


# ---- paths that are no folder -----------------------------------------------------------------------------


def missing_path(path: Path) -> DataError:
    """Return the error for a path that does not exist; it names the most similar path that does."""
    if path.is_symlink():
        return DataError(f"{path} is a link to nothing or to itself: {os.readlink(path)}")  # noqa: PTH115
    there = path
    while not there.is_dir() and there != there.parent:
        missing, there = there, there.parent
    similar = ""
    try:
        names = [entry.name for entry in entries(there)]
    except DataError:
        names = []
    lower = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(missing.name.lower(), lower, 1, 0.7)
    if close:
        similar = f"; there is {there / lower[close[0]]}"
    elif there != path.parent:
        similar = f"; {there} has no {missing.name}"
    kinds = "'digits' (embedded), a folder or a file of arrays (.npz)"
    return DataError(f"there is no {path}; data is {kinds}{similar}")


def not_a_folder(path: Path) -> DataError:
    """Return the error for a file in place of a folder."""
    name = path.name
    if _ARCHIVE.fullmatch(name):
        command = "unzip" if name.lower().endswith(".zip") else "tar -xf"
        return DataError(
            f"{path} is not a folder; unpack it first, with: {command} {shlex.quote(str(path))}, and give "
            "the folder that comes of it. Of tars that need no unpacking (ILSVRC-2012's, WebDataset's) give "
            "the folder"
        )
    if is_picture(name):
        return DataError(
            f"{path} is one picture, not a folder; pictures belong in a folder for each class, CLASS/*.jpg"
        )
    if kind := recognized_kind(path.parent):
        return DataError(f"{path} is not a folder; it is beside {kind}: give {path.parent}")
    return DataError(f"{path} is not a folder; unpack an archive first. {LAYOUTS}")


# ---- folders ----------------------------------------------------------------------------------------------


def recognized_kind(root: Path) -> str:
    """Return the kind of data that a folder seems to contain, in words, or ""."""
    try:
        names = {entry.name for entry in entries(root)}
        if mnist.matches(root, names):
            return "MNIST's files"
        if cifar10.matches(root, names):
            return "CIFAR-10's binary files"
        if cuda_convnet.matches(root, names):
            return "batches for Python"
        if shards.matches(names):
            return "shards"
        if imagenet.matches(root, names):
            return "ILSVRC-2012's tars"
        if segmentation.matches(root):
            return "pictures with label images"
        if (root / "train").is_dir() and folder.has_pictures_below(root / "train"):
            return "train/CLASS/*"
        if webdataset.matches(root, names):
            return TARS
    except DataError:
        pass
    return ""


def check(root: Path, names: set[str]) -> None:
    """Refuse files that nearly fit a layout.

    Raises:
        DataError: The folder nearly fits a layout. The text names the remedy.
    """
    if recognized_kind(root) not in ("", TARS):
        return
    for miss in (_cifar_100, _packed, _renamed, _class_tars, _label_folders):
        text = miss(root, names)
        if text:
            raise DataError(f"{root} {text}")


def check_pictures(root: Path) -> None:
    """Refuse folders of pictures that would be read in another way than the user meant.

    Raises:
        DataError: There are no class folders with pictures, or others are probably meant.
    """
    has_train = (root / "train").is_dir()
    train = root / "train" if has_train else root
    if not folder.has_pictures_below(train):
        if not entries(train):
            raise DataError(f"{train} has no class folders with pictures; {LAYOUTS}\nIt is empty.")
        raise DataError(f"{train} has no class folders with pictures{_seen(root, train)}")
    misses = [] if has_train else [_other_words, _words_alone, _split_within]
    if not has_train and not folder.matches(root):
        misses.append(_deeper)
    for where, miss in (*((root, miss) for miss in misses), (train, _one_level_more)):
        if text := miss(where):
            raise DataError(f"{where} {text}")
    tests = [root / name for name in folder.TESTS if (root / name).is_dir()]
    if has_train and tests and not any(map(folder.has_pictures_below, tests)):
        flat = [text for text in map(_flat, tests) if text]
        # ILSVRC-2012 has test pictures in val and others, without labels, in test.
        if flat:
            raise DataError(next((text for text in flat if SOLUTION in text), flat[0]))
        seen = listed([printable(entry.name) for entry in entries(tests[0])]) or "nothing"
        raise DataError(
            f"{tests[0]} has no class folders with pictures, but {seen}. Put the test pictures into "
            f"{tests[0]}/CLASS/, or move {tests[0]} away: then the training pictures serve for testing too"
        )


def _seen(root: Path, train: Path) -> str:
    """Explain why there are no class folders, with the remedy or the layouts."""
    found = entries(train)
    pictures = [entry.name for entry in found if is_picture(entry.name)]
    if pictures:
        return (
            f": {len(pictures):,} pictures are in it directly, such as {printable(pictures[0])}. Put the "
            f"pictures of each class into a folder named after the class: {train}/CLASS/*.jpg"
            + _reserved(root, train)
        )
    if train == root:
        for there in (_other_words(root), _deeper(root), _tests_only(root)):
            if there:
                return f": it {there}"
    others = Counter(
        suffix
        for entry in _files_below(train)
        if (suffix := os.path.splitext(entry)[1].lower())  # noqa: PTH122
    )
    unread = sorted(suffix for suffix in others if suffix in OTHER_PICTURES)
    if unread:
        count = sum(others[suffix] for suffix in unread)
        kinds = ", ".join(unread)
        return f": its {count:,} pictures are {kinds}, which are not read; make JPEGs or PNGs of them"
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(5))
    seen = listed([printable(entry.name) for entry in found])
    there = f": it contains {seen}" + (f" (files below: {kinds})" if kinds else "")
    return f"{there}; {LAYOUTS}"


def _reserved(root: Path, train: Path) -> str:
    others = [] if train == root else [entry.name for entry in folder.class_folders(root)]
    if "train" not in others or not set(others) - {*TRAIN_WORDS, *TEST_WORDS}:
        return ""
    return f". If train itself is a class, move all classes into {train}: there any name is a class"


def _files_below(root: Path, most: int = 10_000) -> Iterator[str]:
    count = 0
    for _, _, files in os.walk(root):
        for name in files:
            if not name.startswith("."):
                yield name
                count += 1
        if count > most:
            return


def _word(name: str) -> str:
    lower = name.lower()
    return "train" if lower in TRAIN_WORDS else "test" if lower in TEST_WORDS else ""


def _other_words(root: Path) -> str:
    """Recognise training and test folders with other names, such as training or Val."""
    found = [entry.name for entry in folder.class_folders(root)]
    trains = [name for name in found if _word(name) == "train" and folder.has_pictures_below(root / name)]
    tests = [name for name in found if _word(name) == "test" and folder.has_pictures_below(root / name)]
    if not trains:
        return ""
    advice = [f"{name} to train" for name in trains[:1]]
    advice += [f"{name} to test" for name in tests[:1] if name not in folder.TESTS]
    return f"has {listed([*trains, *tests])} instead of train and test: rename {' and '.join(advice)}"


def _words_alone(root: Path) -> str:
    """Recognise folders for training and testing that have pictures but no class folders."""
    found = [entry.name for entry in folder.class_folders(root)]
    if not all(map(_word, found)):
        return ""
    if text := _tests_only(root):
        return text
    return (
        f"has {listed(found)}, whose pictures are in no class folders: put them into train/CLASS/*.jpg and "
        "test/CLASS/*.jpg"
    )


def _tests_only(root: Path) -> str:
    found = [
        entry.name
        for entry in folder.class_folders(root)
        if _word(entry.name) == "test" and folder.has_pictures_below(root / entry.name)
    ]
    return f"has {listed(found)} but no train; give {root / found[0]} itself to train on it" if found else ""


def _split_within(root: Path) -> str:
    """Recognise CLASS/train and CLASS/test instead of train/CLASS."""
    for entry in folder.class_folders(root):
        words = {_word(below.name): below.name for below in folder.class_folders(Path(entry.path))}
        both = {"train", "test"} <= words.keys()
        if both and not folder.has_pictures_below(Path(entry.path, words["train"])):
            name = printable(entry.name)
            return (
                f"has {name}/{words['train']} and {name}/{words['test']}: the split comes first. "
                f"Move the pictures to train/{name} and test/{name}"
            )
    return ""


def _deeper(root: Path) -> str:
    """Recognise a layout one or more folders below."""
    level, looked = [root], 0
    for _ in range(DEPTH):
        level = [
            Path(entry.path)
            for where in level
            for entry in folder.class_folders(where)
            if not entry.is_symlink()
        ]
        fitting = []
        for where in level[: MAX_FOLDERS - looked]:
            kind = recognized_kind(where) or _words_below(where)
            if kind:
                fitting.append((where, kind))
        looked += len(level)
        if fitting:
            where, kind = fitting[0]
            more = f", or {listed([str(other) for other, _ in fitting[1:]])}" if len(fitting) > 1 else ""
            return f"has no data itself, but {where} has ({kind}): give {where}{more}"
        if looked >= MAX_FOLDERS:
            break
    return ""


def _words_below(root: Path) -> str:
    """List the training and test folders with other names."""
    found = {_word(entry.name) for entry in folder.class_folders(root)}
    return "training and test folders" if {"train", "test"} <= found else ""


def _one_level_more(train: Path) -> str:
    """Recognise one class folder whose own folders are the classes."""
    found = folder.class_folders(train)
    if len(found) != 1:
        return ""
    only = Path(found[0].path)
    if any(is_picture(entry.name) for entry in entries(only)):
        return ""
    below = [
        entry.name
        for entry in folder.class_folders(only)
        if any(is_picture(file.name) for file in entries(Path(entry.path)))
    ]
    if len(below) < 2:
        return ""
    move = f"give {only}" if train.name != "train" else f"move them from {only} to {train}"
    return (
        f"has one class folder alone, {printable(only.name)}, whose pictures are in its folders "
        f"{listed([*map(printable, below)])}: if these are the classes, {move}"
    )


def _flat(test: Path) -> str:
    """Recognise test pictures in no class folders, such as ILSVRC-2012's val."""
    pictures = [entry.name for entry in entries(test) if is_picture(entry.name)]
    if not pictures:
        return ""
    first = printable(pictures[0])
    text = f"{test} has {len(pictures):,} pictures, but in no class folders, such as {first}. "
    away = f"or move {test} away: then the training pictures serve for testing too"
    if not any(map(_IMAGENET_VAL.fullmatch, pictures)):
        return text + f"Sort them into {test}/CLASS/, {away}"
    into, solution = (shlex.quote(str(path)) for path in (test, (test.parent / SOLUTION).absolute()))
    return text + (
        f"Sort them into {test}/n01440764/ and so on. {SOLUTION} names the class of each:\n"
        f"  cd {into} && tail -n +2 {solution} | while IFS=', ' read -r id class rest\n"
        '  do mkdir -p "$class" && mv "$id.JPEG" "$class/"; done\n'
        f"{imagenet.DEVKIT} has the classes too, in {imagenet.TRUTH}. Or give the folder of the tars as they "
        f"came, which need no sorting, {away}"
    )


# ---- files ------------------------------------------------------------------------------------------------


def _cifar_100(root: Path, names: set[str]) -> str:
    binary = {"train.bin", "test.bin"} <= names
    pickled = {"train", "test", "meta"} <= names and (root / "train").is_file()
    if not binary and not pickled:
        return ""
    return (
        "has CIFAR-100's files, which are not read. Write its pictures into train/CLASS/*.png and "
        "test/CLASS/*.png, or into data_batch_1, test_batch and batches.meta as CIFAR-10 has them (labels "
        "instead of fine_labels, label_names instead of fine_label_names)"
    )


def _packed(root: Path, names: set[str]) -> str:
    """Recognise archives of datasets that must be unpacked."""
    found = sorted(name for name in names if _CIFAR_ARCHIVE.fullmatch(name))
    zips = sorted(name for name in names if name.lower().endswith((".zip", ".7z", ".rar")))
    if (not found and not zips) or folder.matches(root):
        return ""
    if there := _deeper(root):
        return there
    name = (found or zips)[0]
    file, into = shlex.quote(str(root / name)), shlex.quote(str(root))
    command = f"tar -xf {file} -C {into}" if found else f"unzip {file} -d {into}"
    return f"has {name}, which is not unpacked. Use: {command}; then give the folder that comes of it"


def _renamed(root: Path, names: set[str]) -> str:
    """Recognise files whose names are nearly those of MNIST, CIFAR-10 or ILSVRC-2012."""
    moves = {}
    for name in sorted(names):
        if found := _IDX.fullmatch(name):
            part = "train" if found[1].lower() == "train" else "t10k"
            moves[name] = f"{part}-{found[2].lower()}-idx{found[3]}-ubyte{(found[4] or '').lower()}"
        else:
            plain = re.sub("[^a-z0-9]", "", name.lower())
            for file in _FILES:
                if plain == re.sub("[^a-z0-9]", "", file.lower()):
                    moves.setdefault(name, file)
    moves = {name: file for name, file in moves.items() if name != file and file not in names}
    if not moves:
        return ""
    renames = listed([f"{name} to {file}" for name, file in moves.items()], 4)
    return f"has files with nearly the names of a known dataset: rename {renames}"


def _label_folders(root: Path, names: set[str]) -> str:
    """Recognise label images in folders of other names, as those of CamVid and ADE20K."""
    pairs = [(name, f"{name}annot") for name in sorted(names) if f"{name}annot" in names]
    for labels in ("annotations", "labels"):
        if {"images", labels} <= names:
            below = [
                {entry.name for entry in folder.class_folders(root / name)} for name in ("images", labels)
            ]
            pairs += [(f"images/{name}", f"{labels}/{name}") for name in sorted(below[0] & below[1])]
    moves = [
        f"{own} to {word}/{name}"
        for pair in pairs
        if (word := _word(Path(pair[0]).name))
        for own, name in zip(pair, (segmentation.IMAGES, segmentation.LABELS), strict=True)
    ]
    if not moves:
        return ""
    return f"has pictures and label images in folders of other names: move {', '.join(moves)}"


def _class_tars(root: Path, names: set[str]) -> str:
    found = sorted(name for name in names if _CLASS_TAR.fullmatch(name))
    if not found or folder.matches(root):
        return ""
    return (
        f"has the tars of {len(found):,} classes that belong in {imagenet.TRAIN}, such as {found[0]}. Give "
        f"the folder of {imagenet.TRAIN} itself, or unpack each into train/CLASS: "
        f"mkdir -p train/{found[0][:-4]} && tar -xf {found[0]} -C train/{found[0][:-4]}"
    )
