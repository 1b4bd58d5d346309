"""Free memory: control groups of both versions, other limits, and the needs of networks."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import run
from helpers.training import made_settings

from cconvnet import nets
from cconvnet.devices import Device, get_device
from cconvnet.devices import memory as device_memory
from cconvnet.network import Network, footprint
from cconvnet.network.footprint import Plan
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World
from cconvnet.system import memory
from cconvnet.system.memory import Free, NotEnoughMemory
from cconvnet.training.options import Options
from cconvnet.training.preparation import make_network

MB = 10**6
MEMINFO = "MemTotal: 8000000 kB\nMemFree: 100 kB\nMemAvailable: 6000000 kB\nSwapFree: {swap} kB\n"
V1 = "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 {top} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"


class Tree:
    """Fake of /proc and /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", MEMINFO.format(swap=0))
        self.write("proc/self/statm", "1000 1 1 1 0 1 0\n")

    def write(self, name: str, text: object) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(f"{text}")

    def groups(self, groups: str, mounts: str) -> None:
        self.write("proc/self/cgroup", groups)
        self.write("proc/self/mountinfo", "garbage\n" + mounts)

    def v1(self, group: str, limit: int, used: int, cache: int = 0, hierarchy: int = 1) -> None:
        folder = f"sys/fs/cgroup/memory{group}"
        self.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{used}\n")
        self.write(f"{folder}/memory.use_hierarchy", f"{hierarchy}\n")
        self.write(
            f"{folder}/memory.stat", f"cache 1\ntotal_inactive_file {cache}\ntotal_active_file {cache}\n"
        )

    def v2(self, group: str, limit: object, used: int, cache: int = 0) -> None:
        folder = f"sys/fs/cgroup{group}"
        self.write(f"{folder}/memory.max", f"{limit}\n")
        self.write(f"{folder}/memory.current", f"{used}\n")
        text = f"anon 5\ninactive_file {cache}\nactive_file {cache}\nslab_reclaimable {cache}\n"
        self.write(f"{folder}/memory.stat", text)

    @property
    def free(self) -> int:
        found = memory.host(self.root)
        assert found is not None
        return found.free


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_without_groups_the_machine_is_all(tree: Tree) -> None:
    assert memory.host(tree.root) == Free(6_144_000_000, 8_192_000_000)
    tree.write("proc/meminfo", MEMINFO.format(swap=1000))
    found = memory.host(tree.root)
    assert found is not None and (found.free, found.fast) == (6_145_024_000, 6_144_000_000)


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert memory.host(tmp_path) is None


def test_version_1(tree: Tree) -> None:
    tree.groups("5:cpu:/\n4:memory:/docker/a\n0::/\n", V1.format(top="/"))
    tree.v1("", 9223372036854771712, 7 * 10**9)  # the root has no limit
    tree.v1("/docker", 2000 * MB, 1500 * MB, cache=50 * MB)
    tree.v1("/docker/a", 900 * MB, 100 * MB, cache=20 * MB)
    # The group around it leaves less than its own.
    assert tree.free == (2000 - 1500 + 2 * 50) * MB
    assert "the 2,000 MB that this process's control group allows" in str(memory.host(tree.root))
    tree.v1("/docker", 2000 * MB, 1500 * MB, cache=50 * MB, hierarchy=0)  # counts its own processes alone
    assert tree.free == (900 - 100 + 2 * 20) * MB


def test_version_1_within_a_container(tree: Tree) -> None:
    """The mounted folder is the container's own group, under its name outside."""
    tree.groups("4:memory,hugetlb:/docker/a/inner\n", V1.format(top="/docker/a"))
    tree.v1("", 800 * MB, 100 * MB)
    tree.v1("/inner", 9223372036854771712, 100 * MB)
    assert tree.free == 700 * MB
    tree.groups("4:memory:/\n", V1.format(top="/docker/a"))  # a name space of its own
    assert tree.free == 700 * MB
    tree.groups("4:memory:/elsewhere/b\n", V1.format(top="/docker/a"))
    assert tree.free == 700 * MB


def test_version_2(tree: Tree) -> None:
    tree.groups("0::/slice/job\n", V2.format(top="/"))
    tree.v2("/slice", "max", 4 * 10**9)
    tree.v2("/slice/job", 500 * MB, 450 * MB, cache=10 * MB)
    assert tree.free == 80 * MB
    tree.v2("/slice", 4000 * MB, 3990 * MB)
    assert tree.free == 10 * MB
    tree.v2("/slice", 4000 * MB, 4100 * MB)
    assert tree.free == 0


