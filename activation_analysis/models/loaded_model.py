"""A model ready to be recorded: loaded, its sites found, proved on the prompts at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers

from activation_analysis.errors import ModelError, PromptError
from activation_analysis.models.batching import Pass, Plan, plan_passes
from activation_analysis.models.checks import Proof
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
from activation_analysis.models.probing import Proven, proved
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
from activation_analysis.models.tokenizing import Tokens, context_length, tokenize
from activation_analysis.models.tracing import input_device
from activation_analysis.progress import stage
from activation_analysis.spans import marked_spans

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PASS_BYTES = 16e6  # of pooled rows that one pass keeps
FEWEST_ROWS = 8  # of a pass, however much each keeps


@dataclass(frozen=True)
class CaptureTime:
    """Where the wall time of one capture went, in seconds."""

    forward: float  # inside the model, hooks included
    total: float


class LoadedModel:
    """A language model that is found, loaded and, at its first capture, proved.

    What `ActivationCapture` stands on; its parameters are described there.
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
                most_rows=self._most_rows(taps, rows),
            )
        return Prepared(request, tokens, rows, plan, taps)

    def read(
        self,
        prepared: Prepared,
        passes: Sequence[Pass] | None = None,
        *,
        steady: bool = False,
    ) -> Iterator[tuple[Pass, Heard]]:
        """Run some or all passes of a plan; yields each with what it heard.

        Heard tensors are float32, by (position, site, layer), (n_rows of the pass, width).
        ``steady`` gives the same bits for any number of threads, also where there are fewer
        passes than threads.
        """
        passes = prepared.plan.passes if passes is None else passes
        n_rows = sum(len(one.rows) for one in passes)
        with (
            evaluating(self.model),
            recording(prepared.taps, self.widths) as recorder,
            stage("Recording activations", n_rows, shown=self.progress) as advance,
        ):
            reader = Reader(
                self.model, recorder, causal=self.is_causal, steady=steady, said=self.said
            )
            for one, heard in reader.read(prepared.rows, prepared.plan, passes):
                yield one, heard
                advance(len(one.rows))
                self.last_time = CaptureTime(reader.seconds, reader.seconds)

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
            "proof": self.proof.claim if self.proof else "",
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

    def _most_rows(self, taps: Mapping[Address, Tap], rows: Rows) -> int:
        """Rows of one pass: what it keeps until it is put away is to stay below `PASS_BYTES`."""
        row_bytes = 4 * len(rows.places) * sum(self.widths[address] for address in taps)
        return max(int(PASS_BYTES // row_bytes), FEWEST_ROWS)

    def _taps(self, request: Request) -> dict[Address, Tap]:
        wanted = self._layer_indices(request.layers)
        require_sites(self.blocks, request.sites, wanted)
        return {(s, k): self.blocks[k].taps[s] for s in request.sites for k in wanted}

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
