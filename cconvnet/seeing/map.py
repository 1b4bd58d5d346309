"""Features in the plane: principal components, or t-SNE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cconvnet.errors import nearest
from cconvnet.seeing.probe import Floats
from cconvnet.system.installation import pip_install

METHODS = ("pca", "tsne")
# t-SNE begins with so many principal components, as in van der Maaten and Hinton 2008, section 4.2.
_COMPONENTS = 30


def plane(features: Floats, method: str = "pca", seed: int = 0) -> NDArray[np.float64]:
    """Return a point of the plane for each row of features.

    Args:
        features: float[n, ...], at least three rows.
        method: "pca", the first two principal components; or "tsne", which keeps neighbours together.
        seed: Of t-SNE.

    Returns:
        float64[n,2].

    Raises:
        ValueError: There is no such method, there are too few rows, or scikit-learn is missing.
    """
    if method not in METHODS:
        raise ValueError(nearest("--method", method, METHODS))
    if len(features) < 3:
        raise ValueError(f"a map needs at least 3 images, not {len(features)}")
    flat = features.reshape(len(features), -1).astype(np.float64)
    if method == "pca":
        return _components(flat, 2)
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ValueError(
            f"--method tsne needs scikit-learn, which is missing: {pip_install('scikit-learn')}"
        ) from error
    perplexity = min(30.0, (len(flat) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    found: NDArray[np.float64] = model.fit_transform(_components(flat, _COMPONENTS)).astype(np.float64)
    return found


def _components(flat: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the first principal components, at most as many as there are rows or columns."""
    centred = flat - flat.mean(0)
    # Of the smaller of the two Gram matrices, whose eigenvectors give those of the other.
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    found = u[:, :count] * s[:count]
    # The sign of a component is arbitrary: its largest value is positive, so that maps repeat.
    signs = np.sign(found[np.abs(found).argmax(0), np.arange(found.shape[1])])
    found = found * np.where(signs == 0, 1, signs)
    return np.pad(found, ((0, 0), (0, max(0, min(count, 2) - found.shape[1]))))
