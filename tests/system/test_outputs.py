"""Output files: regular files are replaced atomically, others written to or refused."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import run
from PIL import Image

from cconvnet.system import outputs
from cconvnet.system.outputs import OutputError, check_output, write_json, write_output

ROOT = os.geteuid() == 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- one file ------------------------------------------------------------------------------------------


def test_a_new_file_and_an_old_one(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for value in ({"one": 1}, [2]):
        check_output(file, "json")
        write_json(file, value)
        assert json.loads(file.read_text()) == value
    assert names(tmp_path) == ["a.json"]


def test_permissions_and_owner_stay(tmp_path: Path) -> None:
    file = tmp_path / "private.json"
    file.write_text("{}")
    file.chmod(0o640)
    if ROOT:
        os.chown(file, 1234, 2345)
    before = file.stat()
    check_output(file, "json")
    write_json(file, [])
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_mtime_ns >= before.st_mtime_ns and file.read_text() == "[]\n"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, middle, link = tmp_path / "far" / "real.json", tmp_path / "middle", tmp_path / "link.json"
    middle.symlink_to("far/real.json")
    link.symlink_to(middle)
    if there:
        target.write_text("{}")
    check_output(link, "json")
    write_json(link, [1])
    assert link.is_symlink() and middle.is_symlink() and json.loads(target.read_text()) == [1]
    assert names(tmp_path) == ["far", "link.json", "middle"] and names(tmp_path / "far") == ["real.json"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_output(pipe, "json")
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_json(pipe, {"a": 2})
    reader.join(20)
    assert json.loads(read[0]) == {"a": 2}
    assert stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ["pipe"]
    assert not outputs.is_plain(pipe) and outputs.is_plain(tmp_path / "other")


@pytest.mark.parametrize("name", ["null", "full"])
def test_a_device_is_written_to(name: str, tmp_path: Path) -> None:
    device = tmp_path / name
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, Path(f"/dev/{name}").stat().st_rdev)
        os.close(os.open(device, os.O_WRONLY))
    except OSError:
        device.unlink(missing_ok=True)
        device.symlink_to(f"/dev/{name}")
    check_output(device, "json")
    if name == "null":
        write_json(device, [])
    else:
        with pytest.raises(OSError, match="No space left") as caught:
            write_json(device, [])
        assert caught.value.filename == str(device)
    assert stat.S_ISCHR(device.stat().st_mode) and names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_names(name: str, tmp_path: Path) -> None:
    """The file behind it is neither replaced nor overwritten from its beginning."""
    program = (
        "import sys; from pathlib import Path; from cconvnet.system.outputs import *\n"
        "name = sys.argv[1]; print('before'); check_output(name, 'json')\n"
        "write_json(Path(name), [1]); print('after')"
    )
    out = tmp_path / "out"
    with out.open("w") as file:
        print("first", file=file, flush=True)
        subprocess.run([sys.executable, "-c", program, name], stdout=file, check=True, timeout=60)
    assert out.read_text().split() == ["first", "before", "[", "1", "]", "after"]


def test_a_descriptor_that_is_open_for_reading(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch()
    with file.open("rb") as opened, pytest.raises(OutputError, match="open for reading only"):
        check_output(f"/dev/fd/{opened.fileno()}")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def make_circle(path: Path) -> None:
    path.symlink_to(path.name)


def make_picture(path: Path) -> None:
    Image.new("RGB", (4, 4)).save(path, "JPEG")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_folder, "it is a folder"),
        (make_socket, "is not a file, a named pipe or"),
        (make_circle, "Too many levels of symbolic links"),
        (make_picture, "already exists and is not a json file"),
    ],
)
def test_what_is_refused_before_the_work(
    make: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "there"
    make(Path("there"))  # type: ignore[operator]
    before = os.lstat(path)
    with pytest.raises(OutputError, match=words):
        check_output(path, "json")
    assert names(tmp_path) == ["there"] and os.lstat(path).st_ino == before.st_ino


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is empty"),
        ("no/such/a.json", "there is no folder no/such"),
        ("file/a.json", "file is not a folder|Not a directory"),
        ("x" * 256, "File name too long"),
        ("dangling", "there is no folder"),
    ],
)
def test_names_that_cannot_be(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("gone/a.json")
    with pytest.raises(OutputError, match=words):
        check_output(name)
    assert names(tmp_path) == ["dangling", "file"]


def test_the_longest_name(tmp_path: Path) -> None:
    file = tmp_path / ("é" * 120 + "x" * 10 + ".json")
    assert len(os.fsencode(file.name)) == 255
    check_output(file, "json")
    write_json(file, [])
    assert names(tmp_path) == [file.name]


@pytest.mark.parametrize(
    ("kind", "content", "is_one"),
    [
        ("json", b' \n{"a": 1}', True),
        ("json", b"name,error\n", False),
        ("png", b"\x89PNG\r\n\x1a\n", True),
        ("png", b"\xff\xd8\xff", False),
        ("html", b"<!DOCTYPE html><title>", True),
        ("html", b"{}", False),
        ("svg", b"<?xml version='1.0'?><svg", True),
        ("pdf", b"%PDF-1.7", True),
        ("json", b"", True),
        ("eps", b"anything", True),
    ],
)
def test_only_files_of_the_same_kind_are_replaced(
    kind: str, content: bytes, is_one: bool, tmp_path: Path
) -> None:
    file = tmp_path / "there"
    file.write_bytes(content)
    if is_one:
        check_output(file, kind)
    else:
        with pytest.raises(OutputError, match="already exists"):
            check_output(file, kind)
    assert file.read_bytes() == content


def test_what_belongs_to_a_run_or_to_data(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name, whose in (("config.json", "run"), ("state.json", "run"), ("dataset.json", "data")):
        (tmp_path / name).write_text("{}")
        with pytest.raises(OutputError, match=f"belongs to the {whose}"):
            check_output(tmp_path / name, "json")
    (tmp_path / "mine.json").write_text("{}")
    check_output(tmp_path / "mine.json", "json")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """Folder in which no file can be created, with an old file that can be written to."""
    folder = tmp_path / "locked"
    folder.mkdir()
    if not ROOT:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("no read-only folder can be made here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=60)


def test_a_folder_that_cannot_be_written(locked: Path) -> None:
    with pytest.raises(OutputError, match=r"Read-only file system|Permission denied"):
        check_output(locked / "a.json")
    with pytest.raises(OSError, match=r"Read-only file system|Permission denied") as caught:
        outputs.check_folder(locked / "new" / "run")
    assert caught.value.filename == str(locked / "new" / "run")


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    for name, words in (
        ("file/run", "Not a directory"),
        ("link", "link to a file that does not exist"),
        ("link/run", "does not exist"),
    ):
        with pytest.raises(OSError, match=words):
            outputs.check_folder(tmp_path / name)
    outputs.check_folder(tmp_path / "new" / "run")
    assert names(tmp_path) == ["file", "link"]


def test_a_file_in_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is overwritten once the new content is complete."""
    file = tmp_path / "a.json"
    file.write_text("[1, 2, 3]")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    check_output(file, "json")
    with pytest.raises(ZeroDivisionError), outputs.replacing(file) as descriptor:
        os.write(descriptor, b"half")
        raise ZeroDivisionError
    assert file.read_text() == "[1, 2, 3]"
    inode = file.stat().st_ino
    write_json(file, [])
    assert file.read_text() == "[]\n" and file.stat().st_ino == inode and names(tmp_path) == ["a.json"]


