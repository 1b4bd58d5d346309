"""Every operation of kernels/api.h in a few plain NumPy lines: the oracle of all tests.

Each function has the name of its operation, takes the problem and the operation's inputs, and
returns its outputs in float64 (ranks in int32). Any array that reshapes to the problem's shape will
do. The formulas are those of kernels/api.h and kernels/problem.h, where their sources are; written
for reading and not for speed, but no loop runs over pixels.

    >>> with precision(np.float32):
    ...     y = conv_fprop(problem, x, w)

computes the same in float32: the plain baseline that says how much rounding error to expect.
"""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from cconvnet import bfloat16

Array = np.ndarray[Any, Any]

_dtype: ContextVar[Any] = ContextVar("dtype", default=np.float64)


@contextlib.contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """Within this context the functions of this module compute in `dtype` instead of float64."""
    token = _dtype.set(dtype)
    try:
        yield
    finally:
        _dtype.reset(token)


def _float(values: Array, shape: tuple[int, ...] | None = None) -> Array:
    array = np.asarray(values, dtype=_dtype.get())
    return array if shape is None else array.reshape(shape)


def _add_product(total: Array, a: Array, b: Array) -> None:
    """total += a @ b, term by term in float32, where it is to show the error of the plainest sum."""
    if total.dtype == np.float64:
        total += a @ b
        return
    for i in range(a.shape[-1]):
        total += a[..., i, None] * b[..., i, None, :]


# ---- convolution ---------------------------------------------------------------------------------


class Taps:
    """The image in a border of `fill` wide enough for every window, and the view each tap sees."""

    def __init__(self, problem: Any, x: Array, r: int, s: int, fill: float = 0.0) -> None:
        self.problem, self.r, self.s = problem, r, s
        # Between two taps; those of a pool are side by side.
        self.dilation = getattr(problem, "dilation_h", 1), getattr(problem, "dilation_w", 1)
        # A negative padding is no border: the first window begins inside the image.
        self.border = max(problem.pad_h, 0), max(problem.pad_w, 0)
        self.begin = self.border[0] - problem.pad_h, self.border[1] - problem.pad_w
        # The last window may end anywhere, as the padding at the right and bottom and the rounding want it.
        extent = (r - 1) * self.dilation[0] + 1, (s - 1) * self.dilation[1] + 1
        last = (problem.p - 1) * problem.stride_h, (problem.q - 1) * problem.stride_w
        height = max(self.border[0] + problem.h, self.begin[0] + last[0] + extent[0])
        width = max(self.border[1] + problem.w, self.begin[1] + last[1] + extent[1])
        self.padded = np.full((problem.n, height, width, problem.c), fill, dtype=x.dtype)
        self.image[...] = x

    @property
    def image(self) -> Array:
        top, left = self.border
        return self.padded[:, top : top + self.problem.h, left : left + self.problem.w, :]

    def __iter__(self) -> Iterator[tuple[int, int, Array]]:
        """(r, s, view) where view[n,p,q,c] is the pixel under tap (r, s) of window (p, q)."""
        o = self.problem
        for r in range(self.r):
            for s in range(self.s):
                top = self.begin[0] + r * self.dilation[0]
                left = self.begin[1] + s * self.dilation[1]
                rows = slice(top, top + (o.p - 1) * o.stride_h + 1, o.stride_h)
                columns = slice(left, left + (o.q - 1) * o.stride_w + 1, o.stride_w)
                yield r, s, self.padded[:, rows, columns, :]


def _groups(problem: Any) -> Iterator[tuple[slice, slice]]:
    """The channels of x and of y that belong to each group."""
    c, k = problem.c // problem.groups, problem.k // problem.groups
    for g in range(problem.groups):
        yield slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)


def conv_fprop(
    problem: Any,
    x: Array,
    w: Array,
    bias: Array | None = None,
    relu: bool = False,
    dropout: Any = None,
    step: Array | None = None,
) -> Array:
    """y[N,P,Q,K] = x[N,H,W,C] * w[K,R,S,C/groups] + bias[K], then max(0, .) if `relu`, then dropout,
    unless that problem is None."""
    x, w = _float(x, problem.x_shape), _float(w, problem.w_shape)
    y = np.zeros(problem.y_shape, dtype=x.dtype)
    for r, s, pixels in Taps(problem, x, problem.r, problem.s):
        for c, k in _groups(problem):
            _add_product(y[..., k], pixels[..., c], w[k, r, s].T)
    return _finish(_bias_relu(y, bias, relu), dropout, step)


