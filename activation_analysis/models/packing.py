"""Prompts side by side in one row, each blind to the others.

Position ids restart at every prompt, which transformers reads as packing; the attention product
itself is then done prompt by prompt. The block-diagonal mask of the whole row, most of which
would be computed to be thrown away, is only consulted for what it says inside a prompt (a
sliding window, say). A shared prefix stands before the row in keys and values.

Whether a model keeps packed prompts apart is not read from a table: it is proved at load.
"""

from __future__ import annotations

import torch


class PackingError(RuntimeError):
    """This model's attention mask does not let prompts share a row; padding does."""


class SeparateAttention:
    """An attention product over one row of prompts, done prompt by prompt.

    Stands in for ``scaled_dot_product_attention`` while the row is read.

    Parameters
    ----------
    lengths : tokens of each prompt of the row, in order
    n_prefix : keys that stand before the row and that every prompt sees

    ``n_products`` counts the attention products that were seen.
    """

    def __init__(self, lengths: list[int], n_prefix: int = 0) -> None:
        self.lengths, self.n_prefix = lengths, n_prefix
        self.n_products = 0
        # By id; the masks are kept, or another one could be given the same id.
        self._masks: dict[int, tuple[torch.Tensor, list[torch.Tensor | None]]] = {}

    def __call__(self, func, query, key, value, attn_mask=None, dropout_p=0.0, **options):
        self.n_products += 1
        if query.shape[0] != 1 or query.shape[-2] != sum(self.lengths):
            raise PackingError(f"attention of {tuple(query.shape)} over a row of {self.lengths}")
        if key.shape[-2] != query.shape[-2] + self.n_prefix:
            raise PackingError(
                f"attention over {key.shape[-2]} keys, but {query.shape[-2]} tokens were read "
                f"after a prefix of {self.n_prefix}"
            )
        if len(self.lengths) == 1 and not self.n_prefix:
            return func(query, key, value, attn_mask, **options)
        return self._prompt_by_prompt(func, query, key, value, attn_mask, **options)

    def _prompt_by_prompt(self, func, query, key, value, attn_mask, is_causal=False, **options):
        n = self.n_prefix
        parts = []
        for k, v, q, mask in zip(
            key[..., n:, :].split(self.lengths, dim=-2),
            value[..., n:, :].split(self.lengths, dim=-2),
            query.split(self.lengths, dim=-2),
            self._inside(attn_mask),
            strict=True,
        ):
            if n:
                k = torch.cat([key[..., :n, :], k], dim=-2)
                v = torch.cat([value[..., :n, :], v], dim=-2)
            plain = mask is None and not n and (is_causal or attn_mask is not None)
            parts.append(func(q, k, v, attn_mask=mask, is_causal=plain, **options))
        return torch.cat(parts, dim=-2)

    def _inside(self, mask: torch.Tensor | None) -> list[torch.Tensor | None]:
        """What the row's mask says inside each prompt; None where that is plainly causal."""
        if mask is None:
            if self.n_prefix:
                raise PackingError("no mask after a prefix: later tokens would be seen")
            return [None] * len(self.lengths)
        if id(mask) not in self._masks:
            self._masks[id(mask)] = (mask, self._cut(mask))
        return self._masks[id(mask)][1]

    def _cut(self, mask: torch.Tensor) -> list[torch.Tensor | None]:
        n, start, cut = self.n_prefix, 0, []
        for length in self.lengths:
            rows = mask[..., start : start + length, :]
            own = rows[..., n + start : n + start + length]
            if n:
                # Keys count from the row's start, prompts from the prefix's end: a window that
                # begins to hide the prefix would hide too much of it from later prompts.
                before = rows[..., :n]
                if not bool(_seen(before).all()):
                    raise PackingError("this model's window does not reach over the prefix")
                cut.append(torch.cat([before, own], dim=-1))
            else:
                below = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
                cut.append(None if bool((_seen(own) == below).all()) else own)
            start += length
        return cut


def _seen(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask lets a token look, whether it is boolean or additive."""
    return mask if mask.dtype == torch.bool else mask == 0
