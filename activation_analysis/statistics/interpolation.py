"""A smooth, slow function of one number, at very many numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.interpolate import make_interp_spline

DEGREE = 5
FEWEST_NODES = 16
BEYOND = 4  # nodes after the last value, for a spline is at its worst beside its end


def interpolated(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, *, step: float, start: float
) -> np.ndarray:
    """``function(x)`` by a quintic spline over ``start, start + step, ...``, in the shape of ``x``.

    The error falls with the sixth power of ``step``. Where ``x`` has no more values than the grid
    needs nodes, the function itself is called. NaN stays NaN.

    Parameters
    ----------
    function : of an array of any length, elementwise, smooth from ``start`` on
    x : array of any shape
        No value below ``start``.
    """
    x = np.asarray(x, dtype=float)
    end = np.nanmax(x, initial=start)
    n_nodes = max(FEWEST_NODES, int(np.ceil((end - start) / step)) + 1 + BEYOND)
    if x.size <= n_nodes:
        return function(x)
    nodes = start + step * np.arange(n_nodes)
    return make_interp_spline(nodes, function(nodes), k=DEGREE)(x)
