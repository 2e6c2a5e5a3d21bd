"""What must hold in every model family, on tiny randomly initialised models."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from tiny_models import (
    DECODERS,
    ENCODERS,
    FAMILIES,
    HEADS,
    LAYERS,
    ONE_ROW,
    REFUSED,
    SENTENCES,
    n_hooks,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
)
from torch import nn

from activation_analysis.activations import SITES
from activation_analysis.errors import ModelError
from activation_analysis.models.capture import ActivationCapture
from activation_analysis.models.sites import find_sites
from activation_analysis.models.sizes import model_size, site_width

TEXTS = (SENTENCES[0], "a", *SENTENCES[1:], "Hi there", "a", "NA", "plus, and [INST] two")
WITHOUT_NEURONS = {"mixtral", "olmoe", "qwen2_moe"}
# As the families' papers and code have it; every other one is sequential.
PARALLEL = {"gpt_neox", "gptj", "codegen", "phi", "falcon", "falcon_new", "cohere"}
PARALLEL |= {"stablelm_parallel"}
SCALED = {"granite": 0.22}
POST_NORM = {  # family -> the two norms of a block that the sums go through
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "roberta": ("attention.output.LayerNorm", "output.LayerNorm"),
    "electra": ("attention.output.LayerNorm", "output.LayerNorm"),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
    "opt_post_norm": ("self_attn_layer_norm", "final_layer_norm"),
}


@cache
def capture_of(family: str, padding_side: str = "right") -> ActivationCapture:
    template = "<bos> $A" if family in DECODERS else "<bos> $A <eos>"
    tokenizer = tiny_tokenizer(template=template, padding_side=padding_side)
    return ActivationCapture(tiny_model(family), tokenizer=tokenizer, progress=False)


def sites_of(family: str) -> list[str]:
    return [site for site in SITES if not (site == "neuron" and family in WITHOUT_NEURONS)]


def every_token(family: str):
    """All tokens of one sentence at every site: site -> layer -> (n_tokens, width)."""
    return capture_of(family).capture_single(
        SENTENCES[1], max_new_tokens=0, layers_to_capture=sites_of(family)
    )


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def in_batches(family: str, padding_side: str, position: str, n_rows: int, layout: str = "padded"):
    """The first ``n_rows`` texts in one forward pass; all texts one by one where it is 1."""
    capture = capture_of(family, padding_side)
    texts = TEXTS if n_rows == 1 else TEXTS[:n_rows]
    budget = 1 if n_rows == 1 else n_rows * int(capture.tokens(TEXTS).n_tokens.max())
    return capture.capture_batch(
        texts, sites_of(family), position=position, batch_tokens=budget, layout=layout
    )


@pytest.mark.parametrize("position", ONE_ROW)
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_equal_batch_size_one(family, padding_side, position):
    """Padded, and packed where the proof finds that this family keeps prompts apart."""
    alone = in_batches(family, padding_side, position, 1)
    assert alone.prompts == TEXTS
    for n_rows, layout in product((2, 7, 8), ("padded", "auto")):
        together = in_batches(family, padding_side, position, n_rows, layout)
        assert together.prompts == TEXTS[:n_rows]
        for site in sites_of(family):
            for layer, found in together.values[site].items():
                assert relative(found, alone.values[site][layer][:n_rows]) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_is_the_block_output(family):
    """Against hooks of the test's own on the unpadded text, pooled here in numpy."""
    capture = capture_of(family)
    stack = next(m for m in capture.model.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
    heard = {}
    handles = [
        block.register_forward_hook(
            lambda module, args, output, k=k: heard.__setitem__(
                k, output[0] if isinstance(output, tuple) else output
            )
        )
        for k, block in enumerate(stack)
    ]
    pooled_here = ("last", "first", "mean", "max")
    recorded = {p: capture.capture_batch(TEXTS, ["residual"], position=p) for p in pooled_here}
    n_before = 1
    n_after = 0 if family in DECODERS else 1
    try:
        for row, text in enumerate(TEXTS):
            with torch.inference_mode():
                read = capture.model(
                    **capture.tokenizer(text, return_tensors="pt", return_token_type_ids=False),
                    output_hidden_states=True,
                )
            for layer in range(LAYERS):
                states = heard[layer][0].numpy()
                own = states[n_before : len(states) - n_after]
                pooled = {
                    "last": own[-1],
                    "first": own[0],
                    "mean": own.mean(axis=0),
                    "max": own.max(axis=0),
                }
                for position in pooled_here:
                    found = recorded[position].values["residual"][layer][row]
                    assert relative(found, pooled[position]) < 1e-5
                if layer < LAYERS - 1:
                    assert np.array_equal(states, read.hidden_states[layer + 1][0].numpy())
    finally:
        for handle in handles:
            handle.remove()
    # The last of hidden_states is after the final norm, or projection: not the block's output.
    last = read.hidden_states[-1][0].numpy()
    is_output = last.shape == states.shape and relative(last, states) < 1e-2
    assert is_output == (family in POST_NORM and family in ENCODERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_is_wired_as_its_family_is(family):
    name = "parallel" if family in PARALLEL else "sequential"
    name = "scaled" if family in SCALED else "post-norm" if family in POST_NORM else name
    blocks = capture_of(family).blocks
    assert [block.wiring.name for block in blocks] == [name] * LAYERS
    assert [block.additive for block in blocks] == [name in ("parallel", "sequential")] * LAYERS
    assert [block.wiring.scale for block in blocks] == pytest.approx([SCALED.get(family, 1)] * 3)
    for block in blocks:
        module = block.taps["residual"].module
        norms = [module.get_submodule(path) for path in POST_NORM.get(family, ())]
        assert list(block.wiring.norms) == norms


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_mlp_make_the_next_residual(family):
    """On another text than the one that the wiring was found on."""
    values = every_token(family).values
    for layer in range(1, LAYERS):
        stream, attention, mlp = (
            torch.from_numpy(values[site][layer - (site == "residual")])
            for site in ("residual", "attention", "mlp")
        )
        if family in POST_NORM:
            module = capture_of(family).blocks[layer].taps["residual"].module
            first, second = (module.get_submodule(path) for path in POST_NORM[family])
            with torch.no_grad():
                total = second(first(stream + attention) + mlp)
        else:
            total = stream + SCALED.get(family, 1) * (attention + mlp)
        assert relative(total.numpy(), values["residual"][layer]) < 1e-5


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in WITHOUT_NEURONS])
def test_down_projection_of_neurons_is_the_mlp_output(family):
    values = every_token(family).values
    for layer, block in enumerate(capture_of(family).blocks):
        neurons = torch.from_numpy(values["neuron"][layer])
        found = through(block, "mlp", block.taps["neuron"].module, neurons)
        assert relative(found, values["mlp"][layer]) < 1e-5
        assert neurons.shape[1] != values["mlp"][layer].shape[1]  # of the MLP's inner width


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_through_the_output_projection_sum_to_attention(family):
    values = every_token(family).values
    for layer, block in enumerate(capture_of(family).blocks):
        projection = block.taps["head"].module
        heads = torch.from_numpy(values["head"][layer])
        alone = torch.zeros(HEADS, *heads.shape)
        for h, columns in enumerate(torch.arange(heads.shape[1]).chunk(HEADS)):
            alone[h][:, columns] = heads[:, columns]
        with torch.no_grad():
            bias = projection(torch.zeros_like(heads))
            total = sum(projection(head) - bias for head in alone) + bias
        found = through(block, "attention", nn.Identity(), total)
        assert relative(found, values["attention"][layer]) < 1e-5


