"""From a name to a model in memory: what is found, what is refused, and with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import LAYERS, SENTENCES, tiny_model, tiny_tokenizer

from activation_analysis.errors import ModelError
from activation_analysis.models import embedded, gguf_cache
from activation_analysis.models.capture import ActivationCapture
from activation_analysis.models.embedded import EMBEDDED, EmbeddedModel, file_sha256
from activation_analysis.models.loading import load_config, load_model, load_tokenizer, resolve


@pytest.fixture
def copied(saved_gpt2, tmp_path) -> Path:
    return Path(shutil.copytree(saved_gpt2, tmp_path / "copied"))


def in_memory(tiny_gpt2):
    model, tokenizer = tiny_gpt2
    return ActivationCapture(model, tokenizer=tokenizer, progress=False).capture_batch(SENTENCES)


def test_a_folder_gives_what_the_model_in_memory_gives(saved_gpt2, tiny_gpt2):
    capture = ActivationCapture(saved_gpt2, progress=False)
    recorded, expected = capture.capture_batch(SENTENCES), in_memory(tiny_gpt2)
    for site in expected.sites:
        np.testing.assert_array_equal(recorded.matrix(site), expected.matrix(site))
    assert capture.source.sha256 == file_sha256(saved_gpt2 / "model.safetensors")
    assert capture.source.short_name == "tiny-gpt2"
    assert recorded.details["sha256"] == capture.source.sha256
    assert recorded.details["dtype"] == "float32"


def test_a_checkpoint_in_half_precision_is_read_in_float32_on_a_cpu(saved_gpt2, tmp_path):
    half = load_model(resolve(str(saved_gpt2)), device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    tiny_tokenizer().save_pretrained(tmp_path / "half")
    assert load_model(resolve(str(tmp_path / "half")), device="cpu").dtype == torch.float32


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_read_without_a_language_model_head(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / family)
    tiny_tokenizer(template="<bos> $A <eos>").save_pretrained(tmp_path / family)
    capture = ActivationCapture(tmp_path / family, progress=False)
    assert type(capture.model) is type(model)
    assert not capture.is_causal
    with pytest.raises(ModelError, match="cannot generate text"):
        capture.capture_single("The sea", 1)


def test_pickled_weights_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no \.safetensors weights; pickled weights"):
        resolve(str(copied))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json\na model is one of: an embedded"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing", "nothing.gguf"])
def test_a_missing_path_is_refused(name):
    with pytest.raises(ModelError, match="no model file or folder at"):
        resolve(name)


@pytest.mark.parametrize("name", ["", "  "])
def test_no_name_is_refused(name):
    with pytest.raises(ModelError, match="no model named; a model is one of"):
        resolve(name)


def test_a_file_that_is_no_gguf_is_refused(saved_gpt2):
    with pytest.raises(ModelError, match=r"is a file, but no \.gguf file"):
        resolve(str(saved_gpt2 / "model.safetensors"))


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-x", "../..\\x", "a" * 200, "https://x.org/a"])
def test_what_cannot_be_a_hub_id_is_refused(name):
    with pytest.raises(ModelError):
        resolve(name)


def test_a_missing_shard_is_named(copied):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks model-1\.safetensors, which its"):
        resolve(str(copied))


def test_weights_that_are_not_there_are_never_random(copied):
    file = copied / "model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if ".h.1.mlp" not in k}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 4 of the weights .*h\.1\.mlp\.c_fc\.bias"):
        load_model(resolve(str(copied)), device="cpu")


def test_a_model_saved_without_its_head_is_recorded_but_does_not_generate(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["lm_head.weight"]
    save_file(weights, file, {"format": "pt"})
    capture = ActivationCapture(tmp_path, device="cpu", progress=False)
    assert capture.capture_batch(SENTENCES, ["mlp"]).matrix().shape == (4, 96)
    with pytest.raises(ModelError, match="cannot generate text"):
        capture.capture_single("The sea", 1)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_files_are_one_clear_message(copied, file, damage):
    whole = (copied / file).read_bytes()
    left = {"truncated": whole[: len(whole) // 2], "empty": b"", "garbage": b"\xff\x00{" * 99}
    (copied / file).write_bytes(left[damage])
    with pytest.raises(ModelError, match=r"cannot (load|read)"):
        ActivationCapture(copied, device="cpu", progress=False)


def test_code_that_a_model_brings_along_is_not_run(copied):
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "evil.Evil"}}
    (copied / "config.json").write_text(json.dumps(config))
    ran = copied / "ran"
    (copied / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n")
    with pytest.raises(ModelError, match="cannot read the configuration"):
        load_config(resolve(str(copied)))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu!"}, "no device 'tpu!'; use auto, cpu, cuda"),
        ({"device": "cuda:99"}, r"device 'cuda:99' asked for, but torch sees .* CUDA GPUs"),
        ({"dtype": "int8"}, "no dtype 'int8'; known: auto, float32, bfloat16, float16"),
    ],
)
def test_impossible_places_are_refused(saved_gpt2, arguments, message):
    with pytest.raises(ModelError, match=message):
        load_model(resolve(str(saved_gpt2)), **arguments)


def test_encoder_decoders_are_refused(tmp_path):
    from transformers import T5Config

    T5Config(vocab_size=320).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"is an encoder-decoder \(t5\)"):
        load_model(resolve(str(tmp_path)))


# Larger than memory


@pytest.mark.parametrize(
    ("family", "share"), [("gpt2", 0.0), ("llama", 0.4), ("falcon", 0.4), ("bert", 0.4)]
)
def test_offloaded_to_disk_is_the_same(family, share, tmp_path):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    whole = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    n_bytes = sum(p.numel() * 4 for p in model.parameters())
    capture = ActivationCapture(
        tmp_path / "model",
        device="auto",
        max_memory={"cpu": int(share * n_bytes)},
        offload_folder=tmp_path / "offload",
        progress=False,
    )
    placed = set(capture.model.hf_device_map.values())
    assert "disk" in placed
    assert any(p.is_meta for p in capture.model.parameters())
    before = sum(len(m._forward_hooks) for m in capture.model.modules())
    for position in ("last", "mean"):
        recorded = capture.capture_batch(SENTENCES, position=position)
        expected = whole.capture_batch(SENTENCES, position=position)
        for site in expected.sites:
            difference = np.abs(recorded.matrix(site) - expected.matrix(site)).max()
            assert difference <= 1e-6 * np.abs(expected.matrix(site)).max()
    if family != "bert":
        assert capture.capture_single("The sea", 3).token_ids.tolist() == (
            whole.capture_single("The sea", 3).token_ids.tolist()
        )
    assert sum(len(m._forward_hooks) for m in capture.model.modules()) == before
    assert "disk" in recorded.details["device"]


def test_memory_limits_from_a_settings_file_are_understood(saved_gpt2):
    model = load_model(resolve(str(saved_gpt2)), max_memory={"cpu": "1GiB"})
    assert not any(p.is_meta for p in model.parameters())


# Embedded models and GGUF files


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package on the path that ships a file, known under the alias ``shipped``."""
    package = tmp_path / "shipped_model_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(
        EMBEDDED,
        "shipped",
        EmbeddedModel(
            package=package.name,
            file="model.gguf",
            sha256=file_sha256(package / "model.gguf"),
            requirement="shipped-model==1.0",
            licence="MIT",
        ),
    )
    return package / "model.gguf"


