"""How many tokens each of many prompts has, without torch where that can be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from activation_analysis.models.gguf_cache import cache_folder
from activation_analysis.models.loading import ModelSource

CHUNK = 1024  # prompts at a time: their tokens are counted, not kept
Counter = Callable[[Sequence[str]], np.ndarray]
Lengths = Callable[[list[str]], list[int]]


def token_counter(source: ModelSource) -> Counter:
    """What counts the tokens of texts, with the special ones that the tokenizer adds.

    Texts in, (n_texts,) int64 out. Strings such as ``<|im_end|>`` inside a text are text. A model
    folder that this package wrote itself (an embedded alias, a GGUF file) has its whole tokenizer
    in one file, which is read without transformers and torch, in 45 MB.

    Raises
    ------
    ModelError
        If the tokenizer cannot be read.
    """
    lengths = _light(source) or _full(source)

    def count(texts: Sequence[str]) -> np.ndarray:
        counts = np.empty(len(texts), dtype=np.int64)
        for start in range(0, len(texts), CHUNK):
            part = list(texts[start : start + CHUNK])
            counts[start : start + len(part)] = lengths(part)
        return counts

    return count


def longest_context(source: ModelSource) -> int | None:
    """Positions that the model has, as its config.json says; None where that is not at hand."""
    file = Path(source.location) / "config.json"
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            if isinstance(part.get(name), int) and part[name] > 0:
                return part[name]
    return None


def _light(source: ModelSource) -> Lengths | None:
    folder = Path(source.location)
    if folder.parent.resolve() != (cache_folder() / "gguf").resolve():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda part: [len(encoding) for encoding in tokenizer.encode_batch_fast(part)]


def _full(source: ModelSource) -> Lengths:
    from activation_analysis.models.loading import load_tokenizer

    tokenizer = load_tokenizer(source)

    def count(part: list[str]) -> list[int]:
        rows = tokenizer(
            part, split_special_tokens=True, return_attention_mask=False, verbose=False
        )
        return [len(ids) for ids in rows["input_ids"]]

    return count