def through(block, site: str, projection: nn.Module, states: torch.Tensor) -> np.ndarray:
    """The projection of ``states``, through the norm that follows where the site is a norm."""
    with torch.no_grad():
        projected = projection(states)
        tapped = block.taps[site].module
        return (tapped(projected) if "norm" in type(tapped).__name__.lower() else projected).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_causality_is_seen_in_the_numbers(family):
    assert capture_of(family).is_causal == (family in DECODERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_capture_leaves_model_and_hooks_as_they_were(family):
    model = tiny_model(family)
    model.base_model.train()  # a model in the middle of someone's fine-tuning
    parameters = {name: p.clone() for name, p in model.named_parameters()}
    modes = {name: m.training for name, m in model.named_modules()}
    before = n_hooks(model)
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    first = capture.capture_batch(TEXTS, ["mlp"])
    assert n_hooks(model) == before
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert all(torch.equal(p, parameters[name]) for name, p in model.named_parameters())
    assert capture.capture_batch(TEXTS, ["mlp"]) == first  # dropout was off


@pytest.mark.parametrize("family", DECODERS)
def test_generated_tokens_are_the_greedy_ones(family):
    capture = capture_of(family)
    single = capture.capture_single("Two plus", max_new_tokens=5, layers_to_capture=["mlp"])
    ids = torch.tensor(single.token_ids[: single.n_prompt_tokens])[None]
    with torch.inference_mode():
        expected = capture.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
        )
    assert single.token_ids.tolist() == expected[0].tolist()


@pytest.mark.parametrize("family", DECODERS)
def test_each_row_of_a_single_capture_is_its_text_cut_there(family):
    capture = capture_of(family)
    sites = sites_of(family)
    single = capture.capture_single(SENTENCES[0], max_new_tokens=2, layers_to_capture=sites)
    assert single.n_prompt_tokens < len(single)
    cuts = [SENTENCES[0][:n] for n in (3, 7, 15)]  # after whole words
    cut = capture.capture_batch(cuts, sites, position="last")
    for row, n in enumerate(cut.n_tokens):
        assert capture.tokens([cuts[row]]).ids[0] == single.token_ids[:n].tolist()
        for site in sites:
            for layer, states in single.values[site].items():
                assert relative(states[n - 1], cut.values[site][layer][row]) < 1e-5


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_do_not_generate(family):
    with pytest.raises(ModelError, match="cannot generate text; record the prompt alone"):
        capture_of(family).capture_single("Two plus", max_new_tokens=1)
    alone = capture_of(family).capture_single("Two plus", max_new_tokens=0)
    assert len(alone) == alone.n_prompt_tokens
    assert alone.generated_text == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_known_without_the_weights(family):
    capture, config = capture_of(family), tiny_config(family)
    for site, layers in every_token(family).values.items():
        assert {v.shape[1] for v in layers.values()} == {site_width(site, config)}
    size = model_size(config)
    assert size.n_blocks == LAYERS
    assert size.n_parameters == sum(p.numel() for p in capture.model.base_model.parameters())


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_recorded_is_refused(family):
    message = {
        "mamba": "no attention found in model family 'mamba', block 0 .*MambaMixer.*state-space",
        "albert": "no stack of 3 blocks found in a 'albert' model .* its layers share weights",
        "t5": r"an encoder-decoder \(t5\) cannot be recorded",
    }[family]
    model = tiny_model(family)
    before = n_hooks(model)
    with pytest.raises(ModelError, match=message):
        find_sites(model)
    assert n_hooks(model) == before
