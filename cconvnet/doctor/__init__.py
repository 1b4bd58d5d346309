"""Diagnosis of the installation: what works, what does not, why, and how to fix it.

Modules in reading order: survey (facts about the machine, without judgement), diagnosis (findings from given
facts), ranks (both, for processes that would train together). So any situation can be diagnosed without a
machine that is in it.
"""

from __future__ import annotations

from cconvnet.doctor.diagnosis import Finding, can_train, examine
from cconvnet.doctor.survey import PACKAGES, Facts, Gpu

__all__ = ["PACKAGES", "Facts", "Finding", "Gpu", "can_train", "examine"]
