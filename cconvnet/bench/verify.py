"""Verification of results of any size, at little more cost than reading them.

Sums of products are checked completely by R. Freivalds' method ("Probabilistic machines can use less running
time", IFIP Congress 1977): instead of A B = C it compares A (B v) with C v for a random vector v. Here v
contracts the output channels, so that the reference has one channel for each group, and every element of the
result is part of the comparison. The inputs are integers that float32, TF32 and bfloat16 represent exactly,
and so are the sums in the type of the result. A right result is exact, and a single missing product shows.

If images or rows are independent, some of them are compared with the reference in full: the first, the last,
and others drawn from a seed. All elements are checked for NaN, which the outputs contained before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from cconvnet._problem import ConvProblem
from cconvnet.bench.cases import Case
from cconvnet.bench.tiles import Tiled
from cconvnet.bfloat16 import BITS, pack
from cconvnet.operations import COUNTS, OPERATIONS
from cconvnet.testing import compare, reference
from cconvnet.testing.inputs import Draw, draw_inputs, round_to

Array = np.ndarray[Any, Any]

# Relative error of algorithms that transform their inputs first and round the transforms, such as Winograd's
# and FFT. Algorithms that only multiply and add have none here. It is sixteen times the unit roundoff (2^-24)
# in fp32 and fp32x3, for the long transforms of FFT. It is four times in tf32 (2^-11) and bf16 (2^-8), for
# Winograd's small ones.
ROUNDING = {"fp32": 2.0**-20, "fp32x3": 2.0**-20, "tf32": 2.0**-9, "bf16": 2.0**-6}
# Allowed error in ulps of float32 of functions such as pow and exp, and of another order of operations.
_FLOOR = 2.0
# The same for a peer. In bfloat16 it may also round the results between its operations, so that four units of
# bfloat16's last place, 2^16 times as large, are allowed.
_PEER_FLOOR = {"fp32": 256.0, "bf16": 2.0**18}
# Our fused operations round intermediate results as if they were written. Where those are sums, the error is
# half a unit of bfloat16's last place. In the result it may be a whole one: the same share of 1 and of 1.9
# is one unit and nearly two.
_FUSED_FLOOR = {"lrn_maxpool_backward": {"bf16": 2.0**16}}
# Operations whose results are rounded even if their inputs are short integers.
_ROUNDING_OPERATIONS = ("lrn", "contrast_norm", "avgpool", "softmax", "sgd", "neuron", "local")
# Variance of integers from -4 to 4.
_VARIANCE = 20 / 3
# bfloat16 represents the integers up to 256. Where sums are rounded to it, the inputs are 1, -1 and 0. So
# many of them are 0 that this is the largest standard deviation of a sum: 256 is eight times as large.
_DEVIATION = 32.0
# Elements that are compared with the reference in full, and those in float64 at a time.
_COMPARED = 1 << 18
_HELD = 1 << 22


# ---- inputs --------------------------------------------------------------------------------------------


class _Draw(Draw):
    """Draw of inputs, as `Draw`, with as many elements as a real layer has.

    `share` is the share of elements other than 0, if all of those are 1 and -1.
    """

    def __init__(self, data: str, seed: int, share: float | None = None) -> None:
        super().__init__(data, seed)
        self._share = share

    def __call__(self, shape: int | tuple[int, ...]) -> Array:
        if not self.exact:
            return super().__call__(shape)
        if self._share is None:
            return self.random.integers(-4, 5, shape, np.int8).astype(np.float32)
        signs = self.random.integers(0, 2, shape, np.int8) * 2 - 1
        kept = self.random.random(shape, np.float32) < self._share
        return np.where(kept, signs, 0).astype(np.float32)


def checked_inputs(case: Case, seed: int = 0) -> dict[str, Any]:
    """Return the inputs for `check`, by name as in cconvnet.operations.

    They depend on the arguments alone.
    """
    rounds = case.operation.startswith(_ROUNDING_OPERATIONS)
    return _inputs(case, _Draw("real" if rounds else "exact", seed, _share(case)))


def timed_inputs(case: Case, seed: int = 0) -> dict[str, Any]:
    """Return normally distributed inputs.

    On short numbers a chip draws less power and may run faster.
    """
    return _inputs(case, _Draw("real", seed))


class _Shapes(_Draw):
    """Draw of nothing: zeros that take no memory, which tiles replace."""

    def __call__(self, shape: int | tuple[int, ...]) -> Array:
        return np.broadcast_to(np.float32(0), shape)


def tiled_inputs(case: Case) -> dict[str, Any]:
    """Return inputs like `timed_inputs`, with a :class:`cconvnet.bench.tiles.Tiled` for each float array."""
    if case.operation.startswith("softmax"):
        return timed_inputs(case)  # it is small and needs labels
    return {
        name: Tiled(value.shape) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value
        for name, value in _floats(case, _Shapes("real", 0)).items()
    }


def _inputs(case: Case, draw: _Draw) -> dict[str, Any]:
    inputs = _floats(case, draw)
    for name, value in inputs.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float32 and case.dtype(name) == BITS:
            inputs[name] = round_to(value, "bf16")
    return inputs


def _floats(case: Case, draw: _Draw) -> dict[str, Any]:
    problem = case.problem
    if "maxpool" in case.operation:
        # Values must differ after normalisation, too.
        normalised = isinstance(problem, tuple)
        pool = problem[1] if normalised else problem
        inputs: dict[str, Any] = {
            "x": _distinct(pool, draw, 8 if normalised or case.element == "bf16" else 20)
        }
        if case.operation.endswith("backward"):
            inputs["dy"] = draw(pool.y_shape)
            inputs |= {"relu": False} if normalised else {}
        return inputs
    options: dict[str, Any] = {"bias": False} if case.operation.endswith("fprop") else {}
    if case.operation == "relu_bias_backward":
        options["scale"] = 1.0
    return draw_inputs(case.operation, problem, draw, **options)


def _share(case: Case) -> float | None:
    """Return the largest share of nonzero factors with which a product's sums are exact; None: all."""
    if not (case.is_gemm and case.element == "bf16"):
        return None
    ((name, _),) = case.outputs.items()
    # With this probability of 1 or -1 the sums have the deviation above.
    return min(2 / 3, _DEVIATION / math.sqrt(_terms(_as_convolution(case.problem), name)))