def conv_dgrad(problem: Any, dy: Array, w: Array) -> Array:
    """dx[N,H,W,C] of dy[N,P,Q,K] and w[K,R,S,C/groups]."""
    dy, w = _float(dy, problem.y_shape), _float(w, problem.w_shape)
    taps = Taps(problem, np.zeros(problem.x_shape, dtype=dy.dtype), problem.r, problem.s)
    for r, s, pixels in taps:
        for c, k in _groups(problem):
            _add_product(pixels[..., c], dy[..., k], w[k, r, s])
    return taps.image.copy()


def conv_wgrad(problem: Any, x: Array, dy: Array) -> Array:
    """dw[K,R,S,C/groups] of x[N,H,W,C] and dy[N,P,Q,K]."""
    x, dy = _float(x, problem.x_shape), _float(dy, problem.y_shape)
    dw = np.zeros(problem.w_shape, dtype=x.dtype)
    for r, s, pixels in Taps(problem, x, problem.r, problem.s):
        for c, k in _groups(problem):
            rows = problem.n * problem.p * problem.q
            gradients, seen = dy[..., k].reshape(rows, -1), pixels[..., c].reshape(rows, -1)
            _add_product(dw[k, r, s], gradients.T, seen)
    return dw


def _bias_relu(y: Array, bias: Array | None, relu: bool, bias_axes: int = 1) -> Array:
    """`bias_axes`: how many of y's last axes the bias has."""
    if bias is not None:
        y = y + _float(bias, y.shape[-bias_axes:])
    return relu_forward(y) if relu else y


def _finish(y: Array, dropped: Any, step: Array | None) -> Array:
    """`dropped`: the DropoutProblem, or None."""
    return y if dropped is None else dropout(dropped, y, step)


# ---- locally connected ---------------------------------------------------------------------------


def _by_position(values: Array) -> Array:
    """[n,p,q,...] as [p,q,n,...]: one matrix for each position."""
    return values.transpose(1, 2, 0, 3)


def local_fprop(
    problem: Any,
    x: Array,
    w: Array,
    bias: Array | None = None,
    relu: bool = False,
    dropout: Any = None,
    step: Array | None = None,
) -> Array:
    """y[N,P,Q,K] of x[N,H,W,C], w[P,Q,K,R,S,C/groups] and bias[P,Q,K], finished as in conv_fprop."""
    x, w = _float(x, problem.x_shape), _float(w, problem.w_shape)
    y = np.zeros(problem.y_shape, dtype=x.dtype)
    for r, s, pixels in Taps(problem, x, problem.r, problem.s):
        for c, k in _groups(problem):
            filters = w[:, :, k, r, s].swapaxes(2, 3)
            _add_product(_by_position(y)[..., k], _by_position(pixels)[..., c], filters)
    return _finish(_bias_relu(y, bias, relu, bias_axes=3), dropout, step)


def local_dgrad(problem: Any, dy: Array, w: Array) -> Array:
    """dx[N,H,W,C] of dy[N,P,Q,K] and w[P,Q,K,R,S,C/groups]."""
    dy, w = _float(dy, problem.y_shape), _float(w, problem.w_shape)
    taps = Taps(problem, np.zeros(problem.x_shape, dtype=dy.dtype), problem.r, problem.s)
    for r, s, pixels in taps:
        for c, k in _groups(problem):
            _add_product(_by_position(pixels)[..., c], _by_position(dy)[..., k], w[:, :, k, r, s])
    return taps.image.copy()


def local_wgrad(problem: Any, x: Array, dy: Array) -> Array:
    """dw[P,Q,K,R,S,C/groups] of x[N,H,W,C] and dy[N,P,Q,K]."""
    x, dy = _float(x, problem.x_shape), _float(dy, problem.y_shape)
    dw = np.zeros(problem.w_shape, dtype=x.dtype)
    for r, s, pixels in Taps(problem, x, problem.r, problem.s):
        for c, k in _groups(problem):
            gradients = _by_position(dy)[..., k].swapaxes(2, 3)
            _add_product(dw[:, :, k, r, s], gradients, _by_position(pixels)[..., c])
    return dw


# ---- fully connected -----------------------------------------------------------------------------


