"""ActivationCapture: options, refusals, and what it leaves behind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import (
    CONTEXT,
    HIDDEN,
    INNER,
    LAYERS,
    ONE_ROW,
    SENTENCES,
    n_hooks,
    tiny_model,
    tiny_tokenizer,
)
from transformers import MambaConfig, MambaModel, T5Config, T5Model

from activation_analysis.activations import SITES
from activation_analysis.errors import ModelError, PromptError
from activation_analysis.models.capture import ActivationCapture

WIDTHS = {"residual": HIDDEN, "attention": HIDDEN, "mlp": HIDDEN, "neuron": INNER, "head": HIDDEN}


@pytest.fixture
def capture(tiny_gpt2) -> ActivationCapture:
    model, tokenizer = tiny_gpt2
    return ActivationCapture(model, tokenizer=tokenizer, progress=False)


def test_rows_are_prompts_and_columns_are_units(capture):
    recorded = capture.capture_batch(SENTENCES)
    assert recorded.sites == SITES
    assert recorded.layers == tuple(range(LAYERS))
    for site, width in WIDTHS.items():
        assert recorded.matrix(site).shape == (len(SENTENCES), LAYERS * width)
        assert recorded.matrix(site).dtype == np.float32
        assert len(recorded.units(site)) == LAYERS * width
    assert recorded.prompts == SENTENCES
    assert recorded.n_layers == LAYERS
    assert recorded.n_tokens.tolist() == [len(capture.tokenizer(t).input_ids) for t in SENTENCES]


@pytest.mark.parametrize("position", ONE_ROW)
def test_special_tokens_never_speak_for_a_prompt(position):
    """A begin and an end token change no row when what they do to the states is undone."""
    model = tiny_model("gpt2")
    with torch.no_grad():  # nothing is read from other tokens, and places look alike
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
    rows = [
        ActivationCapture(model, tokenizer=tiny_tokenizer(template=template), progress=False)
        .capture_batch(SENTENCES, ["residual"], position=position)
        .matrix()
        for template in ("$A", "<bos> $A", "<bos> <bos> $A <eos>")
    ]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows[2], rows[0], rtol=1e-5, atol=1e-6)


def test_layers_are_a_choice_and_count_from_either_end(capture):
    every = capture.capture_batch(SENTENCES, ["mlp", "neuron"])
    some = capture.capture_batch(SENTENCES, ["mlp", "neuron"], layers=[-1, 0, LAYERS - 1])
    assert some.layers == (0, LAYERS - 1)
    assert some.n_layers == LAYERS
    for site in ("mlp", "neuron"):
        for layer in (0, LAYERS - 1):
            np.testing.assert_array_equal(some.values[site][layer], every.values[site][layer])


def test_attn_means_attention_and_is_recorded_once(capture):
    recorded = capture.capture_batch(SENTENCES, ["attn", "attention", "mlp"])
    assert recorded.sites == ("attention", "mlp")
    np.testing.assert_array_equal(recorded.matrix("attn"), recorded.matrix("attention"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers_to_capture": ["mpl"]}, "no site 'mpl'; known: residual, attention, mlp, neuron"),
        ({"layers_to_capture": "mlp"}, r"layers_to_capture is one string; pass a list"),
        ({"layers_to_capture": []}, "no site to record; name one or more of: residual"),
        ({"position": "middle"}, "no position 'middle'; known: last, mean, max, first"),
        ({"layers": [0, 3, -4]}, r"no layer 3, -4 in .*, which has 3 blocks: 0 to 2"),
        ({"texts": ["fine", ""]}, "prompt 1: '' has no token of its own"),
        ({"texts": []}, "no texts to record"),
        ({"texts": "one string"}, "texts is one string; pass a list"),
        ({"texts": ["a" * 200]}, f"201 tokens.* context of {CONTEXT} tokens"),
        ({"batch_tokens": -1}, "batch_tokens=-1; give tokens of one forward pass"),
    ],
)
def test_what_cannot_be_recorded_is_refused(capture, arguments, message):
    before = n_hooks(capture.model)
    with pytest.raises(ValueError, match=message):
        capture.capture_batch(**{"texts": SENTENCES, **arguments})
    assert n_hooks(capture.model) == before


def test_truncation_is_asked_for(capture):
    cut = capture.capture_batch(["a" * 200, "b"], ["residual"], truncate=True)
    assert cut.n_tokens.tolist() == [CONTEXT, 2]
    whole = capture.capture_batch(["a" * (CONTEXT - 1)], ["residual"])
    np.testing.assert_allclose(cut.matrix()[0], whole.matrix()[0], rtol=1e-5, atol=1e-6)


def test_roberta_reads_as_many_tokens_as_it_has_places_for():
    model = tiny_model("roberta")
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    capture.capture_batch(["a" * (CONTEXT - 1), "b"], ["residual"])
    with pytest.raises(PromptError, match=f"context of {CONTEXT} tokens"):
        capture.capture_batch(["a" * CONTEXT], ["residual"])


def test_a_failing_forward_leaves_no_hook(capture):
    model = copy.deepcopy(capture.model).train()
    broken = ActivationCapture(model, tokenizer=capture.tokenizer, progress=False)
    broken.blocks  # noqa: B018  # found while the model is whole

    def fail(module, args):
        raise RuntimeError("device lost, say")

    model.transformer.h[1].mlp.register_forward_pre_hook(fail)
    before = n_hooks(model)
    with pytest.raises(RuntimeError, match="device lost, say"):
        broken.capture_batch(SENTENCES)
    with pytest.raises(RuntimeError, match="device lost, say"):
        broken.capture_single(SENTENCES[0])
    assert n_hooks(model) == before
    assert all(module.training for module in model.modules())


def test_a_module_that_is_skipped_is_not_recorded_as_noise(tiny_gpt2):
    model, tokenizer = copy.deepcopy(tiny_gpt2[0]), tiny_gpt2[1]
    capture = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    capture.capture_batch(SENTENCES)
    model.transformer.h[1].forward = lambda states, *_, **__: states
    with pytest.raises(RuntimeError, match=r"nothing ran at \[\('attention', 1\), \('mlp', 1\)\]"):
        capture.capture_batch(SENTENCES, ["residual", "attention", "mlp"])


def test_a_failing_proof_leaves_no_hook(tiny_gpt2):
    model = copy.deepcopy(tiny_gpt2[0])

    def fail(module, args):
        raise RuntimeError("out of memory, say")

    model.transformer.h[2].register_forward_pre_hook(fail)
    before = n_hooks(model)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        ActivationCapture(model, tokenizer=tiny_gpt2[1]).capture_batch(SENTENCES)
    assert n_hooks(model) == before


def test_two_captures_of_one_model_do_not_meet(capture):
    other = ActivationCapture(capture.model, tokenizer=capture.tokenizer, progress=False)
    first = capture.capture_batch(SENTENCES, position="mean")
    other.capture_batch(SENTENCES[:1], position="max")
    assert capture.capture_batch(SENTENCES, position="mean") == first


def test_a_mixture_of_experts_has_no_neuron_site():
    model = tiny_model("mixtral")
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    with pytest.raises(ModelError) as refusal:
        capture.capture_batch(SENTENCES, ["mlp", "neuron"])
    assert str(refusal.value) == (
        "this model lacks sites that were asked for (neuron: no down-projection yields the MLP's "
        "output (a mixture of experts?)); it has: residual, attention, mlp, head"
    )


def test_a_shared_expert_is_not_taken_for_the_mlp():
    """Qwen2-MoE runs one ordinary MLP beside its experts; its neurons are not all of them."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    config = Qwen2MoeConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=48,
        num_experts=4,
        num_experts_per_tok=2,
    )
    model = Qwen2MoeForCausalLM(config)
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    for block, sites in zip(model.model.layers, capture.blocks, strict=True):
        assert sites.additive
        assert sites.taps["mlp"].module is block.mlp
        assert "neuron" not in sites.taps
    capture.capture_batch(SENTENCES, ["residual", "attention", "mlp", "head"])