def test_swap_counts_as_far_as_a_group_may_swap(tree: Tree) -> None:
    tree.write("proc/meminfo", MEMINFO.format(swap=100_000))
    tree.groups("0::/job\n", V2.format(top="/"))
    tree.v2("/job", 500 * MB, 400 * MB)
    assert tree.free == 100 * MB + 102_400_000
    tree.write("sys/fs/cgroup/job/memory.swap.max", 30 * MB)
    tree.write("sys/fs/cgroup/job/memory.swap.current", 10 * MB)
    assert tree.free == 120 * MB
    found = memory.host(tree.root)
    assert found is not None and found.fast == 100 * MB


def test_groups_that_cannot_be_read(tree: Tree) -> None:
    tree.groups("0::/job\nnonsense\n4:memory:/a\n", V2.format(top="/") + V1.format(top="/"))
    tree.write("sys/fs/cgroup/job/memory.max", "nonsense")
    tree.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", 10)
    assert tree.free == 6_144_000_000


def test_address_space(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (500 * MB, 10**12))
    assert tree.free == 500 * MB - 1000 * resource.getpagesize()
    assert "ulimit -v" in str(memory.host(tree.root))


# ---- networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", ["cpu:0", "cpu:0,cpu:1", "emulator:0,emulator:1", "reference:0"])
@pytest.mark.parametrize("products", ["fp32", "bf16"])
def test_a_plan_is_what_the_network_takes(places: str, products: str) -> None:
    if places == "reference:0" and products == "bf16":
        pytest.skip("the reference has no bf16")
    spec = nets.build("alexnet-2012", image_shape=(80, 80, 3), classes=10)
    options = {"batch": 3, "devices": places.split(","), "precision": products}
    for one in (spec, nets.build("cifar-11pct")):
        if "," in places and one is not spec:
            continue  # it lives on one device
        plan = Plan(one, **options)  # type: ignore[arg-type]
        network = Network(one, **options)  # type: ignore[arg-type]
        needs = plan.needs()
        assert needs.training == network.memory
        assert plan.describe() == network.describe()
        assert all(0 < needs.forward[name] <= count for name, count in needs.training.items())
        pieces = [piece for parameter in network.parameters.values() for piece in parameter.pieces]
        assert needs.state == sum(piece.value.nbytes + piece.velocity.nbytes for piece in pieces)


