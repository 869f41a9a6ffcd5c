"""llama.cpp's files of LLaMA, Vicuna, Mistral and Yi, which it all calls llama: what they say, and their tensors.

Its converter stores the two halves of each rotated head of q and k as neighbours, as Meta does. Llama 3.1's slower
rotations are not named but stored, as divisors of the frequencies. A sliding window is not stored. Source: llama.cpp
`convert_hf_to_gguf.py` (LlamaModel), gguf-py `constants.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights.config_checks import known, require
from mmjax.weights.gguf_file import GGUFTensors
from mmjax.weights.layout import Row, Table
from mmjax.weights.transforms import LINEAR, SAME, Pairs

ARCHITECTURE = "llama"
DIVISORS = "rope_freqs.weight"
_SIZES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
}
_OPTIONAL = ("attention.head_count_kv", "attention.key_length", "attention.sliding_window")
_EPS = "attention.layer_norm_rms_epsilon"
_READ = {
    *_SIZES, _EPS, "vocab_size", "attention.value_length", "attention.causal", "rope.dimension_count", "rope.freq_base",
    "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor", "expert_count",
}  # fmt: skip
# Without an influence on what is computed: rows may be of any length.
_UNREAD = {"context_length", "tensor_data_layout", "expert_used_count", "rope.scaling.original_context_length",
           "rope.scaling.finetuned"}  # fmt: skip
_LLAMA_3_1 = (1.0, 4.0, 8192)  # low, high, length


def config_of(file: GGUFTensors) -> dict[str, Any]:
    """What a file says, as Hugging Face's config would say it.

    Raises:
      UserError: another architecture, or something that is missing or not supported.
    """
    where, arch = str(file.path), file.facts.get("general.architecture")
    if arch != ARCHITECTURE:
        raise UserError(f"{where} holds a model of the architecture {arch!r}; readable: {ARCHITECTURE!r}, as which "
                        "LLaMA, Vicuna, Mistral and Yi are stored")  # fmt: skip
    said = {key.partition(".")[2]: value for key, value in file.facts.items() if key.startswith(f"{ARCHITECTURE}.")}
    known(where, said, _READ | _UNREAD)
    if lacking := [key for key in (*_SIZES, _EPS) if key not in said and key not in _OPTIONAL]:
        raise UserError(f"{where} does not say {', '.join(f'{ARCHITECTURE}.{key}' for key in lacking)}")
    require(where, said, {"attention.causal": (True,), "expert_count": (0,)})
    sizes = {name: _size(where, key, said[key]) for key, name in _SIZES.items() if key in said}
    dim = sizes.setdefault("head_dim", sizes["hidden_size"] // sizes["num_attention_heads"])
    require(where, said, {"attention.value_length": (dim,), "rope.dimension_count": (dim,)})
    keys, embedding = file.keys(), "token_embd.weight"
    if embedding not in keys:
        raise UserError(f"{where} has no tensor {embedding}")
    theta = _short(said.get("rope.freq_base", 10_000.0))
    return {
        **sizes,
        "model_type": "llama",
        "vocab_size": file.shape(embedding)[0],
        "rms_norm_eps": _short(said[_EPS]),
        "rope_parameters": {"rope_theta": theta, **_scaling(file, said, dim, theta)},
        "tie_word_embeddings": "output.weight" not in keys,
        "attention_bias": "blk.0.attn_q.bias" in keys,
        "mlp_bias": "blk.0.ffn_up.bias" in keys,
        "eos_token_id": _ends(file.facts),
    }


def _size(where: str, key: str, value: Any) -> int:
    """A size; some are stored for each block."""
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1 or not isinstance(size := values.pop(), int) or size < 1:
        raise UserError(f"{where}: {ARCHITECTURE}.{key} = {value!r}; supported: one size for all blocks")
    return size


def _short(value: Any) -> float:
    """1e-5, not the number of 64 bits that is next to the stored one of 32."""
    return float(str(np.float32(value)))


def _ends(facts: Mapping[str, Any]) -> int | list[int] | None:
    """The tokens that end a text, and a turn where that is another one."""
    given = [facts.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    ends = list(dict.fromkeys(end for end in given if end is not None))
    return ends if len(ends) > 1 else ends[0] if ends else None


# ---------------------------------------------------------------- rotary positions


def _scaling(file: GGUFTensors, said: Mapping[str, Any], dim: int, theta: float) -> dict[str, Any]:
    kind = said.get("rope.scaling.type", "linear" if "rope.scale_linear" in said else "none")
    require(str(file.path), {"rope.scaling.type": kind}, {"rope.scaling.type": ("none", "linear")})
    if DIVISORS in file.keys():  # noqa: SIM118 (no mapping)
        if kind != "none":
            raise UserError(f"{file.path} has {DIVISORS} and rope.scaling.type = {kind!r}; supported: one of the two")
        return _llama3(file, dim, theta)
    factor = _short(said.get("rope.scaling.factor", said.get("rope.scale_linear", 1.0)))
    return {"rope_type": "default"} if kind == "none" or factor == 1 else {"rope_type": "linear", "factor": factor}


def _llama3(file: GGUFTensors, dim: int, theta: float) -> dict[str, Any]:
    """Llama 3.1's scaling by the divisors of the frequencies that follow from it.

    Between the two waves' lengths `1/divisor = kept + (1 - kept)/factor`, where kept grows linearly with frequency.
    """
    divisors = np.asarray(file.read(DIVISORS), np.float64)
    rates = theta ** (-np.arange(0, dim, 2) / dim)
    factor = _short(divisors.max()) if divisors.size else 1.0
    tried = [_LLAMA_3_1]
    if divisors.shape == rates.shape and factor > 1:
        kept = (1 / divisors - 1 / factor) / (1 - 1 / factor)
        between = (kept > 1e-4) & (kept < 1 - 1e-4)
        if between.sum() > 1:
            slope, base = np.polyfit(rates[between], kept[between], 1)
            if slope > 0 > base:  # low = 1 is the unit
                tried.append((1.0, 1.0 - 1.0 / base, round(-2 * np.pi * slope / base)))
        for low, high, length in tried:
            if np.allclose(divisors, _divisors(rates, factor, low, high, length), rtol=3e-5):
                return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                        "original_max_position_embeddings": length}  # fmt: skip
    if divisors.shape == rates.shape and np.all(divisors == 1):
        return {"rope_type": "default"}
    raise UserError(f"{file.path}: {DIVISORS} are not the divisors of Llama 3.1's scaling; supported: that one")


def _divisors(rates: np.ndarray, factor: float, low: float, high: float, length: int) -> np.ndarray:
    kept = np.clip((length * rates / (2 * np.pi) - low) / (high - low), 0.0, 1.0)
    return 1 / (kept + (1 - kept) / factor)


# ---------------------------------------------------------------- tensors


def _map(published: str, ours: str, bias: bool, heads: int | None = None) -> tuple[Row, ...]:
    kernel, line = (LINEAR, SAME) if heads is None else (Pairs(LINEAR, heads), Pairs(SAME, heads))
    both = Row(f"{published}.weight", f"{ours}/kernel", kernel), Row(f"{published}.bias", f"{ours}/bias", line)
    return both if bias else both[:1]


def gguf_table(llm: Mapping[str, Any], ours: str = "llm") -> Table:
    """The table of a decoder's file.

    Args:
      llm: its mapping.
      ours: its path in our tree.
    """
    old, new = "blk.{l}", f"{ours}/transformer/block_{{l}}"
    qkv, out, mlp = (bool(llm.get(key, False)) for key in ("qkv_bias", "out_bias", "mlp_bias"))
    heads = llm["heads"]
    rows = (
        Row("token_embd.weight", f"{ours}/embed/embedding"),
        Row(f"{old}.attn_norm.weight", f"{new}/norm1/scale"),
        *_map(f"{old}.attn_q", f"{new}/attn/q", qkv, heads),
        *_map(f"{old}.attn_k", f"{new}/attn/k", qkv, llm.get("kv_heads") or heads),
        *_map(f"{old}.attn_v", f"{new}/attn/v", qkv),
        *_map(f"{old}.attn_output", f"{new}/attn/out", out),
        Row(f"{old}.ffn_norm.weight", f"{new}/norm2/scale"),
        *_map(f"{old}.ffn_gate", f"{new}/mlp/gate", mlp),
        *_map(f"{old}.ffn_up", f"{new}/mlp/fc1", mlp),
        *_map(f"{old}.ffn_down", f"{new}/mlp/fc2", mlp),
        Row("output_norm.weight", f"{ours}/norm_final/scale"),
        *(() if llm.get("tied") else (Row("output.weight", f"{ours}/head/kernel", LINEAR),)),
    )
    why = "divisors of the rotary frequencies, from which the scaling was read"
    return Table("gguf", rows, (), {"l": llm["depth"]}, unneeded={DIVISORS: why})
