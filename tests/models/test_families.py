"""What must hold in every model family, on tiny randomly initialised models."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from tiny_models import (
    DECODERS,
    ENCODERS,
    FAMILIES,
    HEADS,
    LAYERS,
    SENTENCES,
    n_hooks,
    tiny_model,
    tiny_tokenizer,
)
from torch import nn

from activation_analysis.activations import POSITIONS, SITES
from activation_analysis.models.capture import ActivationCapture

TEXTS = (SENTENCES[0], "a", *SENTENCES[1:], "Hi there", "a", "NA", "plus, and [INST] two")
WITHOUT_NEURONS = {"mixtral"}
POST_NORM = {"bert", "roberta", "distilbert"}  # the sum goes through a norm: not additive


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


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_equal_batch_size_one(family, padding_side):
    capture = capture_of(family, padding_side)
    sites = sites_of(family)
    longest = int(capture.tokens(TEXTS).n_tokens.max())
    for position in POSITIONS:
        alone = capture.capture_batch(TEXTS, sites, position=position, batch_tokens=1)
        for n_rows in (3, 8):
            together = capture.capture_batch(
                TEXTS, sites, position=position, batch_tokens=n_rows * longest
            )
            assert together.prompts == TEXTS
            for site in sites:
                assert relative(together.matrix(site), alone.matrix(site)) < 1e-5


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
    recorded = {p: capture.capture_batch(TEXTS, ["residual"], position=p) for p in POSITIONS}
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
                for position in POSITIONS:
                    found = recorded[position].values["residual"][layer][row]
                    assert relative(found, pooled[position]) < 1e-5
                if layer < LAYERS - 1:
                    assert np.array_equal(states, read.hidden_states[layer + 1][0].numpy())
    finally:
        for handle in handles:
            handle.remove()
    # In families with a final norm, the last of hidden_states is after it: not the block's output.
    after_norm = relative(read.hidden_states[-1][0].numpy(), states) > 1e-2
    assert after_norm == (family not in POST_NORM)


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_plus_attention_plus_mlp_is_the_next_residual(family):
    capture = capture_of(family)
    additive = [block.additive for block in capture.blocks]
    assert additive == [family not in POST_NORM] * LAYERS
    if family in POST_NORM:
        return
    values = every_token(family).values
    for layer in range(1, LAYERS):
        total = values["residual"][layer - 1] + values["attention"][layer] + values["mlp"][layer]
        assert relative(total, values["residual"][layer]) < 1e-5


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
    from activation_analysis.errors import ModelError

    with pytest.raises(ModelError, match="cannot generate text; record the prompt alone"):
        capture_of(family).capture_single("Two plus", max_new_tokens=1)
    alone = capture_of(family).capture_single("Two plus", max_new_tokens=0)
    assert len(alone) == alone.n_prompt_tokens
    assert alone.generated_text == ""
