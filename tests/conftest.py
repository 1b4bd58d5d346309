"""Fixtures of all tests: `device` runs a test on the CPU, on the emulator and, where there is one, on a GPU.

With `precision` it also runs in every precision of the device's products, with `element` on arrays of floats
and of bfloat16s.

`--device cuda:0` (may be repeated) or CCONVNET_TEST_DEVICES=cuda:0,emulator:0 chooses other devices.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import subprocess
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from helpers import durations
from helpers.real_data import real_data

from cconvnet.devices import (
    PRECISIONS,
    CudaDevice,
    Device,
    DeviceUnavailable,
    get_device,
    import_cupy,
    present_devices,
)
from cconvnet.devices.counting import counting_module
from cconvnet.devices.cuda import Pinned
from cconvnet.ops.call import Call

# The same examples in every run, however long the machine takes for one.
hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")

# Tests started with `nohup`, or in the background of a script, ignore signals, and so would every process
# they start. A signal with a handler, unlike one that is ignored, has its default action in a new process.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _signal in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda number, frame: None)


def _nan_filled(make: Any) -> Any:
    @functools.wraps(make)
    def made(self: Any, shape: Sequence[int] | int, dtype: Any = np.float32) -> Any:
        array = make(self, shape, dtype)
        if type(array) in (np.ndarray, Pinned):
            array.reshape(-1).view(np.uint8)[...] = 0xFF
        elif hasattr(array, "__cuda_array_interface__"):  # an array of CuPy itself: fakes fill their own
            # In the stream whose memory it is: the device's, or the caller's of an operation.
            owners = (self.ordered(), self) if isinstance(self, Device) else (self.device.selected(),)
            with contextlib.ExitStack() as stack:
                for owner in owners:
                    stack.enter_context(owner)
                array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    return made


# Fresh memory contains NaN as float64, float32 and bfloat16, and -1 as an integer. A test that reads
# unwritten memory therefore fails at every run, not by chance.
for _kind in (Device, CudaDevice, Call):
    for _name in ("empty", "staging", "_new"):
        if _name in vars(_kind):
            setattr(_kind, _name, _nan_filled(getattr(_kind, _name)))

# On one GPU two logical devices stand in for two GPUs.
with contextlib.suppress(DeviceUnavailable):
    if import_cupy().cuda.runtime.getDeviceCount() == 1:
        os.environ.setdefault("CCONVNET_CUDA_DEVICES", "0,0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help=f"leave out tests that are recorded to take more than {durations.QUICK_SECONDS} s a case",
    )
    parser.addoption(
        "--record-durations",
        action="store_true",
        help="record how long each test takes, for --quick and for what `make test` announces",
    )
    parser.addoption(
        "--device",
        action="append",
        metavar="KIND:N",
        help="run the tests of the operations on this device only (may be repeated)",
    )
    parser.addoption(
        "--mutants",
        default="6",
        metavar="N|all",
        help="how many faults of the kernels test_mutation.py tries in the long run (6)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Workers of xdist report to the process that started them, which alone records.
    if config.getoption("--record-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(durations.Recorder(config.getoption("numprocesses", 0) or 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        items[:], slow = durations.leave_out_slow(items)
        config.hook.pytest_deselected(items=slow)


@functools.cache
def _device_names(asked: tuple[str, ...]) -> list[str]:
    if asked:
        return list(asked)
    if named := os.environ.get("CCONVNET_TEST_DEVICES"):
        return named.split(",")
    # One GPU is enough: a second runs the same code.
    return ["cpu:0", "emulator:0"] + [n for n in present_devices() if n == "cuda:0"]


def device_names(config: pytest.Config) -> list[str]:
    return _device_names(tuple(config.getoption("--device") or ()))


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = []
    for name in device_names(config):
        try:
            lines.append(f"{name}: {get_device(name).reason}")
        except DeviceUnavailable as error:
            lines.append(f"{name}: {error}")
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" not in metafunc.fixturenames:
        return
    names = device_names(metafunc.config)
    for argument, values in (("precision", PRECISIONS), ("element", ("fp32", "bf16"))):
        if argument in metafunc.fixturenames:
            pairs = [(name, value) for name in names for value in values if _serves(name, value)]
            metafunc.parametrize(f"device,{argument}", pairs, indirect=["device"])
            return
    metafunc.parametrize("device", names, indirect=True)


def _serves(name: str, precision: str) -> bool:
    """Return whether a device has a precision; a missing device fails its tests in fp32 alone."""
    try:
        return get_device(name).serves(precision)
    except DeviceUnavailable:
        return precision == "fp32"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skip a test that asks a CPU for bf16 which has no instructions for it."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("precision bf16 is not for cpu:") and not _serves("cpu:0", "bf16"):
            pytest.skip("this CPU has no bf16")
        raise


@pytest.fixture(scope="session")
def real() -> Path:
    """Return the folder of real data, or skip the test."""
    return real_data()


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Device:
    return get_device(request.param)


@pytest.fixture(scope="session")
def all_devices(request: pytest.FixtureRequest) -> list[Device]:
    """The devices of this run, for tests that choose among them."""
    return [get_device(name) for name in device_names(request.config)]


@pytest.fixture(scope="session")
def cpu_with_bf16() -> None:
    """Skip a test that expects another error than that of a CPU without instructions for bfloat16s."""
    if not _serves("cpu:0", "bf16"):
        pytest.skip("this CPU has no bf16")


@pytest.fixture(scope="session")
def counting_build() -> None:
    """Skip a test where the emulator that counts was not built, except in CI."""
    try:
        counting_module()
    except DeviceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system of the size in the indirect parameter ("256k"), or skip the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    except OSError as error:
        pytest.skip(f"no small file system can be made here: {error}")
    if done.returncode:
        pytest.skip(f"no small file system can be made here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=200)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete run of four short epochs, whose rate falls after the second. Do not change it."""
    from cconvnet.console import Silent
    from cconvnet.nets import LrStep
    from cconvnet.training.options import Options
    from cconvnet.training.session import train

    path = tmp_path_factory.mktemp("small") / "run"
    options = Options(devices=["cpu:0"], epochs=4, lr=0.05, lr_steps=(LrStep(2, 0.1),), log_every=5, out=path)
    train(options, Silent(io.StringIO()))
    return path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the two texts of a configuration and read them as a network of 8x8 images, with notes."""
    from cconvnet.formats.cuda_convnet import read

    monkeypatch.chdir(tmp_path)

    def read_texts(layers: str, params: str, **options: Any) -> Any:
        Path("layers.cfg").write_text(layers)
        Path("params.cfg").write_text(params)
        return read(Path("layers.cfg"), Path("params.cfg"), **{"image_shape": (8, 8, 3), **options})

    return read_texts
