"""The other ways of recording activations, beside ours: what they take, and what they get wrong.

    pip install -e '.[peers]'                 # transformer-lens 4.3.0 and nnsight 0.8.1 were tried
    python -m benchmarks.capture --peers

Every arm reads the same weights. All but the plain hooks get module objects of their own around
them: TransformerLens replaces modules and switches attention to "eager", nnsight replaces every
``forward``, and ``output_hidden_states`` leaves two hooks a block behind, which would slow down
whatever runs after them on the same modules.

Batches are the tool's affair in none of them, so each runs twice: 16 prompts at a time in the
order given, as loops in documentation do, and sorted by length in batches of 1024 tokens, as the
bare forward does. Each also gets what costs it nothing: no gradients, and TransformerLens no
token in front (its default puts one there, which makes it a reading of another text).

The wirings below are Llama's, which the embedded model has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from activation_analysis.models.capture import ActivationCapture

TOLERANCE = 1e-3  # relative (L2): float32 in batches of other shapes differs by less than 1e-5
ROWS, TOKENS = 16, 1024  # of a batch in order, and of a sorted one
# hidden_states ends with what the final norm makes of the last block's output.
FINAL = "final norm"

Heard = dict[tuple[str, str, int], "torch.Tensor"]  # by position, site, layer; (n_prompts, width)
Reader = Callable[[list[str], np.ndarray], Heard]  # texts of a batch, tokens of each


@dataclass(frozen=True)
class Recorded:
    """What an arm kept at one position."""

    values: dict[str, dict[int, np.ndarray]]  # site -> layer -> (n_prompts, width)


Record = Callable[[Sequence[str]], dict[str, Recorded]]  # by position


def peer_arms(
    capture: ActivationCapture, texts: Sequence[str]
) -> dict[str, Callable[[], dict[str, Recorded]]]:
    """Every arm that can run here, loaded and warm: name -> a recording of ``texts``."""
    return {name: peer_arm(name, capture, texts) for name in installed()}


def peer_arm(
    name: str, capture: ActivationCapture, texts: Sequence[str]
) -> Callable[[], dict[str, Recorded]]:
    """One arm, loaded and warm."""
    record = PEERS[name](capture)
    record(texts[:2])
    return partial(record, texts)


def installed() -> list[str]:
    """Names of the arms whose tool is installed here."""
    absent = [tool for tool, module in TOOLS.items() if find_spec(module) is None]
    return [name for name in PEERS if name.split(",")[0] not in absent]


def wrong_prompts(capture: ActivationCapture, texts: Sequence[str]) -> dict[str, int]:
    """How many prompts each arm records otherwise than plain transformers does one at a time.

    A prompt is wrong if its residual, at the last token or in the mean, differs in any layer by
    more than `TOLERANCE`. Where an arm has the final norm's output in place of the last block's,
    it is held against the final norm's output.
    """
    expected = read_alone(capture, texts)
    return {
        name: int(differs(peer_arm(name, capture, texts)(), expected).sum()) for name in installed()
    }


def differs(found: dict[str, Recorded], expected: dict[str, Recorded]) -> np.ndarray:
    """(n_prompts,) whether any layer of the stream is off by more than `TOLERANCE`."""
    wrong: list[np.ndarray] = []
    for position, recorded in found.items():
        truth = expected[position].values
        for site in truth.keys() & recorded.values.keys():
            for layer, values in recorded.values[site].items():
                error = np.linalg.norm(values - truth[site][layer], axis=1)
                size = np.linalg.norm(truth[site][layer], axis=1)
                wrong.append(~(error <= TOLERANCE * size))  # NaN is wrong too
    return np.any(wrong, axis=0)


def read_alone(capture: ActivationCapture, texts: Sequence[str]) -> dict[str, Recorded]:
    """The stream of every prompt by plain transformers, each in a forward pass of its own."""
    model = _twin(capture.model)
    blocks = model.base_model.layers
    last: list[torch.Tensor] = []
    blocks[-1].register_forward_hook(lambda block, args, output: last.append(output))

    def read(batch: list[str], lengths: np.ndarray) -> Heard:
        last.clear()
        encoded = capture.tokenizer(batch, return_tensors="pt")
        states = model(**encoded, output_hidden_states=True).hidden_states
        stream = [*states[1:-1], last[0]]
        heard = {("residual", layer): state for layer, state in enumerate(stream)}
        heard[FINAL, len(blocks) - 1] = states[-1]
        return _pooled(heard, _own(lengths))

    return _record(read, capture.tokenizer, _one_by_one, texts)


# How prompts share forward passes: (n_prompts,) lengths -> index arrays.


def _one_by_one(lengths: np.ndarray) -> list[np.ndarray]:
    return list(np.arange(len(lengths))[:, None])


def _in_order(lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(np.arange(len(lengths)), range(ROWS, len(lengths), ROWS))


def _sorted(lengths: np.ndarray) -> list[np.ndarray]:
    from activation_analysis.models.batching import token_batches

    return token_batches(lengths, TOKENS)


# One reader for each way; `_record` hands it batch after batch.


def _hooks(capture: ActivationCapture) -> Reader:
    """Forward hooks on the base model, without head and cache, for prompts one at a time."""
    model = capture.model.base_model

    def read(batch: list[str], lengths: np.ndarray) -> Heard:
        with _listening(model) as heard:
            model(**capture.tokenizer(batch, return_tensors="pt"), use_cache=False)
        return _pooled(heard, _own(lengths))

    return read


def _hidden_states(capture: ActivationCapture, *, masked: bool) -> Reader:
    """The usual loop: the stream alone, through the whole model with its head and cache.

    As usually written: the last token is ``[:, -1]``, the mean is ``.mean(1)``; with padding on
    the right, this tokenizer's own side, both read pads. Masked: each prompt's own tokens.
    """
    model, tokenizer = _twin(capture.model), copy.deepcopy(capture.tokenizer)
    tokenizer.padding_side = "right"

    def read(batch: list[str], lengths: np.ndarray) -> Heard:
        encoded = tokenizer(batch, padding=True, return_tensors="pt")
        states = model(**encoded, output_hidden_states=True).hidden_states
        end = len(states) - 2
        heard = {("residual" if k < end else FINAL, k): s for k, s in enumerate(states[1:])}
        if masked:
            return _pooled(heard, _own(lengths))
        last = {("last", *address): state[:, -1] for address, state in heard.items()}
        return last | {("mean", *address): state.mean(1) for address, state in heard.items()}

    return read


def _transformer_lens(capture: ActivationCapture) -> Reader:
    """TransformerBridge around the loaded model, ``run_with_cache`` on a list of prompts.

    Weights as they are (no folding, no centring); it pads on the tokenizer's side, here the
    right. Version 4 has no HookedTransformer any more.
    """
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = copy.deepcopy(capture.tokenizer)
    tokenizer.padding_side = "right"
    bridge = TransformerBridge.boot_transformers(
        capture.source.location or capture.source.name,
        hf_model=_twin(capture.model),
        tokenizer=tokenizer,
        device="cpu",
    )
    hooks = {
        "residual": "hook_resid_post",
        "attention": "hook_attn_out",
        "mlp": "hook_mlp_out",
        "neuron": "mlp.hook_post",  # the input of the down-projection, after the gate
        "head": "attn.hook_z",  # the input of the output projection, (..., n_heads, head_dim)
    }
    places = {
        (site, layer): f"blocks.{layer}.{hook}"
        for layer in range(capture.n_layers)
        for site, hook in hooks.items()
    }
    names = list(places.values())

    def read(batch: list[str], lengths: np.ndarray) -> Heard:
        _, cache = bridge.run_with_cache(batch, names_filter=names, prepend_bos=False)
        heard = {address: cache[name].flatten(2) for address, name in places.items()}
        return _pooled(heard, _own(lengths))

    return read


def _nnsight(capture: ActivationCapture) -> Reader:
    """A trace of a list of prompts, pooled inside it, so that no sheet outlives its block.

    It pads a causal model on the left, and numbers positions by the mask. `LanguageModel` is
    this class under a name that version 0.8 deprecates.
    """
    from nnsight import TransformersModel

    model = TransformersModel(
        _twin(capture.model), task="text-generation", tokenizer=copy.deepcopy(capture.tokenizer)
    )

    def read(batch: list[str], lengths: np.ndarray) -> Heard:
        own = _own(lengths).flip(1)
        heard: Heard = {}
        with model.trace(batch):
            for k, block in enumerate(model.model.layers):
                heard.update(_pooled({("head", k): block.self_attn.o_proj.input}, own))
                heard.update(_pooled({("attention", k): block.self_attn.output[0]}, own))
                heard.update(_pooled({("neuron", k): block.mlp.down_proj.input}, own))
                heard.update(_pooled({("mlp", k): block.mlp.output}, own))
                heard.update(_pooled({("residual", k): block.output}, own))
        return heard

    return read


def _arm(
    make: Callable[..., Reader],
    batching: Callable[[np.ndarray], list[np.ndarray]],
    capture: ActivationCapture,
    **options: bool,
) -> Record:
    return partial(_record, make(capture, **options), copy.deepcopy(capture.tokenizer), batching)


TOOLS = {"TransformerLens": "transformer_lens", "nnsight": "nnsight"}  # tool -> its module
PEERS: dict[str, Callable[[ActivationCapture], Record]] = {
    "hooks, one prompt at a time": partial(_arm, _hooks, _one_by_one),
    "output_hidden_states, batches of 16 in order": partial(
        _arm, _hidden_states, _in_order, masked=False
    ),
    "output_hidden_states, batches of 16 in order, masked": partial(
        _arm, _hidden_states, _in_order, masked=True
    ),
    "output_hidden_states, sorted batches": partial(_arm, _hidden_states, _sorted, masked=False),
    "output_hidden_states, sorted batches, masked": partial(
        _arm, _hidden_states, _sorted, masked=True
    ),
    "TransformerLens, as documented": partial(_arm, _transformer_lens, _in_order),
    "TransformerLens, sorted batches": partial(_arm, _transformer_lens, _sorted),
    "nnsight, as documented": partial(_arm, _nnsight, _in_order),
    "nnsight, sorted batches": partial(_arm, _nnsight, _sorted),
}


def _record(
    read: Reader,
    tokenizer,
    batching: Callable[[np.ndarray], list[np.ndarray]],
    texts: Sequence[str],
) -> dict[str, Recorded]:
    """Batch after batch, put back into the order of ``texts``."""
    import torch

    lengths = np.array([len(ids) for ids in tokenizer(list(texts))["input_ids"]])
    rows: dict[tuple[str, str, int], np.ndarray] = {}
    with torch.no_grad():
        for batch in batching(lengths):
            for key, values in read([texts[i] for i in batch], lengths[batch]).items():
                if key not in rows:
                    rows[key] = np.empty((len(texts), values.shape[1]), dtype=np.float32)
                rows[key][batch] = values.numpy()
    found: dict[str, Recorded] = {}
    for position, site, layer in rows:
        recorded = found.setdefault(position, Recorded({}))
        recorded.values.setdefault(site, {})[layer] = rows[position, site, layer]
    return found


def _own(lengths: np.ndarray) -> torch.Tensor:
    """(n_prompts, n_places) True at each prompt's own tokens, where pads stand on the right."""
    import torch

    n = torch.from_numpy(lengths)
    return torch.arange(int(n.max())) < n[:, None]