def test_an_embedded_file_is_found_without_importing_its_package(shipped):
    assert embedded.embedded_file("shipped") == shipped


def test_an_altered_embedded_file_is_refused(shipped):
    shipped.write_bytes(b"weightz")
    with pytest.raises(ModelError, match=r"SHA-256 .* damaged or altered; reinstall it with\n"):
        resolve("shipped")


def test_an_embedded_file_that_is_gone_is_refused(shipped):
    shipped.unlink()
    with pytest.raises(ModelError, match=r"holds no model\.gguf; reinstall it with\n"):
        resolve("shipped")


def test_an_embedded_model_that_is_not_installed_says_how(shipped, monkeypatch):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"install it with\n.* --no-deps shipped-model==1\.0"):
        resolve("shipped")


def write_gguf(file: Path, model, tokenizer) -> None:
    """A llama model as llama.cpp would write it, float32, its q and k rows interleaved."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    spelled = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    by_id = sorted(spelled["vocab"], key=spelled["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(by_id)
    writer.add_token_types([3] * 4 + [1] * (len(by_id) - 4))
    writer.add_token_merges([" ".join(pair) for pair in spelled["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in model.state_dict().items():
        for part, heads in (("q_proj", 4), ("k_proj", 2)):
            if part in name:
                halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
                tensor = halves.transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_converted_once_and_gives_the_model_s_values(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(template="$A")
    file = tmp_path / "tiny.gguf"
    write_gguf(file, model, tokenizer)
    capture = ActivationCapture(file, progress=False)
    recorded = capture.capture_batch(SENTENCES)
    expected = ActivationCapture(model, tokenizer=tokenizer, progress=False).capture_batch(
        SENTENCES
    )
    np.testing.assert_array_equal(recorded.n_tokens, expected.n_tokens)
    for site in expected.sites:
        np.testing.assert_allclose(recorded.matrix(site), expected.matrix(site), atol=1e-6)
    assert capture.source.sha256 == file_sha256(file)
    assert capture.source.short_name == "tiny"

    def refuse(*_):
        raise AssertionError("converted twice")

    monkeypatch.setattr(gguf_cache, "_write_model", refuse)
    assert resolve(str(file)) == capture.source
    left = {path.name for path in (tmp_path / "cache" / "activation_analysis" / "gguf").iterdir()}
    assert left == {f"{capture.source.sha256}-{gguf_cache.FORMAT}", f"{capture.source.sha256}.lock"}


def test_a_conversion_that_fails_leaves_no_half_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + b"\x00" * 100)
    with pytest.raises(ModelError, match=r"cannot read .*broken\.gguf as a GGUF model"):
        resolve(str(file))
    left = (tmp_path / "cache" / "activation_analysis" / "gguf").iterdir()
    assert [path.suffix for path in left] == [".lock"]


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"cannot keep the converted copy .* XDG_CACHE_HOME moves"):
        resolve(str(tmp_path / "some.gguf"))


def test_tokenizer_and_configuration_come_without_weights(saved_gpt2):
    source = resolve(str(saved_gpt2))
    assert load_config(source).model_type == "gpt2"
    assert load_tokenizer(source)("The sea").input_ids[0] == 1
