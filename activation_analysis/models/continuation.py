"""What a model says next, greedily."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from activation_analysis.errors import ModelError, PromptError
from activation_analysis.models.tokenizing import context_length
from activation_analysis.models.tracing import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_continuation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n_prompt: int,
    max_new_tokens: int,
    *,
    causal: bool,
    name: str,
) -> None:
    """Raise unless so many tokens can follow a prompt of ``n_prompt`` tokens."""
    if max_new_tokens < 0:
        raise ModelError(f"max_new_tokens={max_new_tokens}; use 0 (the prompt alone) or more")
    if max_new_tokens and not (causal and model.can_generate()):
        raise ModelError(
            f"{name!r} ({type(model).__name__}) cannot generate text; "
            f"record the prompt alone with max_new_tokens=0"
        )
    limit = context_length(model.config, tokenizer)
    if limit is not None and n_prompt + max_new_tokens > limit:
        raise PromptError(
            f"a prompt of {n_prompt} tokens and {max_new_tokens} more do not fit into "
            f"the model's context of {limit} tokens; lower max_new_tokens or shorten the text"
        )


def continuation(model: PreTrainedModel, prompt_ids: list[int], max_new_tokens: int) -> list[int]:
    """The most probable next token, again and again; an end token is the last.

    Not ``generate``, which mixes in the checkpoint's own sampling and repetition settings.
    """
    stated = model.generation_config.eos_token_id if max_new_tokens else None
    ends = {stated} if isinstance(stated, int) else set(stated or ())
    device = input_device(model)
    unread, cache, new = prompt_ids, None, []
    while len(new) < max_new_tokens and not (new and new[-1] in ends):
        output = model(
            input_ids=torch.tensor([unread], device=device),
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        unread = [int(output.logits[0, -1].argmax())]
        new += unread
    return new
