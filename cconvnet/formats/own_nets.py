"""Networks in files of the user's own: Python that builds one, and JSON that describes one.

A Python file is run, as ``python FILE`` would run it. It defines ``build(image_shape, classes)``, which makes
the network for the images and classes of the data, or ``net``, a network of one size:

    import cconvnet as cc

    def build(image_shape=(32, 32, 3), classes=10):
        x = cc.image(*image_shape).conv(32, 5, pad=2).relu().maxpool(3, 2)
        return x.mean().fc(classes).softmax(name="mine")

``image_shape`` is (H, W, C) of the stored images, before any crop. Modules in the file's folder can be
imported. Nothing is written beside the file.

A JSON file is one that ``cconvnet describe --json`` wrote, a run's ``config.json``, or the description of a
network alone (:func:`cconvnet.nets.spec_to_dict`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from cconvnet.nets import NetSpec, Value, spec_from_dict

MAX_JSON_BYTES = 16 << 20  # of a description; AlexNet's has 10 kB
_CLASSES = 10  # of a network that is built without data, if its function asks for a number


class NetFileError(ValueError):
    """A file of a network that cannot be used; the text names the file, and the line of Python."""


def read_json(path: Path) -> NetSpec:
    """Read a network from a JSON file.

    Raises:
        NetFileError: It contains no network.
        OSError: It cannot be read.
    """
    _check_file(path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise NetFileError(f"{path}: larger than {MAX_JSON_BYTES >> 20} MiB, so it is no network")
    try:
        values = json.loads(path.read_bytes())
        if isinstance(values, dict):
            spec = spec_from_dict(values.get("spec", values))
            spec.table()  # refuses layers that do not fit each other
            return spec
    except (TypeError, AttributeError, KeyError, RecursionError) as error:
        raise NetFileError(f"{path}: no description of a network: {error}") from error
    except ValueError as error:
        raise NetFileError(f"{path}: {error}") from error
    raise NetFileError(f"{path}: no description of a network, which is an object")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise NetFileError(f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}")


class PythonFile:
    """A Python file that has been run.

    Attributes:
        path: Of the file.
        net: The network of one size that it defines; None if it defines ``build``.
    """

    def __init__(self, path: Path) -> None:
        """Run a file.

        Raises:
            NetFileError: The file failed, or defines no network.
        """
        self.path = path
        _check_file(path)
        loader = SourceFileLoader(f"cconvnet_net_{path.stem}", str(path))
        spec = importlib.util.spec_from_loader(loader.name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        with self._run():
            loader.exec_module(module)
        self._build: Callable[..., Any] | None = getattr(module, "build", None)
        self.net: NetSpec | None = None
        if self._build is None:
            if not hasattr(module, "net"):
                raise NetFileError(f"{path}: defines neither net nor build(image_shape, classes)")
            self.net = self._checked(module.net, "net")
        elif not callable(self._build):
            raise NetFileError(f"{path}: build must be a function, not {self._build!r}")

    def build(self, image_shape: tuple[int, int, int] | None, classes: int | None) -> NetSpec:
        """Call the file's ``build``.

        Args:
            image_shape: (H, W, C) of the stored images; None leaves it to the function's default.
            classes: How many labels there are; None likewise. A function without a default gets 10.

        Raises:
            NetFileError: The function failed, or needs an image_shape.
        """
        assert self._build is not None
        given: dict[str, Any] = {"image_shape": image_shape, "classes": classes}
        given = {name: value for name, value in given.items() if value is not None}
        signature = inspect.signature(self._build)
        parameters = signature.parameters
        if "classes" in parameters and parameters["classes"].default is inspect.Parameter.empty:
            given.setdefault("classes", _CLASSES)
        shape = parameters.get("image_shape")
        if shape is not None and shape.default is shape.empty and "image_shape" not in given:
            raise NetFileError(f"{self.path}: build needs image_shape: give it a default, or use --size")
        try:
            signature.bind(**given)
        except TypeError as error:
            raise NetFileError(
                f"{self.path}: build must take image_shape and classes by these names: {error}"
            ) from None
        with self._run():
            made = self._build(**given)
        return self._checked(made, "build()")

    def square(self, size: int) -> tuple[int, int, int]:
        """Return the shape of square images, with as many channels as in the default of ``build``; else 3."""
        parameter = inspect.signature(self._build).parameters.get("image_shape") if self._build else None
        match parameter.default if parameter else None:
            case (_, _, int(channels)):
                return size, size, channels
        return size, size, 3

    def _checked(self, made: Any, what: str) -> NetSpec:
        """Return what the file made, if it is a network."""
        if isinstance(made, NetSpec):
            with self._run():
                made.table()
            return made
        hint = "; .softmax() ends a network" if isinstance(made, Value) else ""
        raise NetFileError(f"{self.path}: {what} must be a NetSpec, not {made!r}{hint}")

    @contextlib.contextmanager
    def _run(self) -> Iterator[None]:
        """Run the user's code: its folder can be imported from, and its errors name its own lines."""
        folder, before, modules = self.path.absolute().parent, sys.dont_write_bytecode, set(sys.modules)
        sys.dont_write_bytecode = True
        sys.path.append(str(folder))  # the last, so that it hides no installed package
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is the command's
                yield
        except (Exception, SystemExit) as error:
            raise NetFileError(_explained(self.path, error)) from error
        finally:
            sys.dont_write_bytecode = before
            sys.path.reverse()  # the last of equal folders is ours
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))
            sys.path.reverse()
            # Another file may have a neighbour of the same name, and this one's may be edited.
            for name in set(sys.modules) - modules:
                if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
                    del sys.modules[name]


def _explained(path: Path, error: BaseException) -> str:
    """Return the text of an error in the user's file: the line, and what was wrong there."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        file, number, source, text = error.filename, error.lineno, (error.text or "").strip(), error.msg
    else:
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if _is_own(frame.filename, path.absolute().parent)
        ]
        file, number, source = str(path), None, ""
        if own:
            file, number, source = own[-1].filename, own[-1].lineno, own[-1].line or ""
        text = str(error)
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    where = f"{file}:{number}" if number else file
    return f"{where}: {kind}{text}" + (f"\n    {source}" if source else "")


def _is_own(file: str, folder: Path) -> bool:
    """Return whether a frame's file is the user's: in the folder, but neither ours nor an installed one."""
    path = Path(file)
    return (
        not file.startswith("<")  # "<frozen importlib._bootstrap>"
        and path.absolute().is_relative_to(folder)
        and not path.is_relative_to(Path(__file__).parents[1])
        and "site-packages" not in path.parts
    )
