"""Hugging Face's layout of LLaMA, Mistral and Yi as rows, alone or inside a larger model.

Only raw Meta weights have another order of the rotated pairs: they are not read. Source: transformers
`LlamaForCausalLM`, `MistralForCausalLM`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.weights.layout import Buffer, Row, Table
from mmjax.weights.rows import linear
from mmjax.weights.transforms import LINEAR

BODY, HEAD = "model.", ""
"""What stands before the keys of the body and before `lm_head.weight` in a decoder of its own."""


def _map(published: str, ours: str, bias: bool) -> tuple[Row, ...]:
    return linear(published, ours) if bias else (Row(f"{published}.weight", f"{ours}/kernel", LINEAR),)


def llama_rows(llm: Mapping[str, Any], ours: str = "llm", body: str = BODY, head: str = HEAD) -> tuple[Row, ...]:
    """The rows of a decoder; its blocks count as `{l}`.

    Args:
      llm: its mapping.
      ours: its path in our tree.
      body, head: what stands before the published keys.
    """
    old, new = f"{body}layers.{{l}}", f"{ours}/transformer/block_{{l}}"
    qkv, out, mlp = (bool(llm.get(key, False)) for key in ("qkv_bias", "out_bias", "mlp_bias"))
    return (
        Row(f"{body}embed_tokens.weight", f"{ours}/embed/embedding"),
        Row(f"{old}.input_layernorm.weight", f"{new}/norm1/scale"),
        *_map(f"{old}.self_attn.q_proj", f"{new}/attn/q", qkv),
        *_map(f"{old}.self_attn.k_proj", f"{new}/attn/k", qkv),
        *_map(f"{old}.self_attn.v_proj", f"{new}/attn/v", qkv),
        *_map(f"{old}.self_attn.o_proj", f"{new}/attn/out", out),
        Row(f"{old}.post_attention_layernorm.weight", f"{new}/norm2/scale"),
        *_map(f"{old}.mlp.gate_proj", f"{new}/mlp/gate", mlp),
        *_map(f"{old}.mlp.up_proj", f"{new}/mlp/fc1", mlp),
        *_map(f"{old}.mlp.down_proj", f"{new}/mlp/fc2", mlp),
        Row(f"{body}norm.weight", f"{ours}/norm_final/scale"),
        *(() if llm.get("tied") else (Row(f"{head}lm_head.weight", f"{ours}/head/kernel", LINEAR),)),
    )


def llama_buffers(llm: Mapping[str, Any], body: str = BODY) -> tuple[Buffer, ...]:
    """Frequencies that older versions stored with every block."""
    dim = llm.get("head_dim") or llm["width"] // llm["heads"]
    rates = (llm.get("theta", 10_000.0) ** (-np.arange(0, dim, 2) / dim)).astype(np.float32)
    why = "rotary frequencies, which follow from the config and which older versions stored"
    names = [f"{body}layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(llm["depth"])]
    return tuple(Buffer(name, why, rates, fixed=False) for name in names)  # some are stored in 16 bits


def llama_table(llm: Mapping[str, Any]) -> Table:
    """The table of a decoder of its own."""
    return Table("hf", llama_rows(llm), llama_buffers(llm), {"l": llm["depth"]})