def fc_fprop(
    problem: Any,
    x: Array,
    w: Array,
    bias: Array | None = None,
    relu: bool = False,
    dropout: Any = None,
    step: Array | None = None,
) -> Array:
    """y[N,K] = x[N,C] w[K,C]^T + bias[K], finished as in conv_fprop."""
    x, w = _float(x, problem.x_shape), _float(w, problem.w_shape)
    y = np.zeros(problem.y_shape, dtype=x.dtype)
    _add_product(y, x, w.T)
    return _finish(_bias_relu(y, bias, relu), dropout, step)


def fc_dgrad(problem: Any, dy: Array, w: Array) -> Array:
    """dx[N,C] = dy[N,K] w[K,C]."""
    dy, w = _float(dy, problem.y_shape), _float(w, problem.w_shape)
    dx = np.zeros(problem.x_shape, dtype=dy.dtype)
    _add_product(dx, dy, w)
    return dx


def fc_wgrad(problem: Any, x: Array, dy: Array) -> Array:
    """dw[K,C] = dy[N,K]^T x[N,C]."""
    x, dy = _float(x, problem.x_shape), _float(dy, problem.y_shape)
    dw = np.zeros(problem.w_shape, dtype=x.dtype)
    _add_product(dw, dy.T, x)
    return dw


# ---- bias ----------------------------------------------------------------------------------------


def bias_add(problem: Any, x: Array, bias: Array, relu: bool = False) -> Array:
    """y[rows,K] = x[rows,K] + bias[K], then max(0, .) if `relu`."""
    return _bias_relu(_float(x, (problem.rows, problem.k)), bias, relu)


def bias_grad(problem: Any, dy: Array) -> Array:
    """db[K] = the sum of dy[rows,K] over its rows."""
    # Row by row; NumPy's sum would add a single column pairwise.
    return np.add.accumulate(_float(dy, (problem.rows, problem.k)), axis=0)[-1]


def relu_bias_backward(problem: Any, y: Array, dy: Array, scale: float) -> tuple[Array, Array]:
    """(dx[rows,K], db[K]): dx = scale * dy where y > 0, else 0, and its sum over the rows."""
    dx = relu_backward(y, scale * _float(dy)).reshape(problem.rows, problem.k)
    return dx, bias_grad(problem, dx)


# ---- neurons -------------------------------------------------------------------------------------


def relu_forward(x: Array) -> Array:
    """y = max(0, x), of x's shape."""
    return np.maximum(_float(x), 0)


def relu_backward(y: Array, dy: Array) -> Array:
    """dx = dy where y > 0, else 0."""
    return np.where(_float(y) > 0, _float(dy), 0)


def _logistic(x: Array) -> Array:
    e = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1, e) / (1 + e)


def neuron_forward(problem: Any, x: Array) -> Array:
    """y = f(x) for the problem's neuron f with its parameters a and b, of x's shape."""
    x, a, b = _float(x), problem.a, problem.b
    match problem.neuron:
        case "linear":
            return a * x + b
        case "relu":
            return np.maximum(x, 0)
        case "tanh":
            return a * np.tanh(b * x)
        case "logistic":
            return _logistic(x)
        case "softrelu":
            return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
        case "abs":
            return np.abs(x)
        case "square":
            return x * x
        case "sqrt":
            return np.sqrt(x)
        case "brelu":
            return np.minimum(a, np.maximum(x, 0))
    raise ValueError(f"unknown neuron {problem.neuron!r}")


def neuron_backward(problem: Any, x: Array, y: Array, dy: Array) -> Array:
    """dx = dy * f'(x); at a kink the derivative is 0."""
    x, y, dy, a, b = _float(x), _float(y), _float(dy), problem.a, problem.b
    match problem.neuron:
        case "linear":
            return dy * a
        case "relu":
            return dy * (x > 0)
        case "tanh":
            # 1 - tanh(u)^2 = 4 e / (1 + e)^2 with e = exp(-2|u|), which does not cancel.
            e = np.exp(-2 * np.abs(b * x))
            return dy * (a * b * 4 * e / ((1 + e) * (1 + e)))
        case "logistic":
            return dy * (_logistic(x) * _logistic(-x))
        case "softrelu":
            return dy * _logistic(x)
        case "abs":
            return dy * np.sign(x)
        case "square":
            return dy * 2 * x
        case "sqrt":
            with np.errstate(divide="ignore"):
                return np.asarray(dy * (0.5 / y))
        case "brelu":
            return dy * ((x > 0) & (x < a))
    raise ValueError(f"unknown neuron {problem.neuron!r}")


