"""Values of layers' fields: activation functions, first weights and falling rates; and checks of values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cconvnet.checks import MAX_INT32, finite_fields, real, whole
from cconvnet.errors import nearest

Pair = tuple[int, int]
Padding = tuple[int | Pair, int | Pair]  # (vertical, horizontal); a pair is (before, after)
NEURONS = ("linear", "relu", "tanh", "logistic", "softrelu", "abs", "square", "sqrt", "brelu", "silu")
CURVES = ("constant", "linear", "exp", "dexp", "jdexp", "cosine", "poly", "epochs")
_TO_ZERO = ("linear", "cosine", "poly", "epochs")  # curves that may end at 0


def require(ok: bool, message: str) -> None:
    """Raise a ValueError with this message unless `ok`."""
    if not ok:
        raise ValueError(message)


def one_of(argument: str, given: str, allowed: tuple[str, ...]) -> None:
    """Check that an argument has one of the allowed values.

    Raises:
        ValueError: naming the argument, what was given, and the nearest of the allowed values.
    """
    if given not in allowed:
        raise ValueError(nearest(argument, given, allowed))


def as_pair(argument: str, value: int | Iterable[int]) -> Pair:
    """Return (vertical, horizontal); one integer means both."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    require(
        len(values) == 2 and all(isinstance(v, int) for v in values),
        f"{argument} must be an integer or a pair of them, not {value!r}",
    )
    # The problem structs have 32 bits for each.
    require(max(map(abs, values)) <= MAX_INT32, f"{argument} must be at most {MAX_INT32}, not {value!r}")
    return values[0], values[1]


def as_padding(argument: str, value: Any) -> Padding:
    """Return (vertical, horizontal) padding; one integer means all four sides.

    Either may be a pair (before, after), which is one integer if both are equal.
    """
    values = (value, value) if isinstance(value, int) else tuple(value)
    require(len(values) == 2, f"{argument} must be an integer or (vertical, horizontal), not {value!r}")
    pairs = [as_pair(argument, one) for one in values]
    vertical, horizontal = (before if before == after else (before, after) for before, after in pairs)
    return vertical, horizontal


def both_sides(padding: int | Pair) -> Pair:
    """Return the padding (before, after) of one direction."""
    return (padding, padding) if isinstance(padding, int) else padding


@dataclass(frozen=True)
class Init:
    """The distribution of first weights.

    Attributes:
        kind: ``gaussian``; ``he``, a Gaussian with sigma = sqrt(2 / fan-in), of He et al. 2015, "Delving Deep
            into Rectifiers", section 2.2; or ``bilinear``, of transposed convolutions alone: the weights by
            which each channel is interpolated.
        sigma: the standard deviation of ``gaussian``.
    """

    kind: str = "he"
    sigma: float = 0.0

    def __post_init__(self) -> None:
        one_of("init", self.kind, ("gaussian", "he", "bilinear"))
        finite_fields(self)
        require(self.sigma >= 0, f"sigma must not be negative, not {self.sigma}")


def gaussian(sigma: float) -> Init:
    """First weights from a Gaussian of this standard deviation."""
    return Init("gaussian", sigma)


@dataclass(frozen=True)
class Neuron:
    """An activation function; ``Neuron`` in kernels/problem.h defines the kinds with their `a` and `b`."""

    kind: str = "relu"
    a: float = 1.0
    b: float = 0.0

    def __post_init__(self) -> None:
        one_of("neuron", self.kind, NEURONS)
        finite_fields(self)


RELU = Neuron("relu")


@dataclass(frozen=True)
class RateCurve:
    """A rate that falls over the whole run, from its first value to that value divided by `factor`.

    The kinds and their formulas are in :func:`cconvnet.training.schedule.curve_factor`.

    Attributes:
        kind: ``constant``; ``linear``; ``exp``, by equal ratios; ``dexp``, likewise in `steps` steps;
            ``jdexp``, the same with a step back in the middle of each; ``cosine``, half a period of it;
            ``poly``, a power of the part of the run that is left; ``epochs``, by equal ratios, an epoch at a
            time, whatever the length of the run.
        factor: the first rate divided by the last. None: ``linear``, ``cosine`` and ``poly`` fall to 0, and
            ``epochs`` goes on.
        steps: of ``dexp`` and ``jdexp``.
        noise: every step multiplies the rate by 1 + noise * |z|, z normally distributed.
        power: of ``poly``; of ``epochs`` what each epoch multiplies, below 1.
    """

    kind: str
    factor: float | None = None
    steps: int = 1
    noise: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        one_of("a rate's curve", self.kind, CURVES)
        if self.factor is None:
            require(self.kind in _TO_ZERO, f"factor must be a number: the curve {self.kind} cannot fall to 0")
        else:
            real("factor", self.factor, above=0)
        require(self.kind != "constant" or self.factor == 1, "factor must be 1 of the curve constant")
        real("noise", self.noise, low=0)
        whole("steps", self.steps, 1)
        real("power", self.power, above=0)
        require(
            self.kind != "epochs" or self.power < 1,
            f"power must be below 1 of the curve epochs, not {self.power}",
        )


CONSTANT = RateCurve("constant", 1.0)


@dataclass(frozen=True)
class Distortion:
    """The limits of what distorts training images; :mod:`cconvnet.data.distortion` has the formulas.

    Attributes:
        rotation: the largest angle in degrees, in either direction.
        scaling: the largest change of height and of width, each on its own, in percent.
        translation: the largest shift, in percent of height and width.
        alpha: multiplies the smoothed noise of displacements, in pixels; 0: no elastic field.
        sigma: the standard deviation, in pixels, of the Gaussian that smooths the noise.
    """

    rotation: float = 0.0
    scaling: float = 0.0
    translation: float = 0.0
    alpha: float = 0.0
    sigma: float = 6.0

    def __post_init__(self) -> None:
        highest = {"rotation": 180, "scaling": 90, "translation": 100, "alpha": 10_000, "sigma": 1000}
        for name, high in highest.items():
            low = 0.1 if name == "sigma" else 0.0
            object.__setattr__(self, name, real(name, getattr(self, name), low=low, high=high))

    @property
    def is_identity(self) -> bool:
        """True if images stay as they are."""
        return not (self.rotation or self.scaling or self.translation or self.alpha)


NO_DISTORTION = Distortion()

# The parts of a picture's area that random-resized crops cover, as in Szegedy et al. 2015, section 6.
AREA = 0.08, 1.0


def as_area(name: str, value: Any) -> tuple[float, float]:
    """Return the least and the largest part of a picture's area.

    Raises:
        TypeError, ValueError: They are not two numbers above 0 and up to 1, in this order.
    """
    require(isinstance(value, list | tuple) and len(value) == 2, f"{name} must be two numbers, not {value!r}")
    low = real(name, value[0], above=0, high=1)
    return low, real(name, value[1], low=low, high=1)
