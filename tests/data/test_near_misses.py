"""Folders that nearly have a layout: the error names the contents and the remedy."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from data.test_labels import make_mnist
from helpers.commands import run as cconvnet
from helpers.made_pictures import encoded, make_folder, photo
from helpers.tar_files import samples, shard

from cconvnet.data import DataError, datasets

JPEG = encoded(photo(8, 8, 1))
LABELS = [0, 1, 2] * 5


def put(root: Path, *names: str) -> Path:
    """Files of these names, pictures if they are called so."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG if name.lower().endswith(("jpg", "jpeg")) else b"")
    return root


def classes(*folders: str, names: str = "ab") -> list[str]:
    return [f"{folder}/{name}/{number}.jpg" for folder in folders for name in names for number in "012"]


def nested(inner: Callable[[Path], object], where: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        (root / where).parent.mkdir(parents=True, exist_ok=True)
        inner(root / where)

    return make


def files(*names: str) -> Callable[[Path], object]:
    return lambda root: put(root, *names)


def renamed_mnist(change: Callable[[str], str]) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        make_mnist(root, LABELS, [0, 1, 2])
        for file in list(root.iterdir()):
            file.rename(root / change(file.name))

    return make


MISSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (
        lambda root: root.mkdir(),
        r"no class folders with pictures; a data folder is one of.*It is empty",
    ),
    "flat": (files("1.jpg", "2.JPEG"), r"2 pictures are in it directly, such as 1\.jpg.*set/CLASS/\*\.jpg"),
    "CamVid": (
        files("train/1.jpg", "trainannot/1.png", "val/2.jpg", "valannot/2.png"),
        r"label images in folders of other names: move train to train/images, trainannot to train/labels, "
        r"val to test/images, valannot to test/labels$",
    ),
    "ADE20K": (
        files("images/training/1.jpg", "annotations/training/1.png"),
        r"move images/training to train/images, annotations/training to train/labels$",
    ),
    "flat train": (
        files("train/1.jpg", "test/2.jpg", "labels.csv"),
        r"set/train has .*: 1 pictures are in it directly.*set/train/CLASS",
    ),
    "a class called train": (
        files("train/1.jpg", "car/1.jpg", "ship/1.jpg"),
        r"If train itself is a class, move all classes into .*set/train",
    ),
    "training": (files(*classes("training", "testing")), r"rename training to train and testing to test"),
    "capitals": (files(*classes("Train", "Val")), r"rename Train to train and Val to test"),
    "training and val": (files(*classes("Training_Set", "val")), r"rename Training_Set to train$"),
    "words without classes": (
        files("training/1.jpg", "testing/2.jpg"),
        r"has testing, training, whose pictures are in no class folders: put them into train/CLASS",
    ),
    "test alone": (files(*classes("test")), r"has test but no train; give .*set/test itself"),
    "classes first": (
        files("cat/train/1.jpg", "cat/test/2.jpg", "dog/train/1.jpg", "dog/test/2.jpg"),
        r"has cat/train and cat/test: the split comes first.*train/cat and test/cat",
    ),
    "a level more": (nested(files(*classes("train", "test")), "x"), r"give .*set/x$"),
    "three levels more": (
        nested(files(*classes("train")), "ILSVRC/Data/CLS-LOC"),
        r"CLS-LOC has \(train/CLASS/\*\): give .*set/ILSVRC/Data/CLS-LOC$",
    ),
    "a level more, other words": (nested(files(*classes("Train", "Test")), "v1"), r"give .*set/v1$"),
    "mnist below": (
        nested(lambda root: make_mnist(root, LABELS), "MNIST/raw"),
        r"raw has \(MNIST's files\): give .*set/MNIST/raw$",
    ),
    "classes below a folder": (
        files(*classes("PetImages")),
        r"has one class folder alone, PetImages.*give .*set",
    ),
    "classes below a folder of train": (
        files(*classes("train/images")),
        r"one class folder alone, images.*a, b.*move them from .*train/images to .*train$",
    ),
    "ilsvrc": (
        files(*classes("train"), *(f"val/ILSVRC2012_val_0000000{n}.JPEG" for n in "123"), "test/1.JPEG"),
        r"set/val has 3 pictures, but in no class folders.*LOC_val_solution\.csv.*devkit_t12",
    ),
    "flat test": (
        files(*classes("train"), "test/1.jpg"),
        r"set/test has 1 pictures, but in no class folders, such as 1\.jpg.*or move .*test away",
    ),
    "empty test": (
        files(*classes("train"), "val/a/notes.txt"),
        r"set/val has no class folders with pictures, but a\. Put .*move .*val away",
    ),
    "other kinds": (
        files("a/1.webp", "a/2.bmp", "b/1.webp"),
        r"its 3 pictures are \.bmp, \.webp, which are not read; make JPEGs or PNGs",
    ),
    "other kinds in train": (files("train/a/1.gif"), r"train has .*its 1 pictures are \.gif, which"),
    "something else": (
        files("data-00.parquet", "data-01.parquet", "dataset_info.json"),
        r"it contains data-00\.parquet, .*2 \.parquet, 1 \.json\); a data folder is one of",
    ),
    "cifar-100": (files("train", "test", "meta", "file.txt~"), r"has CIFAR-100's files, .*train/CLASS"),
    "cifar-100 binary": (files("train.bin", "test.bin", "fine_label_names.txt"), r"has CIFAR-100's files"),
    "cifar packed": (
        files("cifar-10-python.tar.gz"),
        r"not unpacked\. Use: tar -xf .*cifar-10-python\.tar\.gz",
    ),
    "a zip": (files("photos.zip"), r"photos\.zip, which is not unpacked\. Use: unzip "),
    "class tars": (
        lambda root: [put(root)] and shard_in(root, "n01440764.tar"),
        r"has the tars of 1 classes that belong in ILSVRC2012_img_train\.tar.*mkdir -p train/n01440764 && "
        "tar",
    ),
    "emnist": (
        renamed_mnist(lambda name: f"emnist-letters-{name.replace('t10k', 'test')}"),
        r"rename emnist-letters-test-images-idx3-ubyte to t10k-images-idx3-ubyte",
    ),
    "mnist in capitals": (
        renamed_mnist(str.upper),
        r"rename T10K-IMAGES-IDX3-UBYTE to t10k-images-idx3-ubyte",
    ),
    "mnist with underscores": (
        renamed_mnist(lambda name: name.replace("-", "_")),
        r"rename .*train_images_idx3_ubyte to train-images-idx3-ubyte",
    ),
    "imagenet's tar renamed": (
        files("ilsvrc2012-img-train.tar.part"),
        r"it contains ilsvrc2012-img-train\.tar\.part",
    ),
}


