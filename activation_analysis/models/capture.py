"""ActivationCapture: prompts in, one row of activations per prompt out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers

from activation_analysis.activations import SITES, Activations, RaggedActivations, TokenActivations
from activation_analysis.errors import ModelError, PromptError
from activation_analysis.models.batching import Pass, Plan, plan_passes
from activation_analysis.models.checks import Proof
from activation_analysis.models.collecting import Collected
from activation_analysis.models.continuation import check_continuation, continuation
from activation_analysis.models.embedded import DEFAULT_MODEL
from activation_analysis.models.loading import (
    ModelSource,
    load_model,
    load_tokenizer,
    resolve,
)
from activation_analysis.models.memory import batch_budget
from activation_analysis.models.positions import READ_BY_CHARACTER, REDUCTIONS, places
from activation_analysis.models.prefixes import shared_prefixes
from activation_analysis.models.probing import Probing, Proven, proved
from activation_analysis.models.proof import require
from activation_analysis.models.reading import Reader
from activation_analysis.models.recording import Address, Heard, evaluating, recording
from activation_analysis.models.request import Prepared, Request
from activation_analysis.models.rows import Rows, distinct_rows
from activation_analysis.models.sites import (
    BlockSites,
    ModelSites,
    Tap,
    find_sites,
    require_sites,
)
from activation_analysis.models.threads import lone_above
from activation_analysis.models.tokenizing import Tokens, context_length, kept_tokens, tokenize
from activation_analysis.models.tracing import input_device
from activation_analysis.progress import stage
from activation_analysis.spans import marked_spans

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
        self.notes: list[str] = []  # what the user was told
        self._proven: Proven | None = None  # since the first capture
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

    def rows(self, tokens: Tokens, request: Request) -> Rows:
        """What is read: every distinct prompt once, with the tokens that speak for it."""
        return distinct_rows(
            tokens.ids,
            {p: places(p, tokens, skip_first=request.skip_first) for p in request.positions},
            {p: REDUCTIONS[p] for p in request.positions},
        )

    def prepare(self, tokens: Tokens, request: Request, *, plan: Plan | None = None) -> Prepared:
        """Prove this model on the prompts at hand, and arrange them in forward passes.

        ``plan`` is one that was made before, for the same rows.
        """
        taps = self._taps(request)
        rows = self.rows(tokens, request)
        self.prove(rows.ids)
        if plan is None:
            layout = self._layout(request.layout)
            plan = plan_passes(
                rows.ids,
                layout=layout,
                batch_tokens=request.batch_tokens or self._batch_tokens(layout),
                share_prefixes="prefix" in self._proven.holds and layout == self._proven.preferred,
                lone_above=lone_above(self.model.config),
            )
        return Prepared(request, tokens, rows, plan, taps)

    def read(
        self, prepared: Prepared, passes: Sequence[Pass] | None = None
    ) -> Iterator[tuple[Pass, Heard]]:
        """Run some or all passes of a plan; yields each with what it heard.

        Heard tensors are float32, by (position, site, layer), (n_rows of the pass, width).
        """
        passes = prepared.plan.passes if passes is None else passes
        n_rows = sum(len(one.rows) for one in passes)
        with (
            evaluating(self.model),
            recording(prepared.taps) as recorder,
            stage("Recording activations", n_rows, shown=self.progress) as advance,
        ):
            reader = Reader(self.model, recorder, causal=self.is_causal, said=self.said)
            for one, heard in reader.read(prepared.rows, prepared.plan, passes):
                yield one, heard
                advance(len(one.rows))
                self.last_time = CaptureTime(reader.seconds, reader.seconds)

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

    def tokens(
        self,
        texts: Sequence[str],
        *,
        positions: Sequence[str] = (),
        truncate: bool = False,
        chat: bool = False,
        control_tokens: bool = False,
    ) -> Tokens:
        """The token ids that the model will read, checked against its context."""
        if isinstance(texts, str):
            raise PromptError("texts is one string; pass a list of strings")
        if len(texts) == 0:
            raise PromptError("no texts to record: the list is empty")
        spans = None
        if "span" in positions:
            texts, spans = marked_spans(texts)
        return tokenize(
            self.tokenizer,
            texts,
            limit=context_length(self.model.config, self.tokenizer),
            truncate=truncate,
            chat=chat,
            control_tokens=control_tokens,
            spans=spans,
            offsets=not READ_BY_CHARACTER.isdisjoint(positions),
        )

    def details(self, prepared: Prepared) -> dict[str, str]:
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
            "layout": prepared.plan.layout,
            "n_truncated": str(prepared.tokens.n_truncated),
            "proof": self.proof.finding if self.proof else "",
        }

    def prove(self, ids: Sequence[list[int]]) -> Proof:
        """Hold this model to what it gives one prompt at a time, on the prompts at hand.

        Done once; once more where prompts share a beginning, and those before did not.

        Raises
        ------
        ModelError
            If padding changes what is recorded, or a site is not what its name says.
        """
        shares = bool(shared_prefixes(ids)) and self.is_causal
        if self._proven is None or (shares and not self._proven.proof.checked("prefix")):
            with evaluating(self.model), torch.inference_mode():
                proven = proved(self.model, self.model_sites, ids, with_prefix=shares)
            require(proven.proof)
            self._proven = proven
        return self._proven.proof

    @property
    def proof(self) -> Proof | None:
        """What was proved of this model at its first capture; None before."""
        return self._proven.proof if self._proven else None

    @property
    def widths(self) -> Mapping[Address, int]:
        """Units of every site and layer, as the proof recorded them."""
        return self._proven.widths if self._proven else {}

    def said(self, sentence: str) -> None:
        """Tell the user, on standard error; it is noted too."""
        self.notes.append(sentence)
        print(sentence, file=sys.stderr)

    def _layout(self, asked: str) -> str:
        """The layout of this capture's passes."""
        if asked == "packed" and "packed" not in self._proven.holds:
            raise ModelError(
                f"{self.source.name!r} does not keep packed prompts apart; use layout 'padded'"
            )
        return self._proven.preferred if asked == "auto" else asked

    def _batch_tokens(self, layout: str) -> int:
        return batch_budget(
            input_device(self.model),
            layout,
            widest=max(self.widths.values()),
            itemsize=self.model.dtype.itemsize,
        )

    def _taps(self, request: Request) -> dict[Address, Tap]:
        wanted = self._layer_indices(request.layers)
        require_sites(self.blocks, request.sites, wanted)
        return {(s, k): self.blocks[k].taps[s] for s in request.sites for k in wanted}

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

    def _layer_indices(self, layers: Sequence[int]) -> list[int]:
        if len(layers) == 0:
            return list(range(self.n_layers))
        outside = [k for k in layers if not -self.n_layers <= k < self.n_layers]
        if outside:
            raise ModelError(
                f"no layer {', '.join(map(str, outside))} in {self.source.name!r}, which has "
                f"{self.n_layers} blocks: 0 to {self.n_layers - 1}"
            )
        return sorted({k % self.n_layers for k in layers})


def _by_site(
    values: Mapping[Address, np.ndarray], sites: Sequence[str]
) -> dict[str, dict[int, np.ndarray]]:
    return {
        site: {layer: values[s, layer] for s, layer in sorted(values) if s == site}
        for site in sites
    }
