"""Tiny randomly initialised models of real architectures, and tiny tokenizers; no download."""

from __future__ import annotations

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

HIDDEN, HEADS, LAYERS, INNER, CONTEXT = 32, 4, 3, 48, 96
VOCABULARY = 320
ONE_ROW = ("last", "mean", "max", "first", "word_final")  # positions with one row per prompt

SENTENCES = (
    "The sea is wide and the sky is high above it.",
    "Two plus two is four, and three times three is nine.",
    "A friend wrote a long letter about the winter in the north.",
    "She solved the equation before the others had read it.",
)

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FOUR_TIMES = {k: v for k, v in _COMMON.items() if k != "intermediate_size"}  # INNER is not theirs
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": INNER,
    "n_positions": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# family -> (config class, its arguments)
DECODERS: dict[str, tuple[str, dict]] = {
    "gpt2": ("GPT2Config", _GPT),
    "llama": ("LlamaConfig", _GROUPED),
    "qwen2": ("Qwen2Config", _GROUPED),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 4}),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "phi": ("PhiConfig", _COMMON),
    "phi3": ("Phi3Config", _GROUPED),
    "opt": ("OPTConfig", {**_COMMON, "ffn_dim": INNER, "word_embed_proj_dim": HIDDEN}),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 4}),
    "falcon": ("FalconConfig", {**_COMMON, "ffn_hidden_size": INNER, "multi_query": True}),
    "bloom": ("BloomConfig", {**_FOUR_TIMES, "n_layer": LAYERS, "n_head": HEADS}),
    "gemma2": ("Gemma2Config", {**_GROUPED, "head_dim": 8, "sliding_window": 4}),
    "gemma3_text": ("Gemma3TextConfig", {**_GROUPED, "head_dim": 8, "sliding_window": 4}),
    "olmo2": ("Olmo2Config", _GROUPED),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            **_COMMON,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 4,
        },
    ),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 8}),
    "starcoder2": ("Starcoder2Config", _GROUPED),
    "mixtral": ("MixtralConfig", {**_GROUPED, "num_local_experts": 4}),
    # As OPT-350m is: norms after the sums, and embeddings of another width.
    "opt_post_norm": (
        "OPTConfig",
        {**_COMMON, "ffn_dim": INNER, "word_embed_proj_dim": 24, "do_layer_norm_before": False},
    ),
    "falcon_alibi": (
        "FalconConfig",
        {**_COMMON, "ffn_hidden_size": INNER, "alibi": True, "parallel_attn": False},
    ),
    "falcon_new": (
        "FalconConfig",
        {
            **_COMMON,
            "ffn_hidden_size": INNER,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
        },
    ),
    "stablelm": ("StableLmConfig", _GROUPED),
    "stablelm_parallel": ("StableLmConfig", {**_GROUPED, "use_parallel_residual": True}),
    "mpt": (
        "MptConfig",
        {
            **_FOUR_TIMES,
            "d_model": HIDDEN,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "max_seq_len": CONTEXT,
        },
    ),
    "granite": (
        "GraniteConfig",
        {
            **_GROUPED,
            "residual_multiplier": 0.22,
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.25,
        },
    ),
    "cohere": ("CohereConfig", _GROUPED),
    "olmo": ("OlmoConfig", {**_GROUPED, "clip_qkv": 8.0}),
    "olmoe": ("OlmoeConfig", {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            **_GROUPED,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": INNER,
        },
    ),
    "codegen": ("CodeGenConfig", {**_GPT, "rotary_dim": 4}),
    "biogpt": ("BioGptConfig", _COMMON),
    "xglm": (
        "XGLMConfig",
        {
            **_COMMON,
            "d_model": HIDDEN,
            "ffn_dim": INNER,
            "num_layers": LAYERS,
            "attention_heads": HEADS,
        },
    ),
}
ENCODERS: dict[str, tuple[str, dict]] = {
    "bert": ("BertConfig", _COMMON),
    "roberta": ("RobertaConfig", {**_COMMON, "max_position_embeddings": CONTEXT + 1}),
    "electra": ("ElectraConfig", {**_COMMON, "embedding_size": 24}),
    "distilbert": (
        "DistilBertConfig",
        {
            **_COMMON,
            "dim": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "hidden_dim": INNER,
        },
    ),
    "modernbert": (
        "ModernBertConfig",
        {
            **_COMMON,
            "local_attention": 4,
            "global_attn_every_n_layers": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
    ),
}
FAMILIES = {**DECODERS, **ENCODERS}
# What cannot be recorded, and must say so.
REFUSED: dict[str, tuple[str, dict]] = {
    "mamba": ("MambaConfig", {**_COMMON, "state_size": 4}),
    "albert": ("AlbertConfig", {**_COMMON, "embedding_size": 24}),
    "t5": (
        "T5Config",
        {**_COMMON, "d_model": HIDDEN, "d_kv": 8, "num_layers": LAYERS, "num_heads": HEADS},
    ),
}


def tiny_config(family: str) -> transformers.PreTrainedConfig:
    config_class, arguments = {**FAMILIES, **REFUSED}[family]
    known = getattr(transformers, config_class)
    arguments = {k: v for k, v in arguments.items() if k not in getattr(known, "attribute_map", {})}
    return known(**arguments)


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A model whose every parameter is random, norms and biases too, and of order one."""
    torch.manual_seed(seed)
    config = tiny_config(family)
    auto = transformers.AutoModelForCausalLM if family in DECODERS else transformers.AutoModel
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            else:
                # Scales near one and shifts off zero, so that a norm left out cannot hide.
                is_scale = name.endswith("weight") and "norm" in name.lower()
                parameter.normal_(1.0 if is_scale else 0.0, 0.2)
    return model


def tiny_tokenizer(
    *, template: str = "<bos> $A", padding_side: str = "right"
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `VOCABULARY` ids: every text has tokens and comes back as it was.

    ``template`` says which special tokens every text gets, as in "<bos> $A <eos>" or "$A".
    """
    special = ["<pad>", "<bos>", "<eos>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=["<|im_end|>"],
        padding_side=padding_side,
    )


def n_hooks(model: torch.nn.Module) -> int:
    """Every hook of every module, of any kind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