def tiny_mamba():
    return MambaModel(
        MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4)
    )


def tiny_t5():
    return T5Model(T5Config(vocab_size=320, d_model=32, num_layers=2, num_heads=4, d_kv=8, d_ff=48))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (tiny_mamba, "no attention found in model family 'mamba', block 0 .*MambaMixer"),
        (tiny_t5, r"an encoder-decoder \(t5\) cannot be recorded"),
    ],
)
def test_models_without_a_stack_of_attention_blocks_are_refused(build, message):
    capture = ActivationCapture(build(), tokenizer=tiny_tokenizer(), progress=False)
    before = n_hooks(capture.model)
    with pytest.raises(ModelError, match=message):
        capture.capture_batch(SENTENCES)
    assert n_hooks(capture.model) == before


def test_a_block_layout_that_is_not_rows_first_is_refused():
    """XLNet's blocks carry (tokens, rows, width): read as rows first, prompts would be mixed."""
    from transformers import XLNetConfig, XLNetModel

    model = XLNetModel(XLNetConfig(vocab_size=320, d_model=32, n_layer=2, n_head=4, d_inner=48))
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    with pytest.raises(ModelError, match=r"'xlnet', block 0 yields \(6, 2, 32\) for \(2, 6\)"):
        capture.capture_batch(SENTENCES)


