"""Constants of GPUs: complete, with sources, and refitted by a calibration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cconvnet.profile.chips import CALIBRATED, chip_of, refit, to_dict

ARCHS = ("sm_80", "sm_90a", "sm_120")


def calibration(**values: Any) -> dict[str, Any]:
    """Return a made-up calibration of a GPU that does not exist, in which every figure is 7."""
    chip = chip_of("sm_90a")
    measurements = [
        {"name": measurement, "unit": chip.constants[name].unit, "value": 7.0, "clock_ghz": 1.5}
        for name, measurement in CALIBRATED.items()
    ]
    return {
        "what": "calibration",
        "machine": {"chip": "a made-up GPU"},
        "measurements": measurements,
        **values,
    }


@pytest.mark.parametrize("arch", ARCHS)
def test_every_constant_has_a_unit_a_status_and_a_source(arch: str) -> None:
    chip = chip_of(arch)
    assert set(chip.constants) == set(chip_of("sm_90a").constants)
    for name, one in chip.constants.items():
        assert one.value > 0 and one.unit and one.source, name
        # Nothing has been measured on a GPU yet.
        assert one.status == "assumed", name
    assert not chip.measured and chip.peak("fp32x3") == pytest.approx(chip.peak("tf32") / 3)


def test_a_calibration_refits_the_constants() -> None:
    chip = refit(chip_of("sm_90a"), calibration(), "2001-02-03")
    for name in CALIBRATED:
        one = chip.constants[name]
        assert (one.value, one.status) == (7.0, "measured") and "a made-up GPU, 2001-02-03" in one.source
    assert chip["clock"] == 1.5 and chip.measured and chip.name == "a made-up GPU"
    assert chip.constants["overlap"].status == "assumed"


def test_the_calibration_measures_these_constants_in_these_units() -> None:
    source = (Path(__file__).parents[2] / "benchmarks" / "calibration.cu").read_text()
    for name, measurement in CALIBRATED.items():
        unit = chip_of("sm_90a").constants[name].unit
        assert re.search(rf'\{{"{re.escape(measurement)}", "{re.escape(unit)}"', source), name


def test_values_that_were_not_measured_stay_as_they_are() -> None:
    given = calibration()
    given["measurements"] = [dict(one, value=None) for one in given["measurements"][1:]] + given[
        "measurements"
    ][:1]
    chip = refit(chip_of("sm_90a"), given, "2001-02-03")
    assert chip["tensor_bf16"] == 7 and chip["l2"] == chip_of("sm_90a")["l2"] and not chip.measured
    with pytest.raises(ValueError, match="measured none"):
        refit(chip_of("sm_90a"), {"measurements": []}, "2001-02-03")
    given["measurements"] = [{"name": CALIBRATED["l2"], "unit": "apples", "value": 1.0}]
    with pytest.raises(ValueError, match="apples"):
        refit(chip_of("sm_90a"), given, "2001-02-03")


def test_a_file_of_constants_takes_the_place_of_the_packages(tmp_path: Path) -> None:
    file = tmp_path / "constants.json"
    chip = refit(chip_of("sm_90a"), calibration(), "2001-02-03")
    file.write_text(json.dumps({"sm_90a": to_dict(chip)}))
    assert chip_of("sm_90a", file) == chip
    with pytest.raises(ValueError, match="not for sm_80"):
        chip_of("sm_80", file)
    file.write_text('{"sm_90a": {}}')
    with pytest.raises(ValueError, match="no file of constants"):
        chip_of("sm_90a", file)
    with pytest.raises(ValueError, match="arch must be"):
        chip_of("sm_1")
