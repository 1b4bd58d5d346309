_Pair = tuple[int, int]
_Padding = tuple[int | _Pair, int | _Pair]

class _WindowsProblem:
    def __init__(
        self,
        n: int,
        h: int,
        w: int,
        c: int,
        k: int,
        r: int,
        s: int,
        stride: _Pair = ...,
        padding: _Padding = ...,
        groups: int = ...,
        rounding: str = ...,
        precision: str = ...,
        outputs: _Pair | None = ...,
        dilation: _Pair = ...,
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

class ConvProblem(_WindowsProblem):
    w_shape: tuple[int, int, int, int]

class LocalProblem(_WindowsProblem):
    w_shape: tuple[int, int, int, int, int, int]
    bias_shape: tuple[int, int, int]

class FcProblem:
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
    def __init__(self, rows: int, k: int) -> None: ...
    rows: int
    k: int

class NeuronProblem:
    def __init__(self, count: int, neuron: str = ..., a: float = ..., b: float = ...) -> None: ...
    count: int
    neuron: str
    a: float
    b: float

class PoolProblem:
    def __init__(
        self,
        n: int,
        h: int,
        w: int,
        c: int,
        window: _Pair = ...,
        stride: _Pair = ...,
        padding: _Padding = ...,
        rounding: str = ...,
        outputs: _Pair | None = ...,
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

class DropoutProblem:
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
    ) -> None: ...
    count: int
    keep: float
    scale: float
    seed: int
    subsequence: int
    columns: int
    row_stride: int
    first: int
    threshold: int

class SoftmaxProblem:
    def __init__(self, n: int, k: int) -> None: ...
    n: int
    k: int

class SgdProblem:
    def __init__(self, count: int, lr: float, momentum: float = ..., weight_decay: float = ...) -> None: ...
    count: int
    lr: float
    momentum: float
    weight_decay: float

class NormLimitProblem:
    def __init__(
        self, rows: int, columns: int, limit: float, low: float = ..., centered: bool = ...
    ) -> None: ...
    rows: int
    columns: int
    limit: float
    low: float
    centered: bool

class InputProblem:
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
    y_shape: tuple[int, int, int, int]

class FilterBlocksProblem:
    def __init__(self, k: int, r: int, s: int, c: int, block: int) -> None: ...
    k: int
    r: int
    s: int
    c: int
    block: int
    w_shape: tuple[int, int, int, int]
    blocks_shape: tuple[int, int, int, int]
