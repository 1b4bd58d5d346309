"""Problems: the shapes and parameters of every operation, as kernels/problem.h computes them."""

class ConvProblem:
    """A convolution of x[n,h,w,c] with filters w[k,r,s,c/groups], which gives y[n,p,q,k].

    Stride, padding and dilation are (vertical, horizontal); padding may hold a pair (before, after) for
    an axis. `outputs` (p, q) takes the place of rounding and of the padding behind the image.
    """
    def __init__(
        self,
        n: int,
        h: int,
        w: int,
        c: int,
        k: int,
        r: int,
        s: int,
        stride: tuple[int, int] = ...,
        padding: tuple[int | tuple[int, int], int | tuple[int, int]] = ...,
        groups: int = ...,
        rounding: str = ...,
        precision: str = ...,
        outputs: tuple[int, int] | None = ...,
        dilation: tuple[int, int] = ...,
    ) -> None: ...
    n: int
    h: int
    w: int
    c: int
    k: int
    r: int
    s: int
    p: int
    q: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    groups: int
    dilation_h: int
    dilation_w: int
    precision: str
    x_shape: tuple[int, int, int, int]
    y_shape: tuple[int, int, int, int]
    flops: float
    w_shape: tuple[int, int, int, int]
    y_pitch: int
    y_first: int
    def placed(self, pitch: int, first: int) -> ConvProblem: ...

class LocalProblem:
    """A convolution with filters w[p,q,k,r,s,c/groups] and biases bias[p,q,k] for every position."""
    def __init__(
        self,
        n: int,
        h: int,
        w: int,
        c: int,
        k: int,
        r: int,
        s: int,
        stride: tuple[int, int] = ...,
        padding: tuple[int | tuple[int, int], int | tuple[int, int]] = ...,
        groups: int = ...,
        rounding: str = ...,
        precision: str = ...,
        outputs: tuple[int, int] | None = ...,
        dilation: tuple[int, int] = ...,
    ) -> None: ...
    n: int
    h: int
    w: int
    c: int
    k: int
    r: int
    s: int
    p: int
    q: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    groups: int
    dilation_h: int
    dilation_w: int
    precision: str
    x_shape: tuple[int, int, int, int]
    y_shape: tuple[int, int, int, int]
    flops: float
    w_shape: tuple[int, int, int, int, int, int]
    bias_shape: tuple[int, int, int]

class FcProblem:
    """A fully connected layer, y[n,k] = x[n,c] times the transpose of w[k,c]."""
    def __init__(self, n: int, c: int, k: int, precision: str = ...) -> None: ...
    n: int
    c: int
    k: int
    precision: str
    x_shape: tuple[int, int]
    w_shape: tuple[int, int]
    y_shape: tuple[int, int]
    flops: float

class BiasProblem:
    """A bias[k] of each row of x, y and dy[rows,k]."""
    def __init__(self, rows: int, k: int) -> None: ...
    rows: int
    k: int
    pitch: int
    first: int
    def placed(self, pitch: int, first: int) -> BiasProblem: ...

class NeuronProblem:
    """An elementwise function of `count` numbers, with its parameters a and b."""
    def __init__(self, count: int, neuron: str = ..., a: float = ..., b: float = ...) -> None: ...
    count: int
    neuron: str
    a: float
    b: float

class PoolProblem:
    """Pooling of x[n,h,w,c] to y[n,p,q,c].

    Pairs are (vertical, horizontal); padding may hold a pair (before, after) for an axis. `outputs` (p,
    q) takes the place of rounding.
    """
    def __init__(
        self,
        n: int,
        h: int,
        w: int,
        c: int,
        window: tuple[int, int] = ...,
        stride: tuple[int, int] = ...,
        padding: tuple[int | tuple[int, int], int | tuple[int, int]] = ...,
        rounding: str = ...,
        outputs: tuple[int, int] | None = ...,
        count_padding: bool = ...,
    ) -> None: ...
    n: int
    h: int
    w: int
    c: int
    p: int
    q: int
    window_h: int
    window_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    pad_bottom: int
    pad_right: int
    count_padding: bool
    x_shape: tuple[int, int, int, int]
    y_shape: tuple[int, int, int, int]

