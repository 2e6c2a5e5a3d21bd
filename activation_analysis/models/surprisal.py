"""How unexpected is a prompt to the model itself?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from activation_analysis.errors import ModelError
from activation_analysis.progress import stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 2048  # of one forward pass: their logits take 400 MB at 50,000 words


def mean_surprisal(
    model: PreTrainedModel, token_ids: Sequence[Sequence[int]], *, progress: bool = True
) -> np.ndarray:
    """Mean surprisal of every prompt's tokens but the first, in bits, (n_prompts,) float64.

        surprisal = mean over t > 1 of -log2 p(token_t | token_1 ... token_t-1)

    NaN where a prompt has a single token. Padding stands on the right, where a causal model does
    not see it.

    Raises
    ------
    ModelError
        If the model predicts no next token (an encoder).

    References
    ----------
    Levy (2008), Cognition 106:1126-1177.
    """
    import torch

    if not getattr(model.config, "is_decoder", True) or model.get_output_embeddings() is None:
        raise ModelError("surprisal needs a model that predicts the next token; this one does not")
    bits = np.full(len(token_ids), np.nan)
    order = [row for row in np.argsort([len(ids) for ids in token_ids]) if len(token_ids[row]) > 1]
    with stage("Reading surprisal", len(order), shown=progress) as advance, torch.inference_mode():
        for rows in _batches(order, token_ids):
            longest = len(token_ids[rows[-1]])
            ids = torch.zeros((len(rows), longest), dtype=torch.long)
            real = torch.zeros((len(rows), longest), dtype=torch.long)
            for at, row in enumerate(rows):
                ids[at, : len(token_ids[row])] = torch.tensor(list(token_ids[row]))
                real[at, : len(token_ids[row])] = 1
            ids, real = ids.to(model.device), real.to(model.device)
            logits = model(input_ids=ids, attention_mask=real).logits[:, :-1].float()
            told = logits.gather(2, ids[:, 1:, None])[:, :, 0] - logits.logsumexp(dim=2)
            counted = real[:, 1:]
            mean = -(told * counted).sum(dim=1) / counted.sum(dim=1) / np.log(2)
            bits[rows] = mean.double().cpu().numpy()
            advance(len(rows))
    return bits


def _batches(order: Sequence[int], token_ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of similar length together, `BATCH_TOKENS` of padded tokens at most."""
    batches: list[list[int]] = []
    for row in order:
        size = (len(batches[-1]) + 1) * len(token_ids[row]) if batches else 0
        if not batches or size > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches
