"""Units that do not respond, of prompts that come in groups."""

import numpy as np


def layout(sizes_a, sizes_b, *, crossed=False):
    """Conditions and groups of every prompt."""
    first = np.repeat(np.arange(len(sizes_a)), sizes_a)
    second = np.repeat(np.arange(len(sizes_b)), sizes_b) + (0 if crossed else len(sizes_a))
    return np.repeat([True, False], [len(first), len(second)]), np.r_[first, second]


def null_units(group, icc, n_units, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(group.max() + 1, n_units))[group]
    return np.sqrt(icc) * shared + np.sqrt(1 - icc) * rng.normal(size=shared.shape)