def test_a_norm_after_the_sum_is_not_taken_for_the_mlp():
    """OPT-350m norms the stream after adding; what is added is the projection before that."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
        max_position_embeddings=96,
    )
    model = OPTForCausalLM(config)
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    layers = model.model.decoder.layers
    assert [block.additive for block in capture.blocks] == [False, False]
    assert [block.taps["mlp"].module for block in capture.blocks] == [k.fc2 for k in layers]


def test_post_norm_encoders_need_no_row_in_the_table():
    """ELECTRA is laid out as BERT: its sublayers end in a norm of the sum."""
    from transformers import ElectraConfig, ElectraModel

    config = ElectraConfig(
        vocab_size=320,
        embedding_size=32,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
    )
    model = ElectraModel(config)
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    for block, sites in zip(model.encoder.layer, capture.blocks, strict=True):
        assert not sites.additive
        assert sites.taps["attention"].module is block.attention.output.dense
        assert sites.taps["mlp"].module is block.output.dense
        assert sites.taps["neuron"].module is block.output.dense
        assert sites.taps["head"].module is block.attention.output.dense


def test_gpt1_norms_after_the_sum_too():
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=320, n_embd=32, n_layer=2, n_head=4))
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    for block, sites in zip(model.transformer.h, capture.blocks, strict=True):
        assert not sites.additive
        assert sites.taps["attention"].module in (block.attn, block.attn.c_proj)
        assert sites.taps["mlp"].module in (block.mlp, block.mlp.c_proj)


def test_the_blocks_run_alone_and_without_a_cache(capture):
    """No language-model head, and no keys and values kept for a next token."""
    seen = []
    handles = [
        capture.model.transformer.register_forward_hook(lambda m, a, out: seen.append(out)),
        capture.model.lm_head.register_forward_hook(lambda m, a, out: seen.append("head ran")),
    ]
    capture.capture_batch(SENTENCES)
    for handle in handles:
        handle.remove()
    assert seen
    assert [getattr(output, "past_key_values", output) for output in seen] == [None] * len(seen)


def test_scaled_residuals_are_not_called_additive():
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        residual_multiplier=0.3,
    )
    model = GraniteForCausalLM(config)
    capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
    assert [block.additive for block in capture.blocks] == [False, False]
    downs = [block.mlp.down_proj for block in model.model.layers]
    assert [block.taps["neuron"].module for block in capture.blocks] == downs


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "bloom", "bert"])
def test_sites_do_not_depend_on_the_precision(family, dtype):
    names = []
    for precision in (torch.float32, getattr(torch, dtype)):
        model = tiny_model(family).to(precision)
        with torch.no_grad():  # a stream far larger than what each block adds, as in deep models
            model.get_input_embeddings().weight.mul_(50)
        capture = ActivationCapture(model, tokenizer=tiny_tokenizer(), progress=False)
        spelled = {module: name for name, module in model.named_modules()}
        names.append(
            [
                (block.additive, {site: spelled[tap.module] for site, tap in block.taps.items()})
                for block in capture.blocks
            ]
        )
        recorded = capture.capture_batch(SENTENCES, position="mean")
        assert all(np.isfinite(recorded.matrix(site)).all() for site in recorded.sites)
        assert recorded.matrix("mlp").dtype == np.float32
    assert names[0] == names[1]


def test_bfloat16_is_near_float32(tiny_gpt2):
    model, tokenizer = tiny_gpt2
    exact = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    half = ActivationCapture(
        copy.deepcopy(model).to(torch.bfloat16), tokenizer=tokenizer, progress=False
    )
    a = exact.capture_batch(SENTENCES, position="mean")
    b = half.capture_batch(SENTENCES, position="mean")
    for site in SITES:
        difference = np.linalg.norm(a.matrix(site) - b.matrix(site))
        assert 0 < difference < 0.05 * np.linalg.norm(a.matrix(site))
    assert b.details["dtype"] == "bfloat16"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", ONE_ROW)
def test_values_that_are_not_finite_pass_through(tiny_gpt2, value, position):
    model, tokenizer = copy.deepcopy(tiny_gpt2[0]), tiny_gpt2[1]
    with torch.no_grad():
        model.transformer.h[-1].mlp.c_proj.bias[5] = value
    capture = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    recorded = capture.capture_batch(SENTENCES, ["mlp"], position=position)
    last = recorded.values["mlp"][LAYERS - 1]
    np.testing.assert_array_equal(last[:, 5], np.full(len(SENTENCES), value, np.float32))
    assert np.isfinite(np.delete(last, 5, axis=1)).all()


@pytest.mark.parametrize("position", ONE_ROW)
def test_an_overflow_at_a_special_token_does_not_reach_the_prompt(tiny_gpt2, position):
    model, tokenizer = copy.deepcopy(tiny_gpt2[0]), tiny_gpt2[1]
    begin = tokenizer.bos_token_id

    def overflow_at_begin(module, args, output):
        output = output.clone()
        output[:, 0] = torch.where(first_is_begin[:, None], torch.inf, output[:, 0])
        return output

    def look(module, args, kwargs):
        nonlocal first_is_begin
        first_is_begin = kwargs["input_ids"][:, 0] == begin

    first_is_begin = torch.tensor([])
    capture = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    capture.capture_batch(SENTENCES)  # the proof would tell that the MLP's output is not its own
    model.transformer.register_forward_pre_hook(look, with_kwargs=True)
    model.transformer.h[-1].mlp.register_forward_hook(overflow_at_begin)
    recorded = capture.capture_batch(SENTENCES, ["mlp"], position=position, layout="padded")
    assert np.isfinite(recorded.matrix()).all()


def test_recorded_rows_do_not_share_memory_with_the_model(capture):
    first = capture.capture_batch(SENTENCES)
    kept = {s: first.matrix(s).copy() for s in first.sites}
    capture.capture_batch(SENTENCES[::-1])
    assert all(np.array_equal(first.matrix(s), kept[s]) for s in first.sites)


def test_a_single_capture_names_every_token(capture):
    single = capture.capture_single("The sea", max_new_tokens=3)
    table = single.table()
    assert table["generated"].sum() == 3
    assert single.n_prompt_tokens == len(capture.tokenizer("The sea").input_ids)
    assert single.tokens[0] == "<bos>"
    assert capture.tokenizer.decode(single.token_ids[single.n_prompt_tokens :]) == (
        single.generated_text
    )
    for site, width in WIDTHS.items():
        for states in single.values[site].values():
            assert states.shape == (len(single), width)


def test_generation_stops_at_an_end_token(tiny_gpt2):
    model, tokenizer = copy.deepcopy(tiny_gpt2[0]), tiny_gpt2[1]
    free = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    new = free.capture_single("The sea", 6).token_ids[-6:].tolist()
    model.generation_config.eos_token_id = [7, new[2]]
    ended = free.capture_single("The sea", 6)
    assert ended.token_ids[ended.n_prompt_tokens :].tolist() == new[: new.index(new[2]) + 1]


def test_generation_ignores_the_checkpoint_s_sampling(tiny_gpt2):
    model, tokenizer = copy.deepcopy(tiny_gpt2[0]), tiny_gpt2[1]
    capture = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    plain = capture.capture_single("The sea", 8)
    model.generation_config.update(
        do_sample=True, temperature=3.0, top_k=3, repetition_penalty=9.0, no_repeat_ngram_size=1
    )
    assert capture.capture_single("The sea", 8).token_ids.tolist() == plain.token_ids.tolist()


def test_a_continuation_must_fit_into_the_context(capture):
    n_prompt = len(capture.tokens(["The sea"]).ids[0])
    whole = capture.capture_single("The sea", CONTEXT - n_prompt, layers_to_capture=["mlp"])
    assert len(whole) <= CONTEXT
    with pytest.raises(PromptError, match=f"do not fit into the model's context of {CONTEXT}"):
        capture.capture_single("The sea", CONTEXT - n_prompt + 1)
    with pytest.raises(ModelError, match="max_new_tokens=-1; use 0"):
        capture.capture_single("The sea", -1)


def test_a_base_model_is_recorded_but_does_not_generate(tiny_gpt2):
    model, tokenizer = tiny_gpt2
    whole = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    base = ActivationCapture(model.transformer, tokenizer=tokenizer, progress=False)
    np.testing.assert_array_equal(
        base.capture_batch(SENTENCES, ["mlp"]).matrix(),
        whole.capture_batch(SENTENCES, ["mlp"]).matrix(),
    )
    with pytest.raises(ModelError, match="cannot generate text"):
        base.capture_single("The sea", 1)


def test_a_model_in_memory_needs_its_tokenizer(tiny_gpt2):
    with pytest.raises(ModelError, match="needs its tokenizer"):
        ActivationCapture(tiny_gpt2[0])


def test_time_in_the_model_is_part_of_the_time(capture):
    capture.capture_batch(SENTENCES)
    assert 0 < capture.last_time.forward <= capture.last_time.total


def test_a_large_capture_keeps_its_order(capture):
    texts = [f"{n} is a number" for n in range(2000)]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(texts))
    straight = capture.capture_batch(texts, ["residual"], layers=[1]).matrix()
    mixed = capture.capture_batch([texts[i] for i in order], ["residual"], layers=[1]).matrix()
    np.testing.assert_allclose(mixed, straight[order], rtol=1e-4, atol=1e-5)