# ---- local response normalisation ----------------------------------------------------------------


def _window_sum(values: Array, axis: int, first: int, last: int) -> Array:
    """out[i] = the sum of values[i+first] .. values[i+last] along `axis`, clipped at its ends."""
    extent = values.shape[axis]
    values = np.moveaxis(values, axis, 0)
    total = np.zeros_like(values)
    for offset in range(max(first, 1 - extent), min(last, extent - 1) + 1):
        begin, end = max(0, -offset), min(extent, extent - offset)
        total[begin:end] += values[begin + offset : end + offset]
    return np.moveaxis(total, 0, axis)


def _reach(problem: Any, transposed: bool) -> tuple[int, int]:
    """A window's first and last place; `transposed`: of the elements whose windows hold one."""
    first = -(problem.size // 2)
    last = first + problem.size - 1
    return (-last, -first) if transposed else (first, last)


def _map_sum(problem: Any, values: Array, transposed: bool = False) -> Array:
    """The sum over each element's window in the same map."""
    reach = _reach(problem, transposed)
    return _window_sum(_window_sum(values, 1, *reach), 2, *reach)


def _lrn_sum(problem: Any, values: Array, transposed: bool = False) -> Array:
    """The sum over each element's window; `transposed`: over the elements whose window holds it."""
    if problem.region == "same_map":
        return _map_sum(problem, values, transposed)
    n, h, w, c = values.shape
    grouped = values.reshape(n, h, w, problem.groups, c // problem.groups)
    return _window_sum(grouped, 4, *_reach(problem, transposed)).reshape(values.shape)


def lrn_forward(problem: Any, x: Array) -> Array:
    """y[N,H,W,C] = x * d^-beta with d = k + alpha * (the window's sum of x^2)."""
    x = _float(x, problem.x_shape)
    return np.asarray(x * (problem.k + problem.alpha * _lrn_sum(problem, x * x)) ** -problem.beta)


def lrn_backward(problem: Any, x: Array, dy: Array) -> Array:
    """dx[N,H,W,C] of x and dy."""
    x, dy = _float(x, problem.x_shape), _float(dy, problem.x_shape)
    d = problem.k + problem.alpha * _lrn_sum(problem, x * x)
    ratio = _lrn_sum(problem, dy * x * d ** (-problem.beta - 1), transposed=True)
    return np.asarray(dy * d**-problem.beta - 2 * problem.alpha * problem.beta * x * ratio)


def lrn_maxpool_forward(lrn: Any, pool: Any, x: Array) -> Array:
    """y[N,P,Q,C] = the maxima of x[N,H,W,C] normalised across channels."""
    return maxpool_forward(pool, lrn_forward(lrn, x))


def lrn_maxpool_backward(lrn: Any, pool: Any, x: Array, y: Array, dy: Array, relu: bool) -> Array:
    """dx[N,H,W,C] of x, y[N,P,Q,C] and dy[N,P,Q,C]; with `relu` 0 where x is not positive."""
    # A maximum is known by its value, rounded as y is.
    normalised = lrn_forward(lrn, x).astype(np.asarray(y).dtype)
    dx = lrn_backward(lrn, x, maxpool_backward(pool, normalised, y, dy))
    return relu_backward(_float(x, lrn.x_shape), dx) if relu else dx


# ---- contrast normalisation ----------------------------------------------------------------------


def _contrast(problem: Any, x: Array) -> tuple[Array, Array, Array]:
    """u[N,H,W,C] = x - (the window's mean), d = k + alpha * (the window's sum of u^2), sizes[1,H,W,1]."""
    sizes = _map_sum(problem, np.ones((1, problem.h, problem.w, 1), dtype=x.dtype))
    u = x - _map_sum(problem, x) / sizes
    return u, problem.k + problem.alpha * _map_sum(problem, u * u), sizes


def contrast_norm_forward(problem: Any, x: Array) -> Array:
    """y[N,H,W,C] = x * d^-beta."""
    x = _float(x, problem.x_shape)
    _, d, _ = _contrast(problem, x)
    return np.asarray(x * d**-problem.beta)


def contrast_norm_backward(problem: Any, x: Array, dy: Array) -> Array:
    """dx[N,H,W,C] of x and dy, the mean's part included."""
    x, dy = _float(x, problem.x_shape), _float(dy, problem.x_shape)
    u, d, sizes = _contrast(problem, x)
    ratio = _map_sum(problem, dy * x * d ** (-problem.beta - 1), transposed=True)
    g = -2 * problem.alpha * problem.beta * u * ratio
    return np.asarray(dy * d**-problem.beta + g - _map_sum(problem, g / sizes, transposed=True))


# ---- pooling -------------------------------------------------------------------------------------


def maxpool_forward(problem: Any, x: Array) -> Array:
    """y[N,P,Q,C] = the largest value of each clipped window; NaN if the window holds one."""
    x = _float(x, problem.x_shape)
    y = np.full(problem.y_shape, -np.inf, dtype=x.dtype)
    for _, _, pixels in Taps(problem, x, problem.window_h, problem.window_w, fill=-np.inf):
        np.maximum(y, pixels, out=y)
    return y


def maxpool_backward(problem: Any, x: Array, y: Array, dy: Array) -> Array:
    """dx[N,H,W,C] = the sum of dy over the windows whose y equals x."""
    x, y, dy = (_float(x, problem.x_shape), _float(y, problem.y_shape), _float(dy, problem.y_shape))
    images = Taps(problem, x, problem.window_h, problem.window_w)
    gradients = Taps(problem, np.zeros_like(x), problem.window_h, problem.window_w)
    for (_, _, pixels), (_, _, gradient) in zip(images, gradients, strict=True):
        gradient += np.where(pixels == y, dy, 0)
    return gradients.image.copy()


def _window_sizes(problem: Any) -> Array:
    """[1,P,Q,1]: how many pixels of the image, or of the padded image, each window holds."""
    o, sizes = problem, []
    for size, windows, window, stride, pad, pad_after in (
        (o.h, o.p, o.window_h, o.stride_h, o.pad_h, o.pad_bottom),
        (o.w, o.q, o.window_w, o.stride_w, o.pad_w, o.pad_right),
    ):
        low, high = (-pad, size + pad_after) if o.count_padding else (0, size)
        begin = np.arange(windows) * stride - pad
        sizes.append(np.minimum(begin + window, high) - np.maximum(begin, low))
    return _float(np.outer(*sizes)[None, :, :, None])


def avgpool_forward(problem: Any, x: Array) -> Array:
    """y[N,P,Q,C] = the mean over each clipped window; with count_padding, that of the padded image."""
    x = _float(x, problem.x_shape)
    y = np.zeros(problem.y_shape, dtype=x.dtype)
    for _, _, pixels in Taps(problem, x, problem.window_h, problem.window_w):
        y += pixels
    return y / _window_sizes(problem)


def avgpool_backward(problem: Any, dy: Array) -> Array:
    """dx[N,H,W,C] = the sum over the windows that hold x of dy / (what the mean divides by)."""
    share = _float(dy, problem.y_shape) / _window_sizes(problem)
    gradients = Taps(problem, np.zeros(problem.x_shape, share.dtype), problem.window_h, problem.window_w)
    for _, _, gradient in gradients:
        gradient += share
    return gradients.image.copy()


# ---- elementwise maximum -------------------------------------------------------------------------


def eltmax_forward(a: Array, b: Array) -> Array:
    """y = the larger of a and b, NaN if either is NaN."""
    return np.maximum(_float(a), _float(b))


def eltmax_backward(x: Array, y: Array, dy: Array) -> Array:
    """dx = dy where the input x is the maximum y, else 0."""
    return np.where(_float(x) == _float(y), _float(dy), 0)


# ---- dropout -------------------------------------------------------------------------------------


def philox4x32_10(counter: Array, key: Array) -> Array:
    """Four random words uint32[..., 4] of counters [..., 4] and keys [..., 2].

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    key0, key1 = np.moveaxis(np.asarray(key, dtype=np.uint64), -1, 0)
    for _ in range(10):
        product0 = np.uint64(0xD2511F53) * c0
        product1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> half) ^ c1 ^ key0,
            product1 & mask,
            (product0 >> half) ^ c3 ^ key1,
            product0 & mask,
        )
        key0 = (key0 + np.uint64(0x9E3779B9)) & mask
        key1 = (key1 + np.uint64(0xBB67AE85)) & mask
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def dropout_mask(problem: Any, step: Array | None = None) -> Array:
    """bool[count]: which elements are kept; `step` (one integer) is added to the subsequence."""
    subsequence = (problem.subsequence + (0 if step is None else int(np.asarray(step).item()))) % 2**64
    i = np.arange(problem.count)
    index = i // problem.columns * problem.row_stride + problem.first + i % problem.columns
    blocks, own = np.unique(index // 4, return_inverse=True)
    counter = np.zeros((blocks.size, 4), dtype=np.uint64)
    counter[:, 0] = blocks
    counter[:, 2:] = subsequence & 0xFFFFFFFF, subsequence >> 32
    key = np.array([problem.seed & 0xFFFFFFFF, problem.seed >> 32], dtype=np.uint64)
    words = philox4x32_10(counter, key)[own, index % 4]
    return words < np.uint64(float(np.float32(problem.keep)) * 2.0**32)


def dropout(problem: Any, x: Array, step: Array | None = None) -> Array:
    """y = x * scale where the element is kept, else 0, of x's shape."""
    x = _float(x)
    return np.where(dropout_mask(problem, step).reshape(x.shape), x * problem.scale, 0)


# ---- softmax and cross-entropy -------------------------------------------------------------------


def softmax_forward(problem: Any, logits: Array) -> Array:
    """probabilities[N,K] of logits[N,K]."""
    logits = _float(logits, (problem.n, problem.k))
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _onehot(problem: Any, labels: Array) -> tuple[Array, Array]:
    """onehot bool[N,K] and valid bool[N]: whether the label is a class."""
    labels = np.asarray(labels).reshape(problem.n)
    onehot = labels[:, None] == np.arange(problem.k)
    return onehot, onehot.any(axis=1)


def softmax_cross_entropy_forward(problem: Any, logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """(probabilities[N,K], loss[N], rank int32[N]) of logits[N,K] and labels[N].

    loss = -log(probability of the label); rank = how many classes stand before the label when
    sorted by falling logit, ties by rising class.
    """
    logits = _float(logits, (problem.n, problem.k))
    onehot, valid = _onehot(problem, labels)
    label = np.where(valid, onehot.argmax(axis=1), 0)[:, None]

    shifted = logits - logits.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, label, axis=1)
    loss = np.log(np.exp(shifted).sum(axis=1)) - own[:, 0]
    before = (shifted > own) | ((shifted == own) & (np.arange(problem.k) < label))
    rank = before.sum(axis=1)

    countable = valid & ~np.isnan(logits).any(axis=1)
    return (
        softmax_forward(problem, logits),
        np.where(valid, loss, np.nan),
        np.where(countable, rank, problem.k).astype(np.int32),
    )


def softmax_cross_entropy_backward(problem: Any, probabilities: Array, labels: Array, scale: float) -> Array:
    """dlogits[N,K] = scale * (probabilities - onehot(label)); NaN where the label is no class."""
    onehot, valid = _onehot(problem, labels)
    dlogits = scale * (_float(probabilities, (problem.n, problem.k)) - _float(onehot))
    return np.where(valid[:, None], dlogits, np.nan)


def softmax_cross_entropy(
    problem: Any, logits: Array, labels: Array, scale: float
) -> tuple[Array, Array, Array, Array]:
    """(probabilities[N,K], loss[N], rank int32[N], dlogits[N,K]): forward and backward."""
    probabilities, loss, rank = softmax_cross_entropy_forward(problem, logits, labels)
    dlogits = softmax_cross_entropy_backward(problem, probabilities, labels, scale)
    return probabilities, loss, rank, dlogits


def watch_losses(loss: Array) -> Array:
    """int32[1]: 1 if any of the losses is infinite or NaN, else 0."""
    return np.array([not np.isfinite(loss).all()], np.int32)


# ---- update --------------------------------------------------------------------------------------


def sgd_update(
    problem: Any,
    g: Array,
    v: Array,
    w: Array,
    rates: Array | None = None,
    halt: Array | None = None,
) -> tuple[Array, Array]:
    """(v, w) after v = momentum*v - lr*(g + weight_decay*w); w = w + v.

    `rates` are lr and momentum in the place of the problem's; with `halt` other than 0 nothing changes.
    """
    g, v, w = _float(g), _float(v), _float(w)
    if halt is not None and np.asarray(halt).item() != 0:
        return v, w
    lr, momentum = (problem.lr, problem.momentum) if rates is None else (float(rate) for rate in rates)
    v = momentum * v - lr * (g.reshape(v.shape) + problem.weight_decay * w)
    return v, w + v


def limit_norm(problem: Any, w: Array) -> Array:
    """w[rows,columns], each row whose norm is above the problem's limit scaled down to it, and below its
    `low`, but not 0, up to that; with `centered` the norm is that of the row minus its mean."""
    o, w = problem, _float(w, (problem.rows, problem.columns))
    part = w
    if o.centered:
        # Of equal values this leaves zeros; their mean, rounded, would leave something.
        part = w - w[:, :1]
        part = part - part.mean(axis=1, keepdims=True)
    norm = np.sqrt((part * part).sum(axis=1, keepdims=True))
    # A norm between the two, 0 among them, scales by 1.
    limited = np.where(norm > o.limit, w * (o.limit / np.maximum(norm, o.limit)), w)
    short = (norm > 0) & (norm < o.low)
    return np.where(short, w * (o.low / np.where(short, norm, 1)), limited)


# ---- input ---------------------------------------------------------------------------------------


def input_transform(
    problem: Any,
    images: Array,
    top: Array,
    left: Array,
    mirror: Array,
    mean: Array | None = None,
    shift: Array | None = None,
    scale: float = 1.0,
) -> Array:
    """y[N,P,Q,C] = scale * (image - mean[H,W,C] + shift[N,C]) of a crop of each images[N,H,W,C]; with the
    problem's block above 1, that in a border of `pad` zeros, cut into blocks.

    With the problem's center_mean the mean is cut out at the centre and not mirrored, whatever the crop.
    """
    o = problem
    pixels = _float(images, (o.n, o.h, o.w, o.c))
    if mean is not None and not o.center_mean:
        pixels = pixels - _float(mean, (o.h, o.w, o.c))
    if shift is not None:
        pixels = pixels + _float(shift, (o.n, 1, 1, o.c))
    top = np.clip(np.asarray(top).reshape(o.n), 0, o.h - o.p)
    left = np.clip(np.asarray(left).reshape(o.n), 0, o.w - o.q)
    y = np.empty((o.n, o.p, o.q, o.c), dtype=pixels.dtype)
    for n, mirrored in enumerate(np.asarray(mirror).reshape(o.n)):
        crop = pixels[n, top[n] : top[n] + o.p, left[n] : left[n] + o.q]
        y[n] = crop[:, ::-1] if mirrored else crop
    if mean is not None and o.center_mean:
        i, j = (o.h - o.p) // 2, (o.w - o.q) // 2
        y -= _float(mean, (o.h, o.w, o.c))[i : i + o.p, j : j + o.q]
    if o.block > 1:
        y = np.pad(y, ((0, 0), (o.pad, o.pad), (o.pad, o.pad), (0, 0)))
    return _blocks(scale * y, o.block)


def _blocks(images: Array, block: int) -> Array:
    """[N,H,W,C], with zeros up to multiples of `block`, as [N, H/block, W/block, block*block*C]."""
    images = np.pad(images, ((0, 0), (0, -images.shape[1] % block), (0, -images.shape[2] % block), (0, 0)))
    n, h, w, c = images.shape
    squares = images.reshape(n, h // block, block, w // block, block, c).swapaxes(2, 3)
    return squares.reshape(n, h // block, w // block, block * block * c)


def filters_to_blocks(problem: Any, w: Array) -> Array:
    """blocks[K, blocks_r, blocks_s, block*block*C] of w[K,R,S,C]."""
    return _blocks(_float(w, problem.w_shape), problem.block)


def filters_from_blocks(problem: Any, dblocks: Array) -> Array:
    """dw[K,R,S,C] of dblocks[K, blocks_r, blocks_s, block*block*C]."""
    o = problem
    k, blocks_r, blocks_s, _ = o.blocks_shape
    squares = _float(dblocks, (k, blocks_r, blocks_s, o.block, o.block, o.c)).swapaxes(2, 3)
    whole = squares.reshape(k, blocks_r * o.block, blocks_s * o.block, o.c)
    return whole[:, : o.r, : o.s].copy()


# ---- plain ---------------------------------------------------------------------------------------


def add(a: Array, b: Array, alpha: float = 1.0, beta: float = 1.0) -> Array:
    """y = alpha * a + beta * b."""
    return alpha * _float(a) + beta * _float(b)


def to_bf16(x: Array) -> Array:
    """x, each element rounded to a bfloat16."""
    return _float(bfloat16.unpack(bfloat16.pack(x)))


def from_bf16(x: Array) -> Array:
    """x: a bfloat16 is a float."""
    return _float(x)
