"""Constants of the model for each GPU: rates, latencies and where each number is from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cconvnet.profile.occupancy import capability

FILE = Path(__file__).with_name("chips.json")
DEFAULT_ARCH = "sm_90a"
STATUSES = ("assumed", "measured")


@dataclass(frozen=True)
class Constant:
    """A constant of the model.

    Attributes:
        value: Its value.
        unit: The unit.
        status: "assumed", or "measured".
        source: Where the number is from; the machine and the day of a measurement.
    """

    value: float
    unit: str
    status: str
    source: str


@dataclass(frozen=True)
class Chip:
    """A GPU as the model sees it.

    Attributes:
        arch: The architecture of its code, "sm_90a".
        name: Its name.
        constants: The constants by name; ``chips.json`` lists them.
    """

    arch: str
    name: str
    constants: Mapping[str, Constant]

    def __getitem__(self, name: str) -> float:
        return self.constants[name].value

    @property
    def measured(self) -> bool:
        """Return whether the rates that bind most kernels were measured."""
        return all(self.constants[name].status == "measured" for name in ("tensor_bf16", "l2", "dram"))

    @property
    def hertz(self) -> float:
        """Return cycles a second."""
        return self["clock"] * 1e9

    def with_multiprocessors(self, count: int) -> Chip:
        """Return the chip as kernels see it that may use so many multiprocessors; 0: itself."""
        if count == 0:
            return self
        own = replace(self.constants["multiprocessors"], value=count)
        return replace(self, constants={**self.constants, "multiprocessors": own})

    def peak(self, precision: str) -> float:
        """Return the operations a second that a floor is computed with."""
        if precision == "fp32x3":
            return self["peak_tf32"] * 1e12 / 3
        return self[f"peak_{precision}"] * 1e12


def chip_of(arch: str, file: Path | None = None) -> Chip:
    """Return the chip of an architecture.

    Args:
        arch: The architecture, "sm_90a".
        file: A file of constants in place of the package's, such as refit() writes.

    Raises:
        ValueError: The file has no constants for it, or cannot be read as constants.
    """
    capability(arch)
    path = file or FILE
    try:
        chips = json.loads(path.read_text(encoding="utf-8"))
        if arch not in chips:
            raise ValueError(f"{path} has constants for {', '.join(chips)}, not for {arch}")
        return from_dict(arch, chips[arch])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no file of constants: {error!r}") from error


def arch_of(capability: str) -> str:
    """Return the architecture of a compute capability without its point, "90".

    Raises:
        ValueError: The package has no constants for it.
    """
    archs = [
        arch for arch in json.loads(FILE.read_text(encoding="utf-8")) if arch[3:].rstrip("a") == capability
    ]
    if not archs:
        raise ValueError(f"{FILE.name} has no constants for compute capability {capability}")
    return str(archs[0])


def from_dict(arch: str, value: Mapping[str, Any]) -> Chip:
    """Return the chip that to_dict() described."""
    constants = {name: Constant(**one) for name, one in value["constants"].items()}
    for name, one in constants.items():
        if one.status not in STATUSES or not one.value > 0:
            raise ValueError(f"{name} must be a positive number that is {' or '.join(STATUSES)}")
    return Chip(arch, value["name"], constants)


def to_dict(chip: Chip) -> dict[str, Any]:
    """Return a chip as JSON values."""
    return {"name": chip.name, "constants": {name: vars(one) for name, one in chip.constants.items()}}


# ---- calibration ------------------------------------------------------------------------------------------

# The measurement of benchmarks/calibration.py that gives a constant.
CALIBRATED = {
    "tensor_bf16": "mma.m16n8k16.bf16, fed by ldmatrix",
    "tensor_tf32": "mma.m16n8k8.tf32, fed by ldmatrix",
    "issue": "issue, as many FMA as integer operations",
    "fp32": "fused multiply-add, fp32",
    "special": "special function (sine)",
    "shared": "shared memory, loads of 16 bytes",
    "l2": "L2, cp.async by all SMs",
    "dram": "memory, copy (read and written)",
    "l2_latency": "load from L2, one after the other",
    "dram_latency": "load from memory, one after the other",
    "shared_latency": "load from shared memory, one after the other",
    "barrier": "barrier of 128 threads",
    "node": "graph node, in a chain",
}
_CLOCKED_BY = "mma.m16n8k16.bf16, fed by ldmatrix"


def refit(chip: Chip, calibration: Mapping[str, Any], day: str) -> Chip:
    """Return a chip with the constants that a calibration measured; others stay as they are.

    Args:
        chip: The chip with assumed constants.
        calibration: A result of benchmarks/calibration.py.
        day: The day of the measurement, which joins the machine in the source.

    Raises:
        ValueError: The calibration measured none of the constants.
    """
    found = {one["name"]: one for one in calibration.get("measurements", []) if one.get("value")}
    machine = calibration.get("machine", {})
    device = machine.get("chip", machine.get("device", "unknown"))
    source = f"{device}, {day}"
    constants = dict(chip.constants)
    for name, measurement in CALIBRATED.items():
        if (one := found.get(measurement)) is not None:
            if one["unit"] != constants[name].unit:
                raise ValueError(f"{measurement} is in {one['unit']}, not in {constants[name].unit}")
            constants[name] = Constant(one["value"], constants[name].unit, "measured", source)
    if (clocked := found.get(_CLOCKED_BY)) is not None and clocked.get("clock_ghz"):
        constants["clock"] = Constant(clocked["clock_ghz"], "GHz", "measured", source)
    for name in ("multiprocessors", "l2_bytes"):
        if name in machine:
            constants[name] = Constant(machine[name], constants[name].unit, "measured", source)
    if constants == dict(chip.constants):
        raise ValueError("the calibration measured none of the model's constants")
    return Chip(chip.arch, str(device), constants)
