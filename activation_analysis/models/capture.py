"""ActivationCapture: prompts in, one row of activations per prompt out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from activation_analysis.activations import SITES, Activations, RaggedActivations, TokenActivations
from activation_analysis.models.collecting import Collected
from activation_analysis.models.continuation import check_continuation, continuation
from activation_analysis.models.loaded_model import CaptureTime, LoadedModel
from activation_analysis.models.probing import Probing
from activation_analysis.models.recording import Address, evaluating
from activation_analysis.models.request import Prepared, Request
from activation_analysis.models.tokenizing import kept_tokens


class ActivationCapture(LoadedModel):
    """Records a Hugging Face model's activations with plain PyTorch hooks.

    The model is not modified, its language-model head does not run, and every hook is removed
    after each call. Prompts share forward passes, packed into one row or padded on the right;
    before the first capture it is proved, on the prompts at hand, that a prompt's activations do
    not depend on its batch.

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

    def capture_batch(
        self,
        texts: Sequence[str],
        layers_to_capture: Sequence[str] = SITES,
        *,
        layers: Sequence[int] | None = None,
        position: str = "last",
        skip_first: int = 0,
        batch_tokens: int = 0,
        layout: str = "auto",
        truncate: bool = False,
        chat: bool = False,
        control_tokens: bool = False,
    ) -> Activations | RaggedActivations:
        """Record every text at every site asked for, one row per text, in the order given.

        Parameters
        ----------
        texts : the prompts; control-token strings inside them are plain text
        layers_to_capture : sites: residual, attention (or attn), mlp, neuron, head
        layers : block indices, 0 the first; negative ones count from the end; default all
        position : which tokens speak for the text: last, mean, max, first, span (what stands
            between ``[[`` and ``]]``), word_final, or all (every token kept); special tokens
            that the tokenizer adds never do
        skip_first : leave so many first places of every text out (the attention sink)
        batch_tokens : tokens per forward pass; 0 for what is fastest and fits into memory
        layout : "packed" (prompts share a row, apart from each other), "padded", or "auto": packed
            on a CPU, where this model is proved to keep prompts apart
        truncate : cut texts that are longer than the model's context, instead of refusing them
        chat : make each text a user turn of the tokenizer's chat template
        control_tokens : strings of control tokens inside a text are those tokens

        Returns
        -------
        Activations
            ``matrix(site)`` is (n_texts, n_units) float32; for position "all" RaggedActivations,
            with a row for every token.

        Raises
        ------
        PromptError
            If there is no text, or one is empty or longer than the context.
        ModelError
            If the model does not have a site or layer asked for, or does not give the same
            numbers in a batch as alone.
        """
        recorded = self.capture_positions(
            texts,
            layers_to_capture,
            layers=layers,
            positions=(position,),
            skip_first=skip_first,
            batch_tokens=batch_tokens,
            layout=layout,
            truncate=truncate,
            chat=chat,
            control_tokens=control_tokens,
        )
        return recorded[position]

    def capture_positions(
        self,
        texts: Sequence[str],
        layers_to_capture: Sequence[str] = SITES,
        *,
        layers: Sequence[int] | None = None,
        positions: Sequence[str] = ("last", "mean"),
        skip_first: int = 0,
        batch_tokens: int = 0,
        layout: str = "auto",
        truncate: bool = False,
        chat: bool = False,
        control_tokens: bool = False,
    ) -> dict[str, Activations | RaggedActivations]:
        """The same at several positions, in one reading of the texts; by position."""
        began = time.perf_counter()
        request = Request(
            layers_to_capture, layers or (), positions, skip_first, batch_tokens, layout
        )
        tokens = self.tokens(
            texts,
            positions=request.positions,
            truncate=truncate,
            chat=chat,
            control_tokens=control_tokens,
        )
        prepared = self.prepare(tokens, request)
        collected = Collected(prepared.rows)
        for one, heard in self.read(prepared):
            collected.add(one, heard)
        self.last_time = CaptureTime(self.last_time.forward, time.perf_counter() - began)
        return {p: self._recording(prepared, p, collected) for p in request.positions}

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
        request = Request(layers_to_capture, layers or ())
        taps = self._taps(request)
        tokens = self.tokens([text])
        prompt_ids = tokens.ids[0]
        check_continuation(
            self.model,
            self.tokenizer,
            len(prompt_ids),
            max_new_tokens,
            causal=self.is_causal,
            name=self.source.name,
        )
        with torch.inference_mode(), evaluating(self.model):
            ids = prompt_ids + continuation(self.model, prompt_ids, max_new_tokens)
            probing = Probing(self.model, causal=self.is_causal)
            heard = probing([ids], "alone", taps, [np.arange(len(ids))])[0]
        return TokenActivations(
            text=text,
            generated_text=self.tokenizer.decode(ids[len(prompt_ids) :]),
            tokens=tuple(self.tokenizer.convert_ids_to_tokens(ids)),
            token_ids=np.array(ids),
            n_prompt_tokens=len(prompt_ids),
            model=self.source.name,
            n_layers=self.n_layers,
            values=_by_site({address: v.numpy() for address, v in heard.items()}, request.sites),
        )

    def _recording(
        self, prepared: Prepared, position: str, collected: Collected
    ) -> Activations | RaggedActivations:
        """What was collected at one position, as users have it."""
        tokens = prepared.tokens
        common = {
            "prompts": tokens.texts,
            "n_tokens": tokens.n_tokens,
            "position": position,
            "model": self.source.name,
            "n_layers": self.n_layers,
            "values": _by_site(collected.values[position], prepared.request.sites),
            "details": self.details(prepared),
        }
        if prepared.rows.reductions[position] != "every":
            return Activations(**common)
        of_prompts = [prepared.rows.places[position][i] for i in prepared.rows.row_of_prompt]
        kept = kept_tokens(tokens, of_prompts, range(len(tokens)))
        return RaggedActivations(
            **common, tokens=kept.strings, offsets=kept.offsets, start=collected.starts[position]
        )


def _by_site(
    values: Mapping[Address, np.ndarray], sites: Sequence[str]
) -> dict[str, dict[int, np.ndarray]]:
    return {
        site: {layer: values[s, layer] for s, layer in sorted(values) if s == site}
        for site in sites
    }
