"""Files as llama.cpp's converter makes them of a Hugging Face checkpoint of LLaMA or Mistral."""

import pathlib
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_TOPS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def permuted(array: np.ndarray, heads: int) -> np.ndarray:
    """What the converter does with q and k: halves of each head become neighbours."""
    return array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def converted(tensors: Mapping[str, np.ndarray], heads: int, kv_heads: int) -> dict[str, np.ndarray]:
    """Hugging Face's tensors under the converter's names."""
    out = {}
    for key, array in tensors.items():
        stem, _, end = key.rpartition(".")
        if stem in _TOPS:
            out[f"{_TOPS[stem]}.{end}"] = array
            continue
        _, _, number, part = stem.split(".", 3)
        counts = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}
        out[f"blk.{number}.{_NAMES[part]}.{end}"] = permuted(array, counts[part]) if part in counts else array
    return out


def facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the converter writes of a configuration."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    return {
        "context_length": 64, "vocab_size": config["vocab_size"], "embedding_length": width,
        "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"],
        "rope.dimension_count": config.get("head_dim") or width // heads, "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": config["rope_parameters"]["rope_theta"],
    }  # fmt: skip


def write(
    path: pathlib.Path,
    said: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: Q = Q.F32,
    arch: str = "llama",
    more: Mapping[str, Any] | None = None,
    **raw: tuple[np.ndarray, Q],
) -> pathlib.Path:
    """A file: matrices of whole blocks as `kind`, others as F16 where that is of few bits; vectors as F32.

    `said`: without the architecture's name; `more`: with any; `raw`: bytes of further tensors, dots as two underscores.
    """
    writer = gguf.GGUFWriter(path, arch)
    for name, value in {**{f"{arch}.{key}": value for key, value in said.items()}, **(more or {})}.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(name, value)
    for name, array in tensors.items():
        of = kind if array.ndim > 1 else Q.F32
        if array.shape[-1] % gguf.GGML_QUANT_SIZES[of][0]:
            of = Q.F16
        writer.add_tensor(name, gguf.quants.quantize(array, of), raw_dtype=of)
    for name, (data, of) in raw.items():
        writer.add_tensor(name.replace("__", "."), data, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
