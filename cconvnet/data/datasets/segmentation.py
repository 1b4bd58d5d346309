"""Pictures with label images, which have a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cconvnet.data.account import Unused
from cconvnet.data.byte_ranges import ByteRanges
from cconvnet.data.dataset import Dataset, LeftOut, Pictures
from cconvnet.data.datasets.folder import TESTS, list_pictures
from cconvnet.data.label_images import IGNORED, LabelFiles, read_labels
from cconvnet.data.listing import beside, entries, is_picture, lines
from cconvnet.data.names import composed, listed, printable
from cconvnet.errors import DataError

KIND = "label images"
IMAGES, LABELS, CLASSES = "images", "labels", "classes.txt"

# The folders of Pascal VOC: pictures, label images, and the lists of the names of both.
VOC_IMAGES, VOC_LABELS, VOC_LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
# Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge".
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)


def matches(root: Path) -> bool:
    """Return True if a folder contains pictures and their label images."""
    return _has_both(root / "train") or _is_voc(root)


def open_dataset(root: Path) -> Dataset:
    """Open train/images/*, train/labels/*.png and classes.txt, or Pascal VOC's folder as it comes.

    A picture and its label image have the same name but for the ending, perhaps in subfolders of the same
    names. The test folder has one of the names in TESTS. classes.txt has the name of a class in each line,
    that of label 0 first.

    Args:
        root: The folder.

    Raises:
        DataError: A picture or a label image lacks the other, or the classes are not named.
    """
    if _is_voc(root):
        return _open_voc(root)
    folders, notes = {"train": root / "train"}, []
    tests = [root / name for name in TESTS if _has_both(root / name)]
    if tests:
        folders["test"] = tests[0]
        notes += [f"{other} is not used: {tests[0]} is there" for other in tests[1:]]
    else:
        notes.append(f"{root} has no test pictures: the training pictures serve for testing too")
    pairs = {split: _Pairs(folder, root) for split, folder in folders.items()}
    classes = _classes(root, pairs["train"].labels[0])
    splits = {split: found.as_pictures(len(classes)) for split, found in pairs.items()}
    used = {CLASSES, *(folder.name for folder in folders.values())}
    return _dataset(root, classes, splits, notes, beside(root, used))


def _dataset(
    root: Path, classes: list[str], splits: dict[str, Pictures], notes: list[str], others: Unused
) -> Dataset:
    train, test = splits["train"], splits.get("test")
    return Dataset(KIND, f"{KIND} {root.name}", classes, train, test, notes, folder=root, beside=others)


def _has_both(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / LABELS).is_dir()


def _classes(root: Path, example: str) -> list[str]:
    """Return the names of the classes.

    Raises:
        DataError: There are none, or more than labels can tell apart.
    """
    file = root / CLASSES
    if not file.exists():
        raise DataError(
            f"{file} is missing; it has the name of a class in each line, that of label 0 first. "
            f"{IGNORED} is ignored and needs none. {_labels_in(example)}"
        )
    names = lines(file)
    if not names or "" in names:
        raise DataError(f"{file} must have the name of a class in each line, that of label 0 first")
    if len(names) > IGNORED:
        raise DataError(f"{file} has {len(names):,} classes; labels of 8 bits tell {IGNORED} apart")
    return [printable(name) for name in names]


def _labels_in(file: str) -> str:
    """Return a sentence on the labels in a file, to begin a list of classes with."""
    found = sorted(set(read_labels(file).ravel().tolist()))
    return f"The labels in {file} are {listed([str(label) for label in found], 12)}"


# ---- images and labels -----------------------------------------------------------------------------------


class _Pairs:
    """The pictures of a split and their label images, in the order of the pictures' names.

    Raises:
        DataError: One of a pair is missing, or there is no pair.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        images, labels = (list_pictures(str(folder / name), root) for name in (IMAGES, LABELS))
        self.left_out: Sequence[LeftOut] = images.left_out
        self.ignored = beside(folder, {IMAGES, LABELS}).below(folder.name)
        for one in (images, labels):
            self.ignored.update(one.ignored)
        of_stem = _by_stem(labels.files, folder / LABELS)
        stems = _by_stem(images.files, folder / IMAGES)
        lost = _by_stem([one.name for one in images.left_out], folder / IMAGES)
        _refuse_alone(stems, of_stem, f"{folder / LABELS} has no label image of")
        _refuse_alone(of_stem, stems | lost, f"{folder / IMAGES} has no picture of")
        self.images = list(stems.values())
        self.labels = [of_stem[stem] for stem in stems]
        if not self.images:
            raise DataError(f"{folder / IMAGES} has no pictures (.jpg, .jpeg, .png)")

    def as_pictures(self, classes: int) -> Pictures:
        """Return the split; its labels are those of files."""
        return _pictures(self.images, self.labels, classes, self.left_out, self.ignored)


def _pictures(
    images: list[str], labels: list[str], classes: int, left_out: Sequence[LeftOut], ignored: Unused
) -> Pictures:
    return Pictures(
        [printable(file) for file in images],
        LabelFiles(labels, images, classes).as_array(),
        ByteRanges.whole(images),
        left_out=left_out,
        ignored=ignored,
    )


def _by_stem(files: list[str], folder: Path) -> dict[str, str]:
    """Map names without endings, relative to a folder, to files."""
    found: dict[str, str] = {}
    for file in files:
        stem = composed(str(Path(file).relative_to(folder).with_suffix("")))
        if stem in found:
            raise DataError(f"{found[stem]} and {file} have the same name but for the ending; remove one")
        found[stem] = file
    return found


def _refuse_alone(these: dict[str, str], those: dict[str, str], text: str) -> None:
    alone = [file for stem, file in these.items() if stem not in those]
    if alone:
        raise DataError(
            f"{text} {listed([printable(file) for file in alone], 3)}; both have one name but for the ending"
        )


# ---- Pascal VOC ------------------------------------------------------------------------------------------


def _is_voc(root: Path) -> bool:
    return all((root / name).is_dir() for name in (VOC_IMAGES, VOC_LABELS, VOC_LISTS))


def _open_voc(root: Path) -> Dataset:
    """Open VOC's pictures in train.txt, and those in val.txt for testing."""
    classes = _classes(root, "") if (root / CLASSES).exists() else list(VOC_CLASSES)
    there = {
        folder: {Path(one.name).stem: one.path for one in entries(root / folder) if is_picture(one.name)}
        for folder in (VOC_IMAGES, VOC_LABELS)
    }
    splits = {}
    for split, name in (("train", "train.txt"), ("test", "val.txt")):
        file = root / VOC_LISTS / name
        stems = lines(file)
        if not stems:
            raise DataError(f"{file} names no pictures")
        for folder, found in there.items():
            alone = [stem for stem in stems if stem not in found]
            if alone:
                raise DataError(f"{root / folder} lacks {listed(alone, 3)}, which {file} names")
        images, labels = ([there[folder][stem] for stem in stems] for folder in there)
        splits[split] = _pictures(images, labels, len(classes), (), Unused())
    others = len(there[VOC_IMAGES]) - sum(map(len, splits.values()))
    notes = [f"pictures of {root / VOC_IMAGES} in neither list: {others:,}"] if others > 0 else []
    used = {CLASSES, VOC_IMAGES, VOC_LABELS, VOC_LISTS.partition("/")[0]}
    return _dataset(root, classes, splits, notes, beside(root, used))
