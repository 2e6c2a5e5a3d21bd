"""ActivationCapture: prompts in, one row of activations per prompt out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers

from activation_analysis.activations import (
    POSITIONS,
    SITES,
    Activations,
    TokenActivations,
    canonical_site,
)
from activation_analysis.errors import ModelError, PromptError
from activation_analysis.models.batching import pad_right, token_batches
from activation_analysis.models.embedded import DEFAULT_MODEL
from activation_analysis.models.loading import (
    ModelSource,
    load_model,
    load_tokenizer,
    resolve,
)
from activation_analysis.models.recording import (
    POOLS,
    Address,
    TokenRows,
    evaluating,
    every_token,
    recording,
)
from activation_analysis.models.sites import (
    BlockSites,
    ModelSites,
    Tap,
    find_sites,
    require_sites,
)
from activation_analysis.models.tokenizing import Tokens, context_length, tokenize
from activation_analysis.models.tracing import input_device, read
from activation_analysis.progress import stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class CaptureTime:
    """Where the wall time of one capture went, in seconds."""

    forward: float  # inside the model, hooks included
    total: float


class ActivationCapture:
    """Records a Hugging Face model's activations with plain PyTorch hooks.

    The model is not modified, its language-model head does not run, and every hook is removed
    after each call. Prompts are sorted by length, batched by token budget and padded on the
    right, so that a prompt's activations do not depend on its batch.

    Parameters
    ----------
    model_path : an embedded alias (default ``smollm2-135m``), a hub id (``gpt2``), a local folder,
        a ``.gguf`` file, or a transformers model in memory (then ``tokenizer`` is needed)
    device : "auto" (GPUs, then memory, then disk, through Accelerate) or a torch device
    dtype : "auto" (float32 on a CPU, the checkpoint's own on a GPU), "float32", "bfloat16",
        "float16"
    tokenizer : for a model in memory
    revision : branch, tag or commit of a hub id
    max_memory, offload_folder : Accelerate's limits, for models larger than memory
    progress : show bars on a terminal

    Raises
    ------
    ModelError
        If the model cannot be found, read, or recorded.

    Examples
    --------
    >>> capture = ActivationCapture("smollm2-135m")
    >>> recorded = capture.capture_batch(["Two plus two is", "The sea is"], ["mlp", "attn"])
    >>> recorded.matrix("mlp").shape
    (2, 17280)
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str] | PreTrainedModel | ModelSource = DEFAULT_MODEL,
        device: str = "auto",
        dtype: str = "auto",
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        revision: str | None = None,
        max_memory: dict[int | str, int | str] | None = None,
        offload_folder: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> None:
        self.progress = progress
        if isinstance(model_path, transformers.PreTrainedModel):
            if tokenizer is None:
                raise ModelError("a model in memory needs its tokenizer: pass tokenizer=...")
            name = model_path.config.name_or_path or type(model_path).__name__
            self.source = ModelSource(name, "", "", "", local=True)
            self.model = model_path
        else:
            already = isinstance(model_path, ModelSource)
            self.source = model_path if already else resolve(str(model_path), revision=revision)
            with stage(f"Loading {self.source.name}", shown=progress):
                tokenizer = tokenizer or load_tokenizer(self.source)
                self.model = load_model(
                    self.source,
                    device=device,
                    dtype=dtype,
                    max_memory=max_memory,
                    offload_folder=offload_folder,
                )
            if not self.source.local:
                # Downloaded by now: the copy in the cache tells the weights' digest.
                self.source = resolve(self.source.name, revision=self.source.revision or None)
        self.tokenizer = tokenizer
        self._found: ModelSites | None = None
        self.last_time = CaptureTime(0.0, 0.0)

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def model_sites(self) -> ModelSites:
        """Where to listen, found and proved on first use."""
        if self._found is None:
            with evaluating(self.model):
                self._found = find_sites(self.model)
        return self._found

    @property
    def blocks(self) -> list[BlockSites]:
        """The taps of every block."""
        return self.model_sites.blocks

    @property
    def is_causal(self) -> bool:
        """Whether no token reads what follows it, so that padding on the right needs no mask."""
        return self.model_sites.causal

    def capture_batch(
        self,
        texts: Sequence[str],
        layers_to_capture: Sequence[str] = SITES,
        *,
        layers: Sequence[int] | None = None,
        position: str = "last",
        batch_tokens: int = 1024,
        truncate: bool = False,
    ) -> Activations:
        """Record every text at every site asked for, one row per text, in the order given.

        Parameters
        ----------
        texts : the prompts; control-token strings inside them are plain text
        layers_to_capture : sites: residual, attention (or attn), mlp, neuron, head
        layers : block indices, 0 the first; negative ones count from the end; default all
        position : which token speaks for the text: last, mean, max or first; special tokens
            that the tokenizer adds never do
        batch_tokens : tokens per forward pass, padding included
        truncate : cut texts that are longer than the model's context, instead of refusing them

        Returns
        -------
        Activations
            ``matrix(site)`` is (n_texts, n_units) float32.

        Raises
        ------
        PromptError
            If there is no text, or one is empty or longer than the context.
        ModelError
            If the model does not have a site or layer asked for.
        """
        began = time.perf_counter()
        if position not in POOLS:
            raise ModelError(f"no position {position!r}; known: {', '.join(POSITIONS)}")
        sites = _canonical_sites(layers_to_capture)
        tokens = self.tokens(texts, truncate=truncate)
        taps = self._taps(sites, layers)
        values: dict[Address, np.ndarray] = {}
        forward = 0.0
        with (
            torch.inference_mode(),
            evaluating(self.model),
            recording(taps, POOLS[position]) as recorder,
            stage("Recording activations", len(texts), shown=self.progress) as advance,
        ):
            for batch in token_batches(tokens.n_tokens, batch_tokens):
                ids, mask, rows = _padded(tokens, batch)
                recorder.expect(rows)
                started = time.perf_counter()
                read(self.model, ids, None if self.is_causal else mask)
                heard_here = recorder.take()
                forward += time.perf_counter() - started
                for address, heard in heard_here.items():
                    if address not in values:
                        values[address] = np.empty((len(texts), heard.shape[1]), np.float32)
                    values[address][batch] = heard.numpy()
                advance(len(batch))
        self.last_time = CaptureTime(forward, time.perf_counter() - began)
        return Activations(
            prompts=tuple(texts),
            n_tokens=tokens.n_tokens,
            position=position,
            model=self.source.name,
            n_layers=self.n_layers,
            values=_by_site(values, sites),
            details=self.details(),
        )

    def capture_single(
        self,
        text: str,
        max_new_tokens: int = 1,
        *,
        layers_to_capture: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> TokenActivations:
        """Record every token of one text, and of the model's own continuation.

        The continuation is greedy. Each generated token is read back by the model, so its row
        holds what the model represents *at* that token.

        Parameters
        ----------
        text : the prompt
        max_new_tokens : tokens to generate at most (an end token ends it); 0 records the prompt
            alone
        layers_to_capture, layers : as in `capture_batch`

        Returns
        -------
        TokenActivations
            ``values[site][layer]`` is (n_prompt_tokens + n_generated, width) float32.

        Raises
        ------
        ModelError
            If the model cannot generate (an encoder) and ``max_new_tokens`` is not 0.
        PromptError
            If the text and its continuation do not fit into the context.
        """
        sites = _canonical_sites(layers_to_capture)
        taps = self._taps(sites, layers)
        prompt_ids = self.tokens([text]).ids[0]
        self._check_continuation(prompt_ids, max_new_tokens)
        with torch.inference_mode(), evaluating(self.model):
            ids = prompt_ids + self._continuation(prompt_ids, max_new_tokens)
            everything = torch.ones(1, len(ids), dtype=torch.bool)
            with recording(taps, every_token) as recorder:
                recorder.expect(TokenRows.of(everything))
                read(self.model, torch.tensor([ids]), None if self.is_causal else everything)
                values = {address: heard[0].numpy() for address, heard in recorder.take().items()}
        return TokenActivations(
            text=text,
            generated_text=self.tokenizer.decode(ids[len(prompt_ids) :]),
            tokens=tuple(self.tokenizer.convert_ids_to_tokens(ids)),
            token_ids=np.array(ids),
            n_prompt_tokens=len(prompt_ids),
            model=self.source.name,
            n_layers=self.n_layers,
            values=_by_site(values, sites),
        )

    def tokens(self, texts: Sequence[str], *, truncate: bool = False) -> Tokens:
        """The token ids that the model will read, checked against its context."""
        if isinstance(texts, str):
            raise PromptError("texts is one string; pass a list of strings")
        if len(texts) == 0:
            raise PromptError("no texts to record: the list is empty")
        limit = context_length(self.model.config, self.tokenizer)
        return tokenize(self.tokenizer, texts, limit=limit, truncate=truncate)

    def details(self) -> dict[str, str]:
        """What else defines the recorded numbers, beside model, prompts and position."""
        config = self.model.config
        devices = getattr(self.model, "hf_device_map", None) or {"": self.model.device}
        return {
            "revision": self.source.revision,
            "sha256": self.source.sha256,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": ",".join(sorted({str(d) for d in devices.values()})),
            "attention": str(getattr(config, "_attn_implementation", "")),
            "family": config.model_type,
            "n_heads": str(getattr(config.get_text_config(), "num_attention_heads", "")),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def _taps(self, sites: list[str], layers: Sequence[int] | None) -> dict[Address, Tap]:
        wanted = self._layer_indices(layers)
        require_sites(self.blocks, sites, wanted)
        return {(s, k): self.blocks[k].taps[s] for s in sites for k in wanted}

    def _layer_indices(self, layers: Sequence[int] | None) -> list[int]:
        if layers is None or len(layers) == 0:
            return list(range(self.n_layers))
        outside = [k for k in layers if not -self.n_layers <= k < self.n_layers]
        if outside:
            raise ModelError(
                f"no layer {', '.join(map(str, outside))} in {self.source.name!r}, which has "
                f"{self.n_layers} blocks: 0 to {self.n_layers - 1}"
            )
        return sorted({k % self.n_layers for k in layers})

    def _check_continuation(self, prompt_ids: list[int], max_new_tokens: int) -> None:
        if max_new_tokens < 0:
            raise ModelError(f"max_new_tokens={max_new_tokens}; use 0 (the prompt alone) or more")
        if max_new_tokens and not (self.is_causal and self.model.can_generate()):
            raise ModelError(
                f"{self.source.name!r} ({type(self.model).__name__}) cannot generate text; "
                f"record the prompt alone with max_new_tokens=0"
            )
        limit = context_length(self.model.config, self.tokenizer)
        if limit is not None and len(prompt_ids) + max_new_tokens > limit:
            raise PromptError(
                f"a prompt of {len(prompt_ids)} tokens and {max_new_tokens} more do not fit into "
                f"the model's context of {limit} tokens; lower max_new_tokens or shorten the text"
            )

    def _continuation(self, prompt_ids: list[int], max_new_tokens: int) -> list[int]:
        """The most probable next token, again and again.

        Not ``generate``, which mixes in the checkpoint's own sampling and repetition settings.
        """
        stated = self.model.generation_config.eos_token_id if max_new_tokens else None
        ends = {stated} if isinstance(stated, int) else set(stated or ())
        device = input_device(self.model)
        unread, cache, new = prompt_ids, None, []
        while len(new) < max_new_tokens and not (new and new[-1] in ends):
            output = self.model(
                input_ids=torch.tensor([unread], device=device),
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            unread = [int(output.logits[0, -1].argmax())]
            new += unread
        return new


def _canonical_sites(names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise ModelError(f"layers_to_capture is one string; pass a list, as in [{names!r}]")
    if len(names) == 0:
        raise ModelError(f"no site to record; name one or more of: {', '.join(SITES)}")
    return list(dict.fromkeys(canonical_site(name) for name in names))


def _padded(tokens: Tokens, batch: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, TokenRows]:
    ids, mask = pad_right([tokens.ids[i] for i in batch])
    counted, _ = pad_right([tokens.counted[i] for i in batch])
    rows = TokenRows.of(torch.from_numpy(counted.astype(bool) & mask))
    return torch.from_numpy(ids), torch.from_numpy(mask), rows


def _by_site(
    values: dict[Address, np.ndarray], sites: list[str]
) -> dict[str, dict[int, np.ndarray]]:
    return {
        site: {layer: values[s, layer] for s, layer in sorted(values) if s == site}
        for site in sites
    }
