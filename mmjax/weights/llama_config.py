"""Hugging Face's configurations of LLaMA, Mistral and Yi as a decoder's mapping, and back."""

from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights.clip_config import HF_ACTS as ACTS
from mmjax.weights.config_checks import known, require

MODELS = ("llama", "mistral")
_DEFAULTS: dict[str, dict[str, Any]] = {  # where a config says nothing, as transformers does
    "llama": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11_008,
              "vocab_size": 32_000, "rms_norm_eps": 1e-6, "sliding_window": None},
    "mistral": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14_336,
                "vocab_size": 32_000, "rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096},
}  # fmt: skip
_READ = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "rms_norm_eps",
    "num_key_value_heads", "head_dim", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window",
    "attention_bias", "mlp_bias", "tie_word_embeddings",
}  # fmt: skip
# Said by configs, and without an influence on what is computed here: ids of special tokens are the tokenizer's.
_UNREAD = {
    "architectures", "model_type", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "dtype",
    "torch_dtype", "initializer_range", "max_position_embeddings", "pretraining_tp", "transformers_version",
    "use_cache", "_name_or_path", "max_length", "max_sequence_length", "auto_map", "unk_token_id",
    # What older versions wrote into every part of a configuration.
    "add_cross_attention", "bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "id2label", "is_decoder", "is_encoder_decoder", "label2id", "length_penalty", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "prefix", "problem_type", "pruned_heads", "remove_invalid_values",
    "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p",
    "torchscript", "typical_p", "use_bfloat16",
}  # fmt: skip


def decoder_from(config: Mapping[str, Any], where: str, ours: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The decoder's mapping of a configuration, every size spelled out.

    Args:
      config: of LLaMA, Mistral or Yi (which is a LLaMA), or the `text_config` of a larger model.
      where: its place, for messages.
      ours: further keys that the caller reads himself.

    Raises:
      UserError: a model, a key or a value that is not supported.

    Example:
      >>> decoder_from({"model_type": "mistral"}, "config.json")["window"]
      4096
    """
    kind = config.get("model_type", "llama")
    require(where, {"model_type": kind}, {"model_type": MODELS})
    known(where, config, _READ | _UNREAD | ours)
    require(where, config, {"attention_dropout": (0, 0.0, None), "pretraining_tp": (1, None)})
    full = {**_DEFAULTS[kind], **config}
    act = full.get("hidden_act", "silu")
    require(where, {"hidden_act": act}, {"hidden_act": tuple(ACTS)})
    heads, width = full["num_attention_heads"], full["hidden_size"]
    theta, scaling = _rope(full, where)
    return {
        "vocab": full["vocab_size"],
        "width": width,
        "depth": full["num_hidden_layers"],
        "heads": heads,
        "kv_heads": full.get("num_key_value_heads") or heads,
        "head_dim": full.get("head_dim") or width // heads,
        "mlp_dim": full["intermediate_size"],
        "act": ACTS[act],
        "eps": float(full["rms_norm_eps"]),
        "theta": theta,
        "rope_scaling": scaling,
        "window": full["sliding_window"],
        "qkv_bias": bool(full.get("attention_bias", False)),
        "out_bias": bool(full.get("attention_bias", False)),
        "mlp_bias": bool(full.get("mlp_bias", False)),
        "tied": bool(full.get("tie_word_embeddings", False)),
    }


def _rope(config: Mapping[str, Any], where: str) -> tuple[float, dict[str, Any] | None]:
    """(theta, scaling): new configs keep both in `rope_parameters`, old ones in `rope_theta` and `rope_scaling`."""
    said = config.get("rope_parameters") or {}
    old = config.get("rope_scaling") or {}
    theta = float(said.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    said = {**old, **said}
    kind = said.get("rope_type") or said.get("type") or "default"
    require(where, {"rope_type": kind}, {"rope_type": ("default", "linear", "llama3")})
    require(where, said, {"partial_rotary_factor": (1, 1.0, None)})
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, {"kind": "linear", "factor": float(said["factor"])}
    names = {"factor": "factor", "low": "low_freq_factor", "high": "high_freq_factor"}
    if lacking := [key for key in (*names.values(), "original_max_position_embeddings") if key not in said]:
        raise UserError(f"{where}: rope_type 'llama3' needs {', '.join(lacking)}")
    scaling: dict[str, Any] = {ours: float(said[theirs]) for ours, theirs in names.items()}
    return theta, {"kind": "llama3", **scaling, "length": int(said["original_max_position_embeddings"])}


def config_from(llm: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's configuration of a decoder, so that reading it gives the same mapping.

    Raises:
      UserError: biases that neither LLaMA nor Mistral has.
    """
    kind = "mistral" if llm.get("window") is not None else "llama"
    biases = {key: bool(llm.get(key, False)) for key in ("qkv_bias", "out_bias", "mlp_bias")}
    if biases["qkv_bias"] != biases["out_bias"] or (kind == "mistral" and any(biases.values())):
        raise UserError(f"the layout 'hf' cannot hold this decoder: its {kind} has no such biases: {biases}")
    scaling = llm.get("rope_scaling")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": llm.get("theta", 10_000.0)}
    if scaling is not None:
        rope |= {"rope_type": scaling["kind"], "factor": scaling["factor"]}
        if scaling["kind"] == "llama3":
            rope |= {"low_freq_factor": scaling["low"], "high_freq_factor": scaling["high"]}
            rope["original_max_position_embeddings"] = scaling["length"]
    acts = {ours: theirs for theirs, ours in reversed(ACTS.items())}
    config = {
        "architectures": ["MistralForCausalLM" if kind == "mistral" else "LlamaForCausalLM"],
        "model_type": kind,
        "vocab_size": llm["vocab"],
        "hidden_size": llm["width"],
        "num_hidden_layers": llm["depth"],
        "num_attention_heads": llm["heads"],
        "num_key_value_heads": llm.get("kv_heads") or llm["heads"],
        "head_dim": llm.get("head_dim") or llm["width"] // llm["heads"],
        "intermediate_size": llm["mlp_dim"],
        "hidden_act": acts[llm.get("act", "silu")],
        "rms_norm_eps": llm.get("eps", 1e-5),
        "rope_parameters": rope,
        "rope_theta": rope["rope_theta"],  # read by older versions
        "tie_word_embeddings": llm.get("tied", False),
        "attention_dropout": 0.0,
    }
    if kind == "mistral":
        return {**config, "sliding_window": llm["window"]}
    return {**config, "attention_bias": biases["qkv_bias"], "mlp_bias": biases["mlp_bias"]}
