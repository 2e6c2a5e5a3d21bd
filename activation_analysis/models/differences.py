"""How far two recordings of the same tokens are apart, as one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def relative_difference(
    found: torch.Tensor, expected: torch.Tensor, *, scale: torch.Tensor | None = None
) -> float:
    """The largest of `token_differences`: 0 where nothing differs."""
    return worst_token([token_differences(found, expected, scale=scale)])


def token_differences(
    found: torch.Tensor, expected: torch.Tensor, *, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """The relative Euclidean distance of every token, in units of each coordinate's size.

        s_j = max(rms_t(y_tj), mean_k rms_t(y_tk))
        n_t = ||y_t / s||
        d_t = ||(x_t - y_t) / s|| / max(n_t, mean_u n_u)

    Division by s lets a massive coordinate count as one coordinate among the others: its rounding
    is no error, and an error in the others does not drown in its norm, as it would in
    ||x - y|| / ||y||, where one coordinate of 10,000 among 576 of order one makes all others
    wrong a matter of 0.002. No coordinate is enlarged beyond the
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
    (n_tokens,) float64
        Infinity where one of the two alone is finite, or where there is nothing to compare with.
    """
    x, y = found.double(), expected.double()
    error = torch.where(~x.isfinite() & ~y.isfinite(), 0.0, x - y)
    sizes = (y if scale is None else scale.double()).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    per_coordinate = sizes.square().mean(dim=0).sqrt()
    per_coordinate = per_coordinate.clamp(min=float(per_coordinate.mean()))
    per_token = (sizes / per_coordinate).norm(dim=1)
    per_token = per_token.clamp(min=float(per_token.mean()))
    distances = (error / per_coordinate).norm(dim=1) / per_token
    distances = torch.where((error == 0).all(dim=1), 0.0, distances)
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf)


def worst_token(prompts: Sequence[torch.Tensor]) -> float:
    """The largest difference of any token of any prompt.

    Not a mean: one wrong token among hundreds, or one prompt that took another's row, is the
    whole number.
    """
    return max(float(differences.max()) for differences in prompts)


def typical_token(prompts: Sequence[torch.Tensor]) -> float:
    """The largest, over prompts, of the median difference of the prompt's tokens.

    For mixtures of experts in half precision, where rounding sends a token near a tie to another
    expert: that token is then off by half its size, and nothing is wrong. One wrong prompt is
    seen, one wrong token is not.
    """
    return max(float(differences.median()) for differences in prompts)


MEASURES: dict[str, Callable[[Sequence[torch.Tensor]], float]] = {
    "worst token": worst_token,
    "typical token": typical_token,
}