def test_a_file_that_is_a_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers: no other file can take its name."""
    file = tmp_path / "a.json"
    file.write_text("{}")

    def busy(self: Path, target: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", busy)
    write_json(file, [1])
    assert json.loads(file.read_text()) == [1] and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_no_litter_of_a_failure(error: BaseException, tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise error

    for file in (tmp_path / "new", tmp_path / "old"):
        if file.name == "old":
            file.write_bytes(b"as it was")
        with pytest.raises(type(error)):
            write_output(file, pieces())
    assert names(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"as it was"


# ---- every command --------------------------------------------------------------------------------------

_JSON = [
    ("describe", "--net", "lenet"),
    ("describe", "--compare", "alexnet", "alexnet-2012"),
    ("gradcheck",),
    ("doctor",),
    ("runs", "nowhere"),
    ("compare", "nowhere", "nowhere"),
    ("evaluate", "--run", "nowhere"),
    ("predict", "--run", "nowhere", "a.png"),
    ("data", "inspect"),
    ("plot", "timeline", "--net", "lenet"),
    *(("bench", name) for name in ("kernels", "step", "roofline", "scaling", "checkpoint", "data")),
]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """Return a function that runs a command, which must exit with 2, and returns its message."""
    from cconvnet import cli

    def given(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["cconvnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code == 2, said
        assert said.out == "" and "Traceback" not in said.err
        return said.err

    return given


@pytest.mark.parametrize("command", _JSON, ids=" ".join)
def test_every_command_checks_its_json_first(command: tuple[str, ...], refuse, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder, picture = tmp_path / "folder", tmp_path / "cat.jpg"
    folder.mkdir()
    make_picture(picture)
    before = picture.read_bytes()
    assert f"error: {folder} cannot be written: it is a folder" in refuse(*command, "--json", folder)
    assert "there is no folder" in refuse(*command, "--json", tmp_path / "no" / "a.json")
    assert "already exists" in refuse(*command, "--json", picture)
    assert "is empty" in refuse(*command, "--json", "")
    assert names(tmp_path) == ["cat.jpg", "folder"] and picture.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "suffix"),
    [
        (("bench", "kernels", "--plot"), ".png"),
        (("bench", "step", "--plot"), ".png"),
        (("bench", "roofline", "--stack"), ".svg"),
        (("bench", "scaling", "--plot"), ".pdf"),
        (("bench", "data", "--plot"), ".png"),
        (("plot", "timeline", "--net", "lenet", "--out"), ".png"),
        (("plot", "timeline", "--net", "lenet", "--trace"), ".json"),
        (("plot", "curve", "nowhere", "--out"), ".png"),
        (("plot", "filters", "nowhere", "--out"), ".png"),
        (("plot", "predictions", "nowhere", "--out"), ".png"),
        (("plot", "activations", "nowhere", "--out"), ".png"),
        (("data", "inspect", "--sheet"), ".jpg"),
        (("augment", "--out"), ".png"),
        (("report", "nowhere", "--out"), ".html"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_every_command_checks_its_pictures_first(  # type: ignore[no-untyped-def]
    command: tuple[str, ...], suffix: str, refuse, tmp_path: Path
) -> None:
    folder, notes = tmp_path / f"folder{suffix}", tmp_path / f"notes{suffix}"
    folder.mkdir()
    notes.write_text("mine")
    assert re.search("it is a folder", refuse(*command, folder))
    assert re.search("there is no folder", refuse(*command, tmp_path / "no" / f"a{suffix}"))
    assert re.search("already exists", refuse(*command, notes))
    assert names(tmp_path) == sorted([folder.name, notes.name]) and notes.read_text() == "mine"


def test_a_result_goes_down_a_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    done = run("describe", "--device", "cpu:0", "--json", pipe)
    reader.join(20)
    assert done.returncode == 0, done.stderr
    assert json.loads(read[0])["net"] == "lenet" and names(tmp_path) == ["pipe"]


def test_a_result_that_cannot_be_written_is_printed(small_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("L", (28, 28), 200).save(picture)
    done = run("predict", "--run", small_run, picture, "--device", "cpu:0", "--json", "/dev/full")
    assert done.returncode == 1 and "error: /dev/full: No space left on device" in done.stderr
    assert "probability" in done.stdout and str(picture) in done.stdout
