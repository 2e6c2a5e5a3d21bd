"""A proof must hold where the recording is right, and name site and layer where it is not."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from tiny_models import FAMILIES, LAYERS, n_hooks, tiny_model
from transformers import PreTrainedModel

from activation_analysis.errors import ModelError
from activation_analysis.models.checks import Check, Proof
from activation_analysis.models.differences import relative_difference
from activation_analysis.models.identities import identity_taps
from activation_analysis.models.proof import (
    IDENTITY_TOLERANCES,
    LAYOUT_TOLERANCES,
    probes,
    prove,
    prove_identities,
    prove_layout,
    require,
)
from activation_analysis.models.sites import ModelSites, Tap, find_sites
from activation_analysis.models.tracing import first_tensor, received

DTYPES = list(LAYOUT_TOLERANCES)
# Families that take positions and build a mask that restarts with them.
PACKABLE = ["gpt2", "gptj", "llama", "qwen3", "mistral", "gemma2", "gpt_neox", "olmo2", "granite"]


def some_ids(*lengths: int) -> list[list[int]]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(4, 320, (n,), generator=rng).tolist() for n in lengths]


IDS = some_ids(3, 14, 9, 20)


@cache
def prepared(family: str, dtype: torch.dtype) -> tuple[PreTrainedModel, ModelSites]:
    model = tiny_model(family).to(dtype)
    return model, find_sites(model)


def model_of(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return prepared(family, dtype)[0]


def found_in(family: str, dtype: torch.dtype = torch.float32) -> ModelSites:
    return prepared(family, dtype)[1]


# A small engine of the test's own, one function per layout.


def listen(model, taps: Mapping, **inputs) -> dict:
    """Every token at every tap, (n_rows, n_places, width) float32."""
    heard = {}
    # With a cache, transformers does not ask whether positions restart in a row.
    if "use_cache" in inspect.signature(model.base_model.forward).parameters:
        inputs["use_cache"] = False

    def keep(address, states):
        heard[address] = states.detach().float().reshape(*inputs["input_ids"].shape, -1).clone()

    with ExitStack() as hooks, torch.inference_mode():
        for address, tap in taps.items():
            if tap.reads_input:

                def before(module, args, kwargs, address=address):
                    keep(address, received(args, kwargs))

                handle = tap.module.register_forward_pre_hook(before, with_kwargs=True)
            else:

                def after(module, args, output, address=address):
                    keep(address, first_tensor(output))

                handle = tap.module.register_forward_hook(after)
            hooks.callback(handle.remove)
        model.base_model(**inputs)
    return heard


def alone(model, ids, taps):
    heard = [listen(model, taps, input_ids=torch.tensor([row])) for row in ids]
    return [{address: states[0] for address, states in prompt.items()} for prompt in heard]


def side_by_side(model, ids, taps, *, left=False, masked=True):
    longest = max(map(len, ids))
    fill = [[7] * (longest - len(row)) for row in ids]
    rows = [pad + row if left else row + pad for row, pad in zip(ids, fill, strict=True)]
    real = torch.zeros(len(ids), longest, dtype=torch.bool)
    for k, row in enumerate(ids):
        start = longest - len(row) if left else 0
        real[k, start : start + len(row)] = True
    mask = {"attention_mask": real.long()} if masked else {}
    heard = listen(model, taps, input_ids=torch.tensor(rows), **mask)
    return [
        {address: states[k, real[k]] for address, states in heard.items()} for k in range(len(ids))
    ]


def in_one_row(model, ids, taps, *, mask=None):
    positions = torch.cat([torch.arange(len(row)) for row in ids])[None]
    given = {} if mask is None else {"attention_mask": mask(ids)}
    row = torch.tensor([[token for row in ids for token in row]])
    heard = listen(model, taps, input_ids=row, position_ids=positions, **given)
    ends = torch.tensor([len(row) for row in ids]).cumsum(0)[:-1]
    parts = {address: states[0].tensor_split(ends) for address, states in heard.items()}
    return [{address: split[k] for address, split in parts.items()} for k in range(len(ids))]


def block_diagonal(ids) -> torch.Tensor:
    """Each token reads all of its own prompt before it, however far away."""
    prompt = torch.cat([torch.full((len(row),), k) for k, row in enumerate(ids)])
    return ((prompt[:, None] == prompt) & read_all(ids)[0, 0])[None, None]


def read_all(ids) -> torch.Tensor:
    """Each token reads everything before it in the row, other prompts too."""
    n = sum(map(len, ids))
    return torch.ones(n, n, dtype=torch.bool).tril()[None, None]


def engine(model, *, causal=True, **layouts):
    """``record`` of an honest engine, but for the layouts that are replaced."""
    known = {
        "alone": alone,
        "padded": partial(side_by_side, masked=not causal),
        "packed": in_one_row,
        **layouts,
    }
    return lambda ids, layout, taps: known[layout](model, ids, taps)


def failures(checks) -> set[tuple[str, str, int]]:
    return {(check.name, check.site, check.layer) for check in checks if not check.passed}


def layout_checks(family, layout, dtype=torch.float32, **layouts):
    model, found = model_of(family, dtype), found_in(family, dtype)
    record = engine(model, causal=found.causal, **layouts)
    return prove_layout(record, IDS, identity_taps(found), layout, dtype)


# What is right is proved.


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_proved(family):
    model, found = model_of(family), found_in(family)
    before = n_hooks(model)
    layouts = ["padded", "packed"] if family in PACKABLE else ["padded"]
    record = engine(model, causal=found.causal)
    proof = prove(found, record, IDS, torch.float32, layouts=layouts)
    require(proof)
    assert proof.passed
    assert proof.holds("padded")
    assert proof.holds("packed") == (family in PACKABLE)
    assert max(check.difference for check in proof.checks) < 1e-5  # a tenth of the tolerance
    names = {check.name for check in proof.checks}
    assert {"heads through the projection = attention", found.blocks[0].wiring.name} <= names
    assert ("down_proj(neuron) = mlp" in names) == ("neuron" in found.blocks[0].taps)
    assert n_hooks(model) == before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "granite", "bert", "opt_post_norm"])
def test_each_precision_has_its_tolerance(family, dtype):
    model, found = model_of(family, dtype), found_in(family, dtype)
    layouts = ["padded", "packed"] if family in PACKABLE else ["padded"]
    proof = prove(found, engine(model, causal=found.causal), IDS, dtype, layouts=layouts)
    assert proof.passed, proof.summary()
    assert {c.tolerance for c in proof.checks} == {
        LAYOUT_TOLERANCES[dtype],
        IDENTITY_TOLERANCES[dtype],
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["mixtral", "olmoe", "qwen2_moe"])
def test_a_token_that_rounding_routes_elsewhere_is_no_failure(family, dtype):
    """In bfloat16, OLMoE sends one token of these prompts to another expert."""
    model, found = model_of(family, dtype), found_in(family, dtype)
    proof = prove(found, engine(model), IDS, dtype)
    assert proof.passed, proof.summary()
    layouts = [check for check in proof.checks if check.name.endswith("alone")]
    assert {check.measure for check in layouts} == {"typical token"}
    assert max(check.difference for check in layouts) < 0.05
    reading = engine(model, packed=partial(in_one_row, mask=read_all))
    broken = prove(found, reading, IDS, dtype)
    assert not broken.holds("packed")
    assert broken.holds("padded")


def test_another_precision_is_refused():
    record = engine(model_of("llama"))
    with pytest.raises(ModelError, match=r"no tolerance is known .* float8_e4m3fn; load it in one"):
        prove_layout(record, IDS, identity_taps(found_in("llama")), "padded", torch.float8_e4m3fn)


# What is wrong is caught: layouts.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neo"])
def test_left_padding_without_positions_is_caught(family, dtype):
    """Absolute positions count the padding: every token of a padded prompt stands elsewhere."""
    checks = layout_checks(
        family, "padded", dtype, padded=partial(side_by_side, left=True, masked=family != "opt")
    )
    failed = failures(checks)
    assert ("padded = alone", "input") in {(name, site) for name, site, _ in failed}
    assert {site for _, site, _ in failed} >= {"residual", "attention", "mlp"}
    proof = Proof(tuple(checks), 4, 46, "float32", 0.0)
    with pytest.raises(ModelError) as refusal:
        require(proof)
    worst = next(c for c in checks if c.site == "residual")
    assert f"padded = alone does not hold at site 'residual', layer {worst.layer}: the " in str(
        refusal.value
    )
    assert f"is {worst.difference:.2g}, and rounding explains {worst.tolerance:.2g}" in str(
        refusal.value
    )
    assert "record one prompt at a time (batch_tokens=1)" in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "electra"])
def test_an_encoder_without_a_mask_is_caught(family, dtype):
    checks = layout_checks(family, "padded", dtype, padded=partial(side_by_side, masked=False))
    failed = {site for name, site, _ in failures(checks)}
    assert failed >= {"attention", "head"}
    assert ("input", 0) not in {(c.site, c.layer) for c in checks if not c.passed}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", PACKABLE)
def test_prompts_that_read_each_other_in_a_row_are_caught(family, dtype):
    checks = layout_checks(family, "packed", dtype, packed=partial(in_one_row, mask=read_all))
    assert {site for _, site, _ in failures(checks)} >= {"attention", "head"}
    proof = Proof(tuple(checks), 4, 46, "float32", 0.0)
    assert not proof.passed
    assert not proof.holds("packed")
    require(proof)  # the engine pads instead


@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon_alibi"])
def test_packing_is_not_believed_of_families_whose_bias_counts_the_row(family):
    """ALiBi is counted from the row's start; what matters is that no wrong packing passes."""
    try:
        checks = layout_checks(family, "packed")
    except TypeError:
        return  # the model does not take positions at all
    assert failures(checks)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_a_sliding_window_lost_in_packing_is_caught(family):
    """The block-diagonal mask of a model without windows lets tokens read too far back."""
    assert not failures(layout_checks(family, "packed"))
    checks = layout_checks(family, "packed", packed=partial(in_one_row, mask=block_diagonal))
    assert {site for _, site, _ in failures(checks)} >= {"attention", "head"}