def _terms(problem: Any, name: str) -> float:
    """Return the number of products that each element of an output sums."""
    return float(
        problem.flops
        / 2
        / math.prod(problem.w_shape if name == "dw" else problem.x_shape if name == "dx" else problem.y_shape)
    )


def _distinct(problem: Any, draw: _Draw, bits: int) -> Array:
    """Return x[N,H,W,C] without equal values in a window, since implementations break ties differently.

    The values are integers of `bits` bits, scaled from -1/2 to 1/2. Their last bits are the place in the
    image.
    """
    if isinstance(draw, _Shapes):
        return draw(problem.x_shape)
    high, wide = problem.window_h, problem.window_w
    places = (np.arange(problem.h)[:, None] % high * wide + np.arange(problem.w) % wide).astype(np.float32)
    steps = max((1 << bits) // (high * wide), 1)
    x: Array = draw.random.integers(0, steps, problem.x_shape, np.int32).astype(np.float32)
    x *= high * wide
    x += places[:, :, None]
    x *= np.float32(2.0**-bits)
    x -= np.float32(0.5)
    return x


# ---- the check -----------------------------------------------------------------------------------------


def check(
    case: Case,
    inputs: dict[str, Any],
    results: dict[str, Array],
    *,
    strict: bool = True,
    seed: int = 0,
) -> None:
    """Check the results of a case.

    Args:
        case: The case.
        inputs: The inputs, of `checked_inputs`.
        results: Some or all of the outputs, by name as in cconvnet.operations.
        strict: Whether the result must be as exact as our kernels promise, masks of dropout included. A
            peer may use another formula and other random numbers.
        seed: Seed of the random vector and the choice of images.

    Raises:
        AssertionError: The result is wrong; the text says what and where.
    """
    shapes = case.outputs
    assert results, "there is no result"
    for name, kept in results.items():
        assert name in shapes, f"{case.operation} has no output {name}"
        assert kept.shape == shapes[name], f"{name} has shape {kept.shape}, not {shapes[name]}"
        if strict and name not in COUNTS:
            assert kept.dtype == case.dtype(name), f"{name} is {kept.dtype}, not {case.dtype(name)}"
        result = compare.values(kept)
        check_finite(name, result.size - int(np.count_nonzero(np.isfinite(result))), result.size)
    random = np.random.default_rng(seed)
    if case.is_gemm:
        values = {name: compare.values(result) for name, result in results.items()}
        _check_products(case, inputs, values, random, 0.0 if strict else ROUNDING[case.precision])
    elif case.operation == "dropout" and not strict:
        _check_other_dropout(case.problem, inputs["x"], compare.values(results["y"]))
    elif case.operation == "relu_bias_backward":
        _check_relu_bias(inputs, results, 0.0 if strict else _PEER_FLOOR[case.element])
    else:
        _check_parts(case, inputs, results, random, strict)


def check_finite(name: str, bad: int, size: int) -> None:
    """Raise AssertionError if `bad` of an output's elements are not finite."""
    assert bad == 0, f"{bad:,} of {size:,} elements of {name} are NaN, infinite or not written"


# ---- sums of products ----------------------------------------------------------------------------------


def _as_convolution(problem: Any) -> Any:
    """Return a fully connected layer as a convolution of images of one pixel."""
    return problem if hasattr(problem, "r") else ConvProblem(problem.n, 1, 1, problem.c, problem.k, 1, 1)


def _check_products(
    case: Case,
    inputs: dict[str, Any],
    results: dict[str, Array],
    random: np.random.Generator,
    rounding: float,
) -> None:
    (name, result) = next(iter(results.items()))
    problem = _as_convolution(case.problem)
    k, c = problem.k // problem.groups, problem.c // problem.groups
    given = {key: value for key, value in inputs.items() if isinstance(value, np.ndarray)}
    w = given.get("w", result if name == "dw" else None)
    assert w is not None
    w = w.reshape(problem.groups, k, problem.r, problem.s, c)
    contracted = c if name == "dx" else k
    # No weight is near zero and no two are equal: a single wrong element shows, and so does a swap of two.
    vector = random.choice([-1.0, 1.0], contracted) * random.uniform(1.0, 2.0, contracted)

    if name == "dw":
        actual = np.einsum("gkrsc,k->grsc", w, vector, optimize=True)
        expected = np.zeros((problem.groups, problem.r, problem.s, c))
        for x, dy in _images(
            problem, given["x"].reshape(problem.x_shape), given["dy"].reshape(problem.y_shape)
        ):
            expected += _wgrad(problem, x, _contracted(dy, vector))
        _compare(name, actual, expected, "grsc", case, vector, rounding)
        return
    filters = np.einsum("gkrsc,c->gkrs" if name == "dx" else "gkrsc,k->gcrs", w, vector, optimize=True)
    compute, source = (_dgrad, given.get("dy")) if name == "dx" else (_fprop, given.get("x"))
    assert source is not None
    shapes = (problem.y_shape, problem.x_shape) if name == "dx" else (problem.x_shape, problem.y_shape)
    letters = "nhwg" if name == "dx" else "npqg"
    first = 0
    for part, out in _images(problem, source.reshape(shapes[0]), result.reshape(shapes[1])):
        _compare(
            name,
            _contracted(out, vector),
            compute(problem, part, filters),
            letters,
            case,
            vector,
            rounding,
            first,
        )
        first += len(part)


def _contracted(images: Array, vector: Array) -> Array:
    """Sum images[n,.,.,G,X] over X with the vector's weights, as one product of a matrix and a vector."""
    return np.asarray((images.reshape(-1, len(vector)) @ vector).reshape(images.shape[:-1]))


def _images(problem: Any, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yield a few images of each [N,.,.,G*C] at a time as float64[n,.,.,G,C], within the memory limit."""
    for part in _pieces(
        problem.n, _HELD // max(problem.h * problem.w * problem.c, problem.p * problem.q * problem.k)
    ):
        pieces = (array[part] for array in arrays)
        yield tuple(
            piece.reshape(*piece.shape[:3], problem.groups, -1).astype(np.float64) for piece in pieces
        )


def _pieces(count: int, size: int) -> Iterator[slice]:
    size = max(size, 1)
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))


def _taps(problem: Any, images: Array) -> reference.Taps:
    """Return the windows of images[n,H,W,X], whatever their channels."""
    names = ("h", "w", "p", "q", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
    sizes = {name: getattr(problem, name) for name in names}
    return reference.Taps(
        SimpleNamespace(n=len(images), c=images.shape[3], **sizes), images, problem.r, problem.s
    )


def _by_group(problem: Any, pixels: Array) -> Array:
    """View [n,P,Q,G*X] as [n,P,Q,G,X]."""
    return pixels.reshape(*pixels.shape[:3], problem.groups, -1)


def _fprop(problem: Any, x: Array, filters: Array) -> Array:
    """Compute y[n,P,Q,G] of x[n,H,W,G,C] and one filter for each group, filters[G,C,R,S]."""
    y = np.zeros((len(x), problem.p, problem.q, problem.groups))
    for r, s, pixels in _taps(problem, x.reshape(*x.shape[:3], -1)):
        y += np.einsum("npqgc,gc->npqg", _by_group(problem, pixels), np.ascontiguousarray(filters[..., r, s]))
    return y


def _dgrad(problem: Any, dy: Array, filters: Array) -> Array:
    """Compute dx[n,H,W,G] of dy[n,P,Q,G,K] and filters over one channel for each group, filters[G,K,R,S]."""
    taps = _taps(problem, np.zeros((len(dy), problem.h, problem.w, problem.groups)))
    for r, s, pixels in taps:
        pixels += np.einsum("npqgk,gk->npqg", dy, np.ascontiguousarray(filters[..., r, s]))
    return taps.image.copy()


def _wgrad(problem: Any, x: Array, dy: Array) -> Array:
    """Compute dw[G,R,S,C] of x[n,H,W,G,C] and one gradient for each group, dy[n,P,Q,G]."""
    dw = np.zeros((problem.groups, problem.r, problem.s, x.shape[-1]))
    for r, s, pixels in _taps(problem, x.reshape(*x.shape[:3], -1)):
        dw[:, r, s] = np.einsum("npqgc,npqg->gc", _by_group(problem, pixels), dy)
    return dw


def _compare(
    name: str,
    actual: Array,
    expected: Array,
    letters: str,
    case: Case,
    vector: Array,
    rounding: float,
    first: int = 0,
) -> None:
    """Compare contracted sums; `first` is the number of the first image."""
    terms = _terms(_as_convolution(case.problem), name)
    # The variance of each factor is the deviation of each product.
    variance = _share(case) or _VARIANCE
    size = variance * math.sqrt(terms) * float(np.linalg.norm(vector))
    # Each product is an integer, and the vector's numbers are at least 1.
    bound = max(0.5, 4 * rounding * size)
    error = np.abs(actual - expected)
    worst = np.unravel_index(np.argmax(error), error.shape)
    place = [int(i) for i in worst]
    if letters[0] == "n":
        place[0] += first
    assert error[worst] <= bound, (
        f"{name} is wrong: summed over its channels with random weights it is {actual[worst]:.6g} instead of "
        f"{expected[worst]:.6g} at {', '.join(f'{a}={i}' for a, i in zip(letters, place, strict=True))}"
        f"; {np.count_nonzero(~(error <= bound)):,} of {error.size:,} such sums are off"
    )


# ---- images and rows that do not depend on each other ---------------------------------------------------


def _check_parts(
    case: Case, inputs: dict[str, Any], results: dict[str, Array], random: np.random.Generator, strict: bool
) -> None:
    """Compare some parts with the reference: images, rows of a matrix, or stretches of a vector."""
    spec = OPERATIONS[case.operation]
    first = case.problem[0] if isinstance(case.problem, tuple) else case.problem
    count = getattr(first, "n", 0) or first.count
    length = 1 if hasattr(first, "count") else sum(map(math.prod, case.outputs.values())) // count
    # The gradient of local filters sums over all images; their weights have positions instead of images.
    is_local = case.operation.startswith("local")
    parts = [slice(0, count)] if case.operation == "local_wgrad" else _chosen(count, length, random)
    for part in parts:
        problems = [_part_of(problem, part) for problem in spec.problems(case.problem)]
        given = {
            name: value[part] if isinstance(value, np.ndarray) and not (is_local and name == "w") else value
            for name, value in inputs.items()
        }
        expected = _reference(case, problems, given)
        with reference.precision(np.float32):
            baseline = _reference(case, problems, given)
        for name, result in results.items():
            kept = result if name == "dw" else result[part]
            if name == "w_bf16":
                compare.assert_same_bits(name, kept, pack(results["w"][part]))
                continue
            wanted, plain = (values[name].reshape(kept.shape) for values in (expected, baseline))
            where = f"{name}[{part.start}:{part.stop}]"
            if name in COUNTS:
                compare.assert_exact(where, kept.astype(np.int32), wanted, nonzero=0, dtype=np.int32)
            else:
                compare.assert_close(
                    where,
                    kept,
                    wanted,
                    plain.astype(np.float32),
                    elementwise=strict and spec.elementwise,
                    floor=_floor(case) if strict else _PEER_FLOOR[case.element],
                    dtype=result.dtype,
                )


def _chosen(count: int, length: int, random: np.random.Generator) -> list[slice]:
    """Choose parts of `count` items of `length` elements: all, or the first, the last and two random ones."""
    if count * length <= _COMPARED:
        return [slice(0, count)]
    size = max(_COMPARED // 4 // length, 1)
    begins = {0, count - size, *(int(begin) for begin in random.integers(0, count - size + 1, 2))}
    return [slice(begin, begin + size) for begin in sorted(begins)]


def _part_of(problem: Any, part: slice) -> SimpleNamespace:
    """Return the problem of some of its images, rows or elements, as far as the reference reads it."""
    count = part.stop - part.start
    names = [name for name in dir(problem) if not name.startswith("_")]
    sizes = {name: getattr(problem, name) for name in names} | {"n": count, "count": count}
    for name in ("x_shape", "y_shape"):
        if name in sizes:
            sizes[name] = (count, *sizes[name][1:])
    # A stretch of the whole dropout mask, which is one row here.
    row = {"columns": count, "row_stride": part.stop, "first": part.start, "first_row": 0}
    return SimpleNamespace(**sizes | row)


def _floor(case: Case) -> float:
    return _FLOOR + _FUSED_FLOOR.get(case.operation, {}).get(case.element, 0.0)


def _reference(case: Case, problems: list[Any], given: dict[str, Any]) -> dict[str, Array]:
    if case.operation.endswith("maxpool_backward"):
        forward = getattr(reference, case.operation.replace("backward", "forward"))
        given = {"x": given["x"], "y": forward(*problems, given["x"]), **given}
    results = getattr(reference, case.operation)(*problems, *given.values())
    results = results if isinstance(results, tuple) else (results,)
    return dict(zip(OPERATIONS[case.operation].output_shapes(case.problem), results, strict=True))


def _check_relu_bias(inputs: dict[str, Any], results: dict[str, Array], floor: float) -> None:
    """Check all elements: they are integers, whose sums are exact.

    Only a peer may round the bias's gradient.
    """
    dx = np.where(inputs["y"] > 0, inputs["dy"], np.float32(0))
    wrong = np.count_nonzero(compare.values(results["dx"]) != dx)
    assert wrong == 0, f"{wrong:,} of {dx.size:,} elements of dx are wrong"
    db, sums = results["db"], dx.sum(axis=0, dtype=np.float64)
    compare.assert_close("db", db, sums, sums.astype(np.float32), floor=floor, dtype=db.dtype)


def _check_other_dropout(problem: Any, x: Array, y: Array) -> None:
    """Check that y is x with some of its elements dropped, however they were drawn."""
    kept = y != 0
    assert (y[kept] == x[kept] * np.float32(problem.scale)).all(), "y has elements that are not scale * x"
    there = np.count_nonzero(x)
    share = np.count_nonzero(kept) / there
    spread = math.sqrt(problem.keep * (1 - problem.keep) / there)
    assert abs(share - problem.keep) <= 6 * spread, f"{share:.4%} of y are kept, not {problem.keep:.4%}"
