"""How far two recordings of the same tokens are apart, as one number."""

from __future__ import annotations

import torch


def relative_difference(
    found: torch.Tensor, expected: torch.Tensor, *, scale: torch.Tensor | None = None
) -> float:
    """The largest relative Euclidean distance of any token, in units of each coordinate's size.

        s_j = max(rms_t(y_tj), mean_k rms_t(y_tk))
        n_t = ||y_t / s||
        d   = max_t ||(x_t - y_t) / s|| / max(n_t, mean_u n_u)

    The maximum over tokens, not a mean: one wrong token among hundreds, or one prompt that took
    another's row, is the whole number. Division by s lets a massive coordinate count as one
    coordinate among the others. Its rounding is then no error, and an error in the others does
    not drown in its norm, as it would in ||x - y|| / ||y||: with one coordinate of 10,000 among
    576 of order one, all others wrong would be 0.002. No coordinate is enlarged beyond the
    average one, and no token beyond the average token, for what is nearly nothing (a dead
    neuron, an attention output that cancels) is made of the rounding of larger terms.

    Values that are not finite in both at the same place are equal there.

    Parameters
    ----------
    found, expected : x and y, (n_tokens, width)
    scale : (n_tokens, width), takes the place of y in s and n where the difference is to be
        judged by something smaller than y

    Returns
    -------
    float
        0 where nothing differs; infinity where one of the two alone is finite, or where there is
        nothing to compare with.
    """
    x, y = found.double(), expected.double()
    error = torch.where(~x.isfinite() & ~y.isfinite(), 0.0, x - y)
    if not bool(error.any()):
        return 0.0
    sizes = (y if scale is None else scale.double()).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    per_coordinate = sizes.square().mean(dim=0).sqrt()
    per_coordinate = per_coordinate.clamp(min=float(per_coordinate.mean()))
    if not bool(per_coordinate.any()):
        return float("inf")
    per_token = (sizes / per_coordinate).norm(dim=1)
    per_token = per_token.clamp(min=float(per_token.mean()))
    worst = ((error / per_coordinate).norm(dim=1) / per_token).max()
    return float(worst.nan_to_num(nan=torch.inf, posinf=torch.inf))