def _pooled(heard: dict[tuple[str, int], torch.Tensor], own: torch.Tensor) -> Heard:
    """The last of each prompt's own tokens, and their mean; (n_prompts, width) each."""
    import torch

    last = own.cumsum(1).argmax(1)
    weights = (own / own.sum(1, keepdim=True))[:, None]
    rows = torch.arange(len(own))
    pooled: Heard = {}
    for address, states in heard.items():
        pooled["last", *address] = states[rows, last]
        pooled["mean", *address] = (weights @ states)[:, 0]
    return pooled


@contextmanager
def _listening(model: PreTrainedModel) -> Iterator[dict[tuple[str, int], torch.Tensor]]:
    """Plain hooks on every site; what they hear, by site and layer."""
    heard: dict[tuple[str, int], torch.Tensor] = {}

    def input_of(module, site: str, layer: int):
        def hear(module, args) -> None:
            heard[site, layer] = args[0]

        return module.register_forward_pre_hook(hear)

    def output_of(module, site: str, layer: int):
        def hear(module, args, output) -> None:
            heard[site, layer] = output[0] if isinstance(output, tuple) else output

        return module.register_forward_hook(hear)

    handles = []
    for layer, block in enumerate(model.layers):
        handles += [
            output_of(block, "residual", layer),
            output_of(block.self_attn, "attention", layer),
            output_of(block.mlp, "mlp", layer),
            input_of(block.mlp.down_proj, "neuron", layer),
            input_of(block.self_attn.o_proj, "head", layer),
        ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in module objects of their own."""
    shared = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