def test_a_window_that_no_probe_exceeds_cannot_be_seen_to_fail():
    """So prompts longer than a window are to be among the probes, uncut, or padded."""
    short = [row[:4] for row in IDS]  # the window is 4
    record = engine(model_of("mistral"), packed=partial(in_one_row, mask=block_diagonal))
    taps = identity_taps(found_in("mistral"))
    assert not failures(prove_layout(record, short, taps, "packed", torch.float32))


def swapped(model, ids, taps):
    """Two prompts of one length come back in each other's place."""
    found = side_by_side(model, ids, taps, masked=False)
    found[0], found[1] = found[1], found[0]
    return found


def one_token_wrong(model, ids, taps, *, address):
    """One token of one prompt, at one site of one layer, is its neighbour's."""
    found = side_by_side(model, ids, taps, masked=False)
    found[-1][address][5] = found[-1][address][4]
    return found


def shifted(engine_layout, address):
    """One tap hears every token one place too late."""

    def layout(model, ids, taps):
        found = engine_layout(model, ids, taps)
        for prompt in found:
            prompt[address] = prompt[address].roll(1, dims=0)
        return found

    return layout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swapped_rows_are_caught(dtype):
    model, found = model_of("llama", dtype), found_in("llama", dtype)
    ids = some_ids(9, 9, 14)
    record = engine(model, padded=swapped)
    checks = prove_layout(record, ids, identity_taps(found), "padded", dtype)
    assert {site for _, site, _ in failures(checks)} == {"input", *found.blocks[0].taps}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("address", [("residual", 0), ("mlp", 1), ("neuron", 2), ("head", 1)])
