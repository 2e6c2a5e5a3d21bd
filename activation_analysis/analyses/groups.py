"""What a user compares: arrays, tensors or recordings, brought to matrices of the same units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from activation_analysis.activations import Activations, Units

Group = Activations | np.ndarray  # a tensor will do wherever an array does


def matrix_of(group: Group, name: str) -> np.ndarray:
    """A group as a matrix, one row per prompt; ``name`` is what an error calls it."""
    return group.matrix() if isinstance(group, Activations) else array_of(group, name)


def array_of(values, name: str) -> np.ndarray:
    """A numpy array, also of a tensor on any device, without importing its library."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        return np.asarray(values)
    except TypeError as error:  # bfloat16 has no numpy counterpart
        if hasattr(values, "float"):
            return np.asarray(values.float())
        raise ValueError(f"{name} is not an array of numbers: {error}") from error


def shared_units(group1: Group, group2: Group) -> Units | None:
    """The addresses of the columns, where the groups are recordings of the same units."""
    recordings = [g for g in (group1, group2) if isinstance(g, Activations)]
    if len(recordings) == 2:
        refuse_mismatch(*recordings)
    return recordings[0].units() if recordings else None


def joined(condition1: Activations, condition2: Activations) -> Activations:
    """Both recordings as one, the first condition's prompts first."""
    refuse_mismatch(condition1, condition2)
    return replace(
        condition1,
        prompts=condition1.prompts + condition2.prompts,
        n_tokens=np.concatenate([condition1.n_tokens, condition2.n_tokens]),
        values={
            site: {k: np.concatenate([v, condition2.values[site][k]]) for k, v in layers.items()}
            for site, layers in condition1.values.items()
        },
    )


def refuse_mismatch(first: Activations, second: Activations) -> None:
    """A ValueError unless both were recorded with the same model, position, sites and layers."""
    for recording in (first, second):
        if not isinstance(recording, Activations):
            raise ValueError(
                f"layers are known of recordings only: expected what capture_batch returned, "
                f"received a {type(recording).__name__}; for bare arrays use compute_contrast"
            )
    for name, of in {
        "model": lambda r: r.model,
        "position": lambda r: r.position,
        "sites": lambda r: sorted(r.sites),
        "layers": lambda r: {site: sorted(layers) for site, layers in sorted(r.values.items())},
        "units per layer": lambda r: {
            (site, k): v.shape[1] for site, ls in sorted(r.values.items()) for k, v in ls.items()
        },
    }.items():
        if of(first) != of(second):
            raise ValueError(
                f"the two recordings differ in {name}: {of(first)!r} and {of(second)!r}; "
                f"record both conditions with the same model, position, sites and layers"
            )