class LrnProblem:
    """Response normalisation of x[n,h,w,c]; alpha multiplies the plain sum of squares."""
    def __init__(
        self,
        n: int,
        h: int,
        w: int,
        c: int,
        size: int = ...,
        alpha: float = ...,
        beta: float = ...,
        k: float = ...,
        groups: int = ...,
        region: str = ...,
    ) -> None: ...
    n: int
    h: int
    w: int
    c: int
    size: int
    alpha: float
    beta: float
    k: float
    groups: int
    region: str
    x_shape: tuple[int, int, int, int]

class ContrastNormProblem:
    """Contrast normalisation of x[n,h,w,c]; alpha multiplies the plain sum of squares."""
    def __init__(
        self,
        n: int,
        h: int,
        w: int,
        c: int,
        size: int = ...,
        alpha: float = ...,
        beta: float = ...,
        k: float = ...,
    ) -> None: ...
    n: int
    h: int
    w: int
    c: int
    size: int
    alpha: float
    beta: float
    k: float
    count: int
    x_shape: tuple[int, int, int, int]

class BatchNormProblem:
    """Batch normalisation of the columns of x[rows,k], of which the first `counted` rows count."""
    def __init__(self, rows: int, k: int, counted: int = ..., eps: float = ...) -> None: ...
    rows: int
    k: int
    counted: int
    eps: float

class DropoutProblem:
    """Dropout of `count` elements, each kept with probability `keep`."""
    def __init__(
        self,
        count: int,
        keep: float,
        scale: float = ...,
        seed: int = ...,
        subsequence: int = ...,
        columns: int = ...,
        row_stride: int = ...,
        first: int = ...,
        first_row: int = ...,
    ) -> None: ...
    count: int
    keep: float
    scale: float
    seed: int
    subsequence: int
    columns: int
    row_stride: int
    first: int
    first_row: int
    threshold: int

class SoftmaxProblem:
    """Softmax of each row of logits[n,k]; rows with the label `ignore` count for nothing."""
    def __init__(self, n: int, k: int, ignore: int | None = ..., smoothing: float = ...) -> None: ...
    n: int
    k: int
    smoothing: float
    ignore: int | None

class L2CostProblem:
    """The squared distance of each row of x[n,k] from its target."""
    def __init__(self, n: int, k: int) -> None: ...
    n: int
    k: int

class SgdProblem:
    """One update of a tensor of `count` parameters."""
    def __init__(
        self, count: int, lr: float, momentum: float = ..., weight_decay: float = ..., nesterov: bool = ...
    ) -> None: ...
    count: int
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool

class LarsProblem:
    """The rate of a tensor of `count` parameters by the norms of them and their gradient."""
    def __init__(self, count: int, eta: float, weight_decay: float = ..., eps: float = ...) -> None: ...
    count: int
    eta: float
    weight_decay: float
    eps: float

class NormLimitProblem:
    """Limits, from `low` to `limit`, to the norm of each row of w[rows,columns]."""
    def __init__(
        self, rows: int, columns: int, limit: float, low: float = ..., centered: bool = ...
    ) -> None: ...
    rows: int
    columns: int
    limit: float
    low: float
    centered: bool

class TreeSumProblem:
    """The sum of the rows of x[parts,count], times `scale`.

    After part i is pushed on a stack, the two topmost sums are added merges[i] times.
    """
    def __init__(self, count: int, merges: list[int], scale: float = ...) -> None: ...
    count: int
    parts: int
    merges: list[int]
    scale: float

class InputProblem:
    """Crops y[n,p,q,c] of images[n,h,w,c] within `margin` zeros.

    With block > 1 they are padded and cut into y[n,blocks_h,blocks_w,block*block*c].
    """
    def __init__(
        self,
        n: int,
        h: int,
        w: int,
        c: int,
        p: int,
        q: int,
        center_mean: bool = ...,
        block: int = ...,
        pad: int = ...,
        margin: int = ...,
    ) -> None: ...
    n: int
    h: int
    w: int
    c: int
    p: int
    q: int
    center_mean: bool
    block: int
    pad: int
    margin: int
    y_shape: tuple[int, int, int, int]

class FilterBlocksProblem:
    """Filters w[k,r,s,c] of stride `block` as blocks[k,blocks_r,blocks_s,block*block*c]."""
    def __init__(self, k: int, r: int, s: int, c: int, block: int) -> None: ...
    k: int
    r: int
    s: int
    c: int
    block: int
    w_shape: tuple[int, int, int, int]
    blocks_shape: tuple[int, int, int, int]