def limited(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    found = Free(free, 10**12, "a limit")
    monkeypatch.setattr(memory, "host", lambda: found)


def test_what_does_not_fit_is_refused_before_the_first_array(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = nets.build("lenet")
    needs = Plan(spec, batch=64, devices="cpu:0").needs()
    taken = []
    empty = Device.empty
    monkeypatch.setattr(Device, "empty", lambda *given: taken.append(given) or empty(*given))
    enough = {
        "forward": needs.forward["cpu:0"],
        "training": needs.training["cpu:0"],
        "run": needs.training["cpu:0"] + needs.state,
    }
    assert sorted(enough.values()) == list(enough.values())
    for kind, count in enough.items():
        limited(monkeypatch, count - 1)
        with pytest.raises(
            NotEnoughMemory, match=r"lenet .*batch 64 needs \d+ MB; \d+ MB are free of a limit"
        ):
            Network(spec, batch=64, devices="cpu:0", needs=kind)
        assert not taken
        limited(monkeypatch, count)
        Network(spec, batch=64, devices="cpu:0", needs=kind)
        assert taken
        taken.clear()
    limited(monkeypatch, 0)
    Network(spec, batch=64, devices="cpu:0", needs=None)


def test_devices_of_one_memory_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = nets.build("alexnet", image_shape=(80, 80, 3), classes=10)
    plan = Plan(spec, batch=2, devices=["cpu:0", "cpu:1"])
    needed = plan.needs().training
    limited(monkeypatch, sum(needed.values()) - 1)
    with pytest.raises(NotEnoughMemory):
        footprint.check(plan, "training")
    limited(monkeypatch, sum(needed.values()))
    footprint.check(plan, "training")


def test_a_gpus_memory_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is compared with the GPU's, the snapshot with the host's."""
    plan = Plan(nets.build("lenet"), batch=8, devices="cpu:0")
    needs = plan.needs()

    class Gpu:
        kind, ordinal, name = "cuda", 3, "cpu:0"

    plan.devices = [Gpu()]  # type: ignore[list-item]
    free = {"gpu": 0, "host": 0}
    monkeypatch.setattr(device_memory, "available", lambda device: Free(free["gpu"], 10**9, "cuda:3"))
    monkeypatch.setattr(memory, "host", lambda: Free(free["host"], 10**9))
    with pytest.raises(NotEnoughMemory, match="of cuda:3"):
        footprint.check(plan, "training")
    free["gpu"] = needs.training["cpu:0"]
    footprint.check(plan, "training")
    with pytest.raises(NotEnoughMemory, match="a snapshot of lenet for checkpoints needs"):
        footprint.check(plan, "run")
    free["host"] = needs.state
    footprint.check(plan, "run")


def test_only_the_rank_that_writes_needs_memory_for_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, world, devices, options = nets.build("lenet"), World.alone(), [get_device("cpu:0")], Options()
    world.size, settings = 2, made_settings(shards=2)
    enough = Plan(spec, batch=16, devices=devices, share=Share(world, 2)).needs().training["cpu:0"]
    limited(monkeypatch, enough)
    world.rank = 1
    make_network(spec, settings, devices, options, world)
    world.rank = 0
    with pytest.raises(NotEnoughMemory):
        make_network(spec, settings, devices, options, world)


def test_every_device_tells_what_is_free(device: Device) -> None:
    found = device_memory.available(device)
    assert found is not None and 0 < found.fast <= found.free and found.fast <= found.in_all


_STEPS = """
import resource
from pathlib import Path
from cconvnet import nets
from cconvnet.network.synthetic import Training
from cconvnet.network import Network
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
Training(Network(nets.build("lenet"), batch=2, devices="cpu:0")).step()
before = resident()
network = Network(nets.build("lenet", image_shape=(120, 120, 1)), batch=64, devices="cpu:0")
training = Training(network)
for _ in range(2):
    training.step()
after = resident()
print(after - before, sum(network.memory.values()))
"""


def test_what_is_planned_is_what_is_taken() -> None:
    """Compare with the resident memory of a process, which also contains oneDNN's scratch memory."""
    done = subprocess.run(
        [sys.executable, "-c", _STEPS], capture_output=True, text=True, check=True, timeout=120
    )
    taken, planned = map(int, done.stdout.split())
    assert planned > 200 * MB
    assert 0.95 * planned <= taken <= 1.3 * planned


# ---- the real thing ----------------------------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[Path]:
    """Control group of 400 MB."""
    for top, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = Path(top, f"cconvnet-test-{os.getpid()}")
        try:
            folder.mkdir()
            (folder / name).write_text(f"{400 * MB}")
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        yield folder
        for _ in range(50):
            try:
                folder.rmdir()
                return
            except OSError:
                time.sleep(0.1)
        return
    pytest.skip("no control group of memory can be made here")


def in_group(group: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = f'echo $$ > {group}/cgroup.procs; exec "$@"'
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "cconvnet", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_in_a_real_group(group: Path, tmp_path: Path) -> None:
    large = ("--net", "alexnet", "--device", "cpu:0", "--batch", 64)
    for command in (
        ("bench", "step", *large, "--no-peer"),
        ("bench", "roofline", *large),
        ("plot", "timeline", *large, "--out", tmp_path / "timeline.png"),
    ):
        done = in_group(group, *command)
        assert done.returncode == 1, (command, done)
        assert "the network alexnet at batch 64 needs" in done.stderr
        assert "of the 400 MB that this process's control group allows" in done.stderr
    assert "GB free of the 400 MB" in in_group(group, "doctor").stdout
    # What takes no memory is not refused, and what fits runs.
    assert in_group(group, "describe", *large).returncode == 0
    done = in_group(group, "train", "--device", "cpu:0", "--steps", 3, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr


def test_an_address_space_that_is_too_small(tmp_path: Path) -> None:
    script = 'ulimit -v 3000000; exec "$@"'
    command = [
        sys.executable,
        "-m",
        "cconvnet",
        "train",
        "--device",
        "cpu:0",
        "--size",
        "400",
        "--batch",
        "4",
    ]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1 and "that ulimit -v allows" in done.stderr, done.stderr


def test_describing_takes_no_memory() -> None:
    done = run("describe", "--net", "alexnet", "--batch", 2000, "--device", "reference:0")
    assert done.returncode == 0 and "MB" in done.stdout
