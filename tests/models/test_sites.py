"""Sites and wiring where the model is not the usual one, or not in the usual precision."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny_models import FAMILIES, LAYERS, n_hooks, tiny_model
from torch import nn

from activation_analysis.errors import ModelError
from activation_analysis.models.sites import find_sites, require_sites

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def small_model(family: str, **arguments) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SMALL, **arguments})
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_wiring_and_taps_do_not_depend_on_the_precision(family, dtype):
    """A stream far larger than what each block adds, as in deep models: rounding hides much."""
    found = []
    for precision in (torch.float32, dtype):
        model = tiny_model(family).to(precision)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(50)
        spelled = {module: name for name, module in model.named_modules()}
        found.append(
            [
                (
                    block.wiring.name,
                    pytest.approx(block.wiring.scale, rel=0.02),
                    [spelled[norm] for norm in block.wiring.norms],
                    {site: spelled[tap.module] for site, tap in block.taps.items()},
                )
                for block in find_sites(model).blocks
            ]
        )
    assert [(n, s.expected, *rest) for n, s, *rest in found[1]] == found[0]


@pytest.mark.parametrize(
    ("family", "wiring", "attention", "mlp"),
    [
        # Pre-norm, but every class of it has "LayerNorm" in its name.
        ("roberta-prelayernorm", "sequential", "attention.output.dense", "output.dense"),
        ("esm", "sequential", "attention.output.dense", "output.dense"),
        ("megatron-bert", "sequential", "attention.output.dense", "output.dense"),
        ("deberta-v2", "post-norm", "attention.output.dense", "output.dense"),
        ("mpnet", "post-norm", "attention.attn.o", "output.dense"),
        ("glm4", "sequential", "post_self_attn_layernorm", "post_mlp_layernorm"),
        ("nemotron", "sequential", "self_attn", "mlp"),
    ],
)
def test_more_families_are_recognised(family, wiring, attention, mlp):
    more = {"head_dim": 8, "num_key_value_heads": 2} if family in ("glm4", "nemotron") else {}
    for block in find_sites(small_model(family, pad_token_id=0, **more)).blocks:
        module = block.taps["residual"].module
        assert block.wiring.name == wiring
        assert block.taps["attention"].module is module.get_submodule(attention)
        assert block.taps["mlp"].module is module.get_submodule(mlp)
        assert {"neuron", "head"} <= block.taps.keys()


def test_what_no_identity_shows_is_not_recorded():
    """Doge scales the stream, coordinate by coordinate, before it adds a sublayer."""
    found = find_sites(small_model("doge", num_key_value_heads=2))
    for block in found.blocks:
        assert block.wiring is None
        assert not block.additive
        assert set(block.taps) == {"residual", "head", "neuron"}
    with pytest.raises(ModelError) as refusal:
        require_sites(found.blocks, ["residual", "mlp"], [0, 1])
    assert str(refusal.value) == (
        "this model lacks sites that were asked for (mlp: no known identity shows what attention "
        "and MLP add to the stream); it has: residual, neuron, head"
    )


def test_a_feed_forward_pass_in_chunks_is_refused():
    model = small_model("bert", chunk_size_feed_forward=2)
    with pytest.raises(ModelError) as refusal:
        find_sites(model)
    assert str(refusal.value) == (
        "model family 'bert', block 0 runs output 3 times in one pass (layers that share weights, "
        "or a feed-forward pass in chunks: then set chunk_size_feed_forward to 0); models "
        "whose modules each run once can be recorded"
    )
    assert n_hooks(model) == 0


class AttentionAlone(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.self_attn = block.self_attn

    def forward(self, hidden_states: torch.Tensor, **arguments) -> torch.Tensor:
        return hidden_states + self.self_attn(hidden_states=hidden_states, **arguments)[0]


def test_a_block_of_attention_alone_is_refused():
    model = small_model("llama")
    model.layers = nn.ModuleList([AttentionAlone(block) for block in model.layers])
    with pytest.raises(ModelError, match="no MLP found beside attention in model family 'llama'"):
        find_sites(model)


def test_layers_that_are_one_block_are_refused():
    model = small_model("llama")
    model.layers = nn.ModuleList([model.layers[0]] * LAYERS)
    with pytest.raises(ModelError, match="the 3 layers of this 'llama' model share 1 blocks"):
        find_sites(model)


def test_an_overflow_in_a_few_coordinates_hides_no_wiring():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[5] = torch.inf
    wirings = [block.wiring.name for block in find_sites(model).blocks[:2]]
    assert wirings == ["sequential", "sequential"]


def test_numbers_that_all_overflowed_prove_nothing():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    assert [block.wiring is None for block in find_sites(model).blocks] == [False, True, True]
