"""The parts of a report, in order, with their times."""

from __future__ import annotations

from gpu_report import building, checking, measuring
from gpu_report.running import Part
from gpu_report.settings import Settings


def parts(settings: Settings) -> list[Part]:
    """Return the parts of a report, in order."""

    def part(name: str, most: float, work: object, kept: float = 0.0, listed: bool = True) -> Part:
        return Part(name, most, lambda run: work(settings, run), kept, listed)  # type: ignore[operator]

    return [
        part("machine", 60, building.machine, 5),
        part("build", 200, building.build),
        part("conformance", 40, checking.conformance, 15),
        part("proof", 60, checking.proof, 20),
        part("smoke", 75, checking.smoke, 30),
        part("tests", 135, checking.tests("tests"), 30),
        part("kernels", 150, measuring.kernels, 60),
        part("step", 180, measuring.step, 90),
        part("calibration", 65, measuring.calibration, 20),
        part("more-tests", 50, checking.tests("more-tests")),
        part("training", 30, checking.training),
        part("sanitize", 80, checking.sanitize),
        part("roofline", 30, measuring.roofline),
        part("checkpoint", 15, measuring.checkpoint),
        part("last-tests", 90, checking.tests("last-tests")),
        part("scaling", 40, measuring.scaling),
        part("data", 25, measuring.data),
        part("sanitize-all", 3000, checking.sanitize_all, listed=False),
    ]