def shard_in(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return shard(root / name, samples([0, 1]))


@pytest.mark.parametrize("name", MISSES)
def test_a_near_miss_is_named(tmp_path: Path, name: str) -> None:
    make, what = MISSES[name]
    make(tmp_path / "set")
    with pytest.raises(DataError, match=f"(?s){what}") as caught:
        datasets.open_dataset(tmp_path / "set")
    specific = name not in ("empty", "something else", "imagenet's tar renamed")
    assert ("a data folder is one of" in str(caught.value)) != specific


@pytest.mark.parametrize("change", [".idx", "folder", "packed"])
def test_files_of_mnist_as_programs_unpack_them_are_read(tmp_path: Path, change: str) -> None:
    import gzip

    root = make_mnist(tmp_path / "set", LABELS, [0, 1, 2])
    for file in list(root.iterdir()):
        content, name = file.read_bytes(), file.name.replace("-idx", ".idx")
        file.unlink()
        if change == "folder":
            (root / file.name).mkdir()
            (root / file.name / file.name).write_bytes(content)
        elif change == "packed":
            (root / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (root / name).write_bytes(content)
    dataset = datasets.open_dataset(root)
    assert dataset.kind == "mnist" and not len(dataset.beside)
    assert dataset.train.labels.tolist() == LABELS and dataset.test is not None


def test_what_is_no_miss_stays(tmp_path: Path) -> None:
    """Archives beside what was unpacked, classes with pictures in folders, classes with words for names."""
    put(tmp_path, *classes("."), "photos.zip", "a/more/3.jpg", "val/1.jpg")
    dataset = datasets.open_dataset(tmp_path)
    assert dataset.classes == ["a", "b", "val"] and len(dataset.train) == 8
    one = put(tmp_path / "one", *classes("train", names="a"))
    assert "all training pictures are of one class, a" in datasets.open_dataset(one).notes


def test_the_commands_for_ilsvrc_sort_its_pictures(tmp_path: Path) -> None:
    root = put(tmp_path / "a set", *classes("train", names=""), "train/n01/1.jpg", "train/n02/1.jpg")
    put(root, "val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000002,n01 85 1 499 272 \n"
        "ILSVRC2012_val_00000001,n02 1 2 3 4 n02 5 6 7 8 \n"
    )
    with pytest.raises(DataError) as caught:
        datasets.open_dataset(root)
    first, second = (line for line in str(caught.value).splitlines() if line.startswith("  "))
    subprocess.run(["bash", "-c", f"{first}\n{second}"], check=True, timeout=30)
    dataset = datasets.open_dataset(root)
    assert dataset.test is not None and dataset.test.labels.tolist() == [0, 1]
    assert [Path(name).name[15:23] for name in dataset.test.names] == ["00000002", "00000001"]


# ---- paths ------------------------------------------------------------------------------------------------


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    put(tmp_path / "Photos", *classes("train"))
    make_mnist(tmp_path / "mnist", LABELS)
    put(tmp_path, "one.jpg", "photos.zip", "notes.txt")
    put(tmp_path / "tars", "photos.tar.gz")
    (tmp_path / "loop").symlink_to("loop")
    for path, what in {
        "photos": rf"there is {tmp_path / 'Photos'}$",
        "fotos": rf"there is {tmp_path / 'Photos'}$",
        "Photos/train/c/d": rf"{tmp_path / 'Photos/train'} has no c$",
        "Photos/trian": rf"there is {tmp_path / 'Photos/train'}$",
        "loop": "is a link to nothing or to itself",
        "mnist/train-images-idx3-ubyte": f"is beside MNIST's files: give {tmp_path / 'mnist'}$",
        "one.jpg": "is one picture, not a folder",
        "tars/photos.tar.gz": r"not a folder; unpack it first, with: tar -xf .*photos\.tar\.gz",
        "photos.zip": r"with: unzip .*photos\.zip",
        "notes.txt": "is not a folder; .*a data folder is one of",
    }.items():
        with pytest.raises(DataError, match=f"(?s){what}"):
            datasets.open_dataset(tmp_path / path)


def test_a_folder_comes_before_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert datasets.open_dataset("digits").kind == "digits"
    make_folder(Path("digits"), {"train": {"ant": 4, "bee": 4}}, (8, 8))
    dataset = datasets.open_dataset("digits")
    assert dataset.classes == ["ant", "bee"] and any(
        "the folder ./digits is used" in n for n in dataset.notes
    )
    assert datasets.open_dataset(None).kind == "digits"
    Path("digits/train").rename("elsewhere")
    with pytest.raises(DataError, match=r"(?s)It is empty.*this is the folder \./digits; the embedded"):
        datasets.open_dataset("digits")


def test_a_run_keeps_which_digits_were_meant(tmp_path: Path) -> None:
    options = ("--batch", "64", "--steps", "1", "--device", "cpu:0")
    assert cconvnet("train", "--data", "digits", *options, "--out", "embedded", cwd=tmp_path).returncode == 0
    make_folder(tmp_path / "digits", {"train": {"ant": 80}, "test": {"ant": 4}}, (28, 28))
    assert cconvnet("train", "--data", "digits", *options, "--out", "own", cwd=tmp_path).returncode == 0
    for run, images in (("embedded", "10 classes"), ("own", "1 class")):
        steps = ("--steps", "2", "--device", "cpu:0")
        done = cconvnet("train", "--resume", tmp_path / run, *steps, cwd=tmp_path)
        assert done.returncode == 0 and f"of {images}\n" in done.stdout, done.stdout + done.stderr
        assert "other pictures" not in done.stdout
    done = cconvnet("evaluate", "--run", "embedded", cwd=tmp_path)
    assert "of 10 classes\n" in done.stdout
