"""The real embedded model: what holds on tiny models holds on it, massive activations and all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import ONE_ROW

from activation_analysis.activations import SITES
from activation_analysis.models.embedded import EMBEDDED, embedded_file

pytestmark = pytest.mark.real

N_LAYERS, HIDDEN, INNER = 30, 576, 1536
SENTENCE = "Long division of 1001 by seven gives 143 with nothing left over."


@pytest.fixture(scope="session")
def single(embedded_capture):
    return embedded_capture.capture_single(SENTENCE, max_new_tokens=0)


@pytest.mark.parametrize("position", ONE_ROW)
def test_batches_equal_batch_size_one(embedded_capture, math_prompts, position):
    """In units of each site's standard deviation; float32 itself errs by 1e-4 of it."""
    some = math_prompts[::8]
    together = embedded_capture.capture_batch(some, position=position)
    alone = embedded_capture.capture_batch(some, position=position, batch_tokens=1)
    for site in SITES:
        spread = alone.matrix(site).std()
        assert np.abs(together.matrix(site) - alone.matrix(site)).max() < 2e-4 * spread


def test_widths_and_layers(embedded_capture, single):
    assert embedded_capture.n_layers == N_LAYERS
    widths = {site: single.values[site][0].shape[1] for site in SITES}
    assert widths == {**dict.fromkeys(SITES, HIDDEN), "neuron": INNER}
    assert embedded_capture.is_causal


def test_residual_is_the_block_output(embedded_capture, single):
    model = embedded_capture.model
    last = {}
    handle = model.model.layers[-1].register_forward_hook(
        lambda module, args, output: last.update(states=output)
    )
    try:
        with torch.inference_mode():
            read = model.model(torch.tensor(single.token_ids)[None], output_hidden_states=True)
    finally:
        handle.remove()
    for layer in range(N_LAYERS - 1):
        assert_near(single.values["residual"][layer], read.hidden_states[layer + 1][0].numpy())
    assert_near(single.values["residual"][N_LAYERS - 1], last["states"][0].numpy())
    after_norm = read.hidden_states[-1][0].numpy()
    assert np.abs(after_norm - last["states"][0].numpy()).max() > 1


def test_projections_prove_neurons_and_heads(embedded_capture, single):
    layers = embedded_capture.model.model.layers
    with torch.no_grad():
        for k, block in enumerate(layers):
            neurons = torch.from_numpy(single.values["neuron"][k])
            assert_near(block.mlp.down_proj(neurons).numpy(), single.values["mlp"][k])
            heads = torch.from_numpy(single.values["head"][k])
            assert_near(block.self_attn.o_proj(heads).numpy(), single.values["attention"][k])


def test_residual_plus_attention_plus_mlp_is_the_next_residual(embedded_capture, single):
    assert all(block.additive for block in embedded_capture.blocks)
    values = single.values
    for k in range(1, N_LAYERS):
        total = values["residual"][k - 1] + values["attention"][k] + values["mlp"][k]
        assert_near(total, values["residual"][k])


def test_the_converted_weights_are_those_of_the_gguf_file(embedded_capture):
    """Against gguf's own reader and de-quantiser, for one MLP of each end of the model."""
    gguf = pytest.importorskip("gguf")
    from gguf.quants import dequantize

    reader = gguf.GGUFReader(embedded_file("smollm2-135m"))
    stored = {tensor.name: tensor for tensor in reader.tensors}
    parts = {"ffn_gate": "gate_proj", "ffn_up": "up_proj", "ffn_down": "down_proj"}
    for k in (0, N_LAYERS - 1):
        mlp = embedded_capture.model.model.layers[k].mlp
        for theirs, ours in parts.items():
            tensor = stored[f"blk.{k}.{theirs}.weight"]
            expected = dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(getattr(mlp, ours).weight.detach().numpy(), expected)


def test_control_tokens_in_a_prompt_are_text(embedded_capture):
    tokenizer = embedded_capture.tokenizer
    text = "<|im_start|>user\nhi<|im_end|>"
    ids = embedded_capture.tokens([text]).ids[0]
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text


def test_a_continuation_is_sensible_and_greedy(embedded_capture):
    single = embedded_capture.capture_single("The capital of France is", 3)
    assert single.generated_text.startswith(" Paris")
    assert len(single) == single.n_prompt_tokens + 3


def test_provenance_names_the_weights(embedded_capture):
    recorded = embedded_capture.capture_batch(["The sea"], ["residual"], layers=[0])
    assert recorded.details["sha256"] == EMBEDDED["smollm2-135m"].sha256
    assert recorded.details["family"] == "llama"
    assert recorded.model == "smollm2-135m"


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 2e-4 of the typical size: a few coordinates are a thousand times larger."""
    allowed = 2e-4 * expected.std() + 1e-5 * np.abs(expected)
    assert (np.abs(found - expected) <= allowed).all()


def test_the_proof_holds_in_every_layout(embedded_capture, math_prompts):
    embedded_capture.capture_batch(math_prompts[:4], ["mlp"], layers=[0])
    proof = embedded_capture.proof
    assert proof.passed
    assert proof.holds("padded")
    assert proof.holds("packed")
    assert max(check.difference for check in proof.checks) < 2e-5  # measured: 7e-6


def test_half_of_the_model_on_disk_gives_the_same_values(embedded_capture, math_prompts, tmp_path):
    from activation_analysis.models.capture import ActivationCapture

    offloaded = ActivationCapture(
        "smollm2-135m",
        device="auto",
        max_memory={"cpu": "280MB"},
        offload_folder=tmp_path,
        progress=False,
    )
    placed = [str(place) for place in offloaded.model.hf_device_map.values()]
    assert placed.count("disk") > len(placed) / 2
    some = math_prompts[::10]
    for layers in (None, [11]):  # the second stops in the middle of the model
        together = offloaded.capture_positions(some, layers=layers)
        expected = embedded_capture.capture_positions(some, layers=layers)
        for position, recorded in together.items():
            for site in SITES:
                found, right = recorded.matrix(site), expected[position].matrix(site)
                assert np.abs(found - right).max() < 1e-5 * np.abs(right).max()


def test_a_shared_beginning_is_read_once_and_changes_nothing(embedded_capture, math_prompts):
    beginning = " ".join(math_prompts[:3])
    texts = [f"{beginning} {text}" for text in math_prompts[3:43]]
    n_read = []
    handle = embedded_capture.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: n_read.append(args[0].numel())
    )
    try:
        embedded_capture.capture_batch(texts[:2], ["mlp"], layers=[0])  # the proof is read too
        n_read.clear()
        together = embedded_capture.capture_positions(texts)
    finally:
        handle.remove()
    n_tokens = int(together["last"].n_tokens.sum())
    assert sum(n_read) < 0.75 * n_tokens
    alone = embedded_capture.capture_positions(texts, batch_tokens=1, layout="padded")
    for position, recorded in together.items():
        for site in SITES:
            found, right = recorded.matrix(site), alone[position].matrix(site)
            assert np.linalg.norm(found - right) < 1e-5 * np.linalg.norm(right)


def test_threads_change_no_bit(embedded_capture, math_prompts):
    n_threads = torch.get_num_threads()
    recorded = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            recorded.append(embedded_capture.capture_positions(math_prompts[::4]))
    finally:
        torch.set_num_threads(n_threads)
    assert recorded[0] == recorded[1]
