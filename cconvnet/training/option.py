"""The description of an option of a training, and the groups of options in the help."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from cconvnet.training.option_values import Range

# A resumed run takes or refuses a value that differs from its own.
OnResume = Literal["take", "refuse"]

# The groups of options in the help, in its order.
NETWORK, DATA, IMAGES = "Network", "Data", "Images and augmentation"
LENGTH, RATES, RUN, DEVICES = "Length and batch", "Rates and updates", "Run", "Devices"


@dataclasses.dataclass(frozen=True)
class Option:
    """The description of one option.

    Attributes:
        panel: The group of options in the help.
        help: A sentence for users.
        metavar: The placeholder of the value in the help; None for an option without a value.
        flag: The name on the command line; empty: that of the field, with dashes. A slash separates the name
            that turns it off: ``--mirror/--no-mirror``.
        setting: The name of the run's setting; empty: that of the field.
        range: The allowed values, if they are fewer than those of the type.
        parse: Turns the text of the command line, or a plain form, into the value, if the type is not one of
            typer's.
        recipe: The attribute of a network's recipe that a new run takes if the option is not given.
        otherwise: The value that a new run takes if neither the option nor a recipe gives one.
        on_resume: Whether a resumed run takes or refuses a value other than its own; None: the option is for
            one session and no setting of the run.
        choices: Values that a shell offers when it completes a word.
    """

    panel: str
    help: str
    metavar: str | None = None
    flag: str = ""
    setting: str = ""
    range: Range | None = None
    parse: Callable[[Any], Any] | None = None
    recipe: str | None = None
    otherwise: Any = None
    on_resume: OnResume | None = None
    choices: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The name on the command line that errors use, such as ``--lr``."""
        return self.flag.partition("/")[0]


def field(panel: str, help: str, metavar: str | None = None, *, default: Any = None, **more: Any) -> Any:
    """Make the field of an option."""
    return dataclasses.field(default=default, metadata={"option": Option(panel, help, metavar, **more)})


def described(one: dataclasses.Field[Any]) -> Option:
    """Return the description of a field that field() made, with its names."""
    found: Option = one.metadata["option"]
    flag = found.flag or f"--{one.name.replace('_', '-')}"
    return dataclasses.replace(found, flag=flag, setting=found.setting or one.name)
