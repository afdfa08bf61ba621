"""The Frechet distance of two sets of features, of which FVD is one (arXiv 1812.01717)."""

import numpy as np

from mindsora.errors import InputError

FEW = 256  # clips below which the distance depends more on their number than on the model


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of normal distributions fitted to two sets of features.

    Args:
        a, b: (N, D) and (M, D), float; at least 2 rows each. Covariances are the samples' (divided by N - 1).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(f"features of shapes {a.shape}, {b.shape}: must be (N, D) and (M, D) with N and M at least 2")
    shift = a.mean(0) - b.mean(0)
    cov_a, cov_b = (np.cov(features, rowvar=False).reshape(features.shape[1], -1) for features in (a, b))
    # tr (S_a S_b)^(1/2) = tr (R S_b R)^(1/2) with R = S_a^(1/2): symmetric, hence real even where S_a is singular.
    root = _root(cov_a)
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