def test_one_wrong_token_is_caught_and_named(address, dtype):
    checks = layout_checks(
        "llama", "padded", dtype, padded=partial(one_token_wrong, address=address)
    )
    assert failures(checks) == {("padded = alone", *address)}


@pytest.mark.parametrize("address", [("residual", 0), ("mlp", 1), ("neuron", 2), ("head", 1)])
def test_a_site_shifted_by_a_token_is_caught_and_named(address):
    padded = partial(side_by_side, masked=False)
    checks = layout_checks("llama", "padded", padded=shifted(padded, address))
    assert failures(checks) == {("padded = alone", *address)}


def test_a_lost_token_is_told():
    def losing(model, ids, taps):
        return [{a: states[1:] for a, states in p.items()} for p in alone(model, ids, taps)]

    with pytest.raises(ValueError, match="are compared, must come back once"):
        layout_checks("llama", "padded", padded=losing)
    with pytest.raises(ValueError, match="no layout 'in rows' to prove; known: padded, packed"):
        layout_checks("llama", "in rows")


# What is wrong is caught: taps.


def identity_failures(family, layer, *, dtype=torch.float32, states=None, **taps):
    """Failed identities after ``taps`` of one layer were moved, or ``states`` spoiled."""
    found = found_in(family, dtype)
    blocks = list(found.blocks)
    blocks[layer] = replace(blocks[layer], taps={**blocks[layer].taps, **taps})
    found = replace(found, blocks=blocks)
    recorded = (states or alone)(model_of(family, dtype), IDS, identity_taps(found))
    return failures(prove_identities(found, recorded, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_activation_function_taken_for_the_neurons_is_caught(dtype):
    """In a gated MLP the neuron is the down-projection's input, gate times up."""
    activation = model_of("llama", dtype).model.layers[1].mlp.act_fn
    failed = identity_failures("llama", 1, dtype=dtype, neuron=Tap(activation))
    assert failed == {("down_proj(neuron) = mlp", "neuron", 1)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_state_after_the_final_norm_taken_for_the_residual_is_caught(dtype):
    norm = model_of("llama", dtype).model.norm
    last = LAYERS - 1
    failed = identity_failures("llama", last, dtype=dtype, residual=Tap(norm))
    assert failed == {("sequential", "residual", last)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sublayer_before_its_post_norm_is_caught(dtype):
    attention = model_of("gemma2", dtype).model.layers[1].self_attn
    failed = identity_failures("gemma2", 1, dtype=dtype, attention=Tap(attention))
    assert failed == {
        ("sequential", "residual", 1),
        ("heads through the projection = attention", "head", 1),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sublayer_that_has_added_the_stream_is_caught(dtype):
    """BERT's attention module ends in the norm of the sum."""
    attention = model_of("bert", dtype).encoder.layer[2].attention
    failed = identity_failures("bert", 2, dtype=dtype, attention=Tap(attention))
    assert failed == {
        ("post-norm", "residual", 2),
        ("heads through the projection = attention", "head", 2),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_forgotten_scale_is_caught(dtype):
    found = found_in("granite", dtype)
    blocks = [replace(b, wiring=replace(b.wiring, scale=1.0)) for b in found.blocks]
    recorded = alone(model_of("granite", dtype), IDS, identity_taps(found))
    checks = prove_identities(replace(found, blocks=blocks), recorded, dtype)
    assert [(name, site) for name, site, _ in failures(checks)] == [("scaled", "residual")]


@pytest.mark.parametrize("site", ["residual", "attention", "mlp", "neuron", "head"])
def test_a_site_shifted_by_a_token_breaks_its_identity(site):
    failed = identity_failures("llama", 1, states=shifted(alone, (site, 1)))
    assert failed
    assert {layer for _, _, layer in failed} == {1}


def test_a_tap_of_another_layer_is_caught():
    elsewhere = found_in("gpt2").blocks[2].taps["mlp"]
    failed = identity_failures("gpt2", 0, mlp=elsewhere)
    assert failed == {
        ("sequential", "residual", 0),
        ("down_proj(neuron) = mlp", "neuron", 0),
    }


# The measure.


def test_a_massive_coordinate_hides_nothing():
    """As in real models: two coordinates of thousands beside hundreds of order one."""
    rng = torch.Generator().manual_seed(1)
    expected = torch.randn(60, 576, generator=rng)
    expected[[0, 15, 30, 45], 3] = 10_000.0  # at the first token of each of four prompts
    expected[:, 7] *= 300.0
    rounded = expected * (1 + 1e-6 * torch.randn(60, 576, generator=rng))
    assert relative_difference(rounded, expected) < 5e-6
    for token in (0, 1):  # a massive token and an ordinary one
        wrong = rounded.clone()
        wrong[token, 8:] = expected[token + 20, 8:]
        assert relative_difference(wrong, expected) > 0.3


def test_what_is_nearly_nothing_is_judged_by_what_is_there():
    expected = torch.ones(5, 8)
    expected[2], expected[:, 4] = 1e-7, 0.0
    assert relative_difference(expected + 1e-7, expected) < 1e-6
    assert relative_difference(torch.zeros(5, 8), torch.zeros(5, 8)) == 0.0
    assert relative_difference(torch.ones(5, 8), torch.zeros(5, 8)) == float("inf")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_must_stand_at_the_same_places(value):
    expected = torch.ones(4, 6)
    expected[1, 2] = value
    assert relative_difference(expected.clone(), expected) == 0.0
    assert relative_difference(torch.ones(4, 6), expected) == float("inf")
    assert relative_difference(expected, torch.ones(4, 6)) == float("inf")
    wrong = expected.clone()
    wrong[3] = 2.0
    assert 0.5 < relative_difference(wrong, expected) < 2


# The prompts.


def test_probes_are_shortest_longest_and_some_between():
    ids = some_ids(30, 5, 90, 12, 50, 8, 70)
    chosen = probes(ids)
    assert [len(row) for row in chosen] == [5, 12, 50, 64]
    assert chosen[0] == ids[1]
    assert chosen[3] == ids[2][:64]
    assert sum(map(len, probes(some_ids(*range(8, 121)), n=4))) <= 256


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([10], [5, 10]), ([1], [1]), ([90, 80, 70, 99, 100], [32, 64, 64, 64]), ([4, 4], [2, 4, 4])],
)
def test_probes_differ_in_length_so_that_padding_is_proved(lengths, expected):
    assert [len(row) for row in probes(some_ids(*lengths))] == expected


def test_no_probes_of_nothing():
    with pytest.raises(ValueError, match="probes of 0 prompts, n=4, longest=64; give one prompt"):
        probes([])


# The result.


def test_a_proof_tells_what_it_found():
    good = Check("sequential", "residual", 3, 1e-6, 1e-4)
    bad = Check("packed = alone", "attention", 1, float("inf"), 1e-4)
    proof = Proof((good, replace(good, layer=5, difference=2e-6), bad), 4, 71, "float32", 1.2)
    assert not proof.passed
    assert proof.worst("sequential").layer == 5
    assert proof.summary() == (
        "Not proved on 4 prompts, 71 tokens, float32: sequential 2.0e-06, "
        "packed = alone inf FAILED (attention, layer 1) (1.2 s)"
    )
    assert proof.table()["passed"].tolist() == [True, True, False]
    told = json.loads(proof.to_json())
    assert told["checks"][2]["difference"] is None
    assert (told["passed"], told["n_tokens"]) == (False, 71)
    with pytest.raises(ValueError, match="no check 'posture'; checked: sequential, packed = alone"):
        proof.worst("posture")


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "opt_post_norm", "bert"])
def test_offloaded_modules_are_called_not_read(family):
    from accelerate import cpu_offload

    model = tiny_model(family)
    cpu_offload(model, execution_device="cpu")
    found = find_sites(model)
    for block in found.blocks:
        assert all(p.device.type == "meta" for m in block.leads_to["head"] for p in m.parameters())
    proof = prove(found, engine(model, causal=found.causal), IDS, torch.float32, layouts=["padded"])
    assert proof.passed, proof.summary()
