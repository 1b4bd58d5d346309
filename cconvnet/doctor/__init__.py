"""What of this package works on this machine, why the rest does not, and the command that mends it.

survey() looks at the machine and judges nothing; examine() says what that means. So any situation can be
judged without a machine that is in it.
"""

from __future__ import annotations

from cconvnet.doctor.diagnosis import Finding, can_train, examine
from cconvnet.doctor.survey import PACKAGES, Facts, Gpu

__all__ = ["PACKAGES", "Facts", "Finding", "Gpu", "can_train", "examine"]
