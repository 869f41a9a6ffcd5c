"""SigLIP's published layouts as tables: Hugging Face's, and open_clip's with an image tower of timm's.

Sources: transformers `SiglipModel`; open_clip `CustomTextCLIP` around timm's `VisionTransformer` and
`AttentionPoolLatent`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.weights.layout import Buffer, Row, Table
from mmjax.weights.rows import hf_blocks, linear, norm, openai_blocks, text_projection
from mmjax.weights.transforms import CONV, LINEAR, ONE_VALUE, QKV_BIAS, QKV_KERNEL, SAME, Fused, Reshape


def is_siglip(system: Mapping[str, Any]) -> bool:
    """Whether the image tower ends in SigLIP's attention pool."""
    return system.get("img", {}).get("pool") == "map"


def patches(img: Mapping[str, Any]) -> int:
    """Number of whole patches of an image."""
    return (img["image_size"] // img["patch"]) ** 2


def siglip_hf(system: Mapping[str, Any]) -> Table:
    """`SiglipModel`: separate q, k, v in the blocks, fused ones in the head; scale and bias stored as `[1]`."""
    img, txt, head = system["img"], system["txt"], "vision_model.head"
    rows = (
        *linear("vision_model.embeddings.patch_embedding", "img/patch", CONV),
        Row("vision_model.embeddings.position_embedding.weight", "img/pos"),
        *hf_blocks("vision_model.", "img", "i"),
        *norm("vision_model.post_layernorm", "img/norm_post"),
        Row(f"{head}.probe", "img/pool/probe", Reshape((1, 1, img["width"]), (img["width"],))),
        Row(f"{head}.attention.in_proj_weight", _parts("qkv", "kernel"), QKV_KERNEL),
        Row(f"{head}.attention.in_proj_bias", _parts("qkv", "bias"), QKV_BIAS),
        *linear(f"{head}.attention.out_proj", "img/pool/attn/out"),
        *norm(f"{head}.layernorm", "img/pool/norm"),
        *linear(f"{head}.mlp.fc1", "img/pool/mlp/fc1"),
        *linear(f"{head}.mlp.fc2", "img/pool/mlp/fc2"),
        Row("text_model.embeddings.token_embedding.weight", "txt/embed/embedding"),
        Row("text_model.embeddings.position_embedding.weight", "txt/pos"),
        *hf_blocks("text_model.", "txt", "t"),
        *norm("text_model.final_layer_norm", "txt/norm_final"),
        *linear("text_model.head", "txt_proj"),
        Row("logit_scale", "log_scale", ONE_VALUE),
        Row("logit_bias", "logit_bias", ONE_VALUE),
    )
    why = "positions counted from 0, which older versions stored"
    buffers = (
        Buffer("vision_model.embeddings.position_ids", why, np.arange(patches(img))[None]),
        Buffer("text_model.embeddings.position_ids", why, np.arange(txt["length"])[None]),
    )
    return Table("hf", rows, buffers, {"i": img["depth"], "t": txt["depth"]})


def _parts(parts: str, leaf: str) -> tuple[str, ...]:
    return tuple(f"img/pool/attn/{part}/{leaf}" for part in parts)


def siglip_open_clip(system: Mapping[str, Any], one_value: bool) -> Table:
    """`CustomTextCLIP` with timm's tower: fused q, k, v in its blocks, fused k, v in its pool."""
    img, txt, scalar = system["img"], system["txt"], ONE_VALUE if one_value else SAME
    trunk, pool, width = "visual.trunk", "visual.trunk.attn_pool", img["width"]
    old, new = f"{trunk}.blocks.{{i}}", "img/transformer/block_{i}"
    rows = (
        *linear(f"{trunk}.patch_embed.proj", "img/patch", CONV),
        Row(f"{trunk}.pos_embed", "img/pos", Reshape((1, patches(img), width), (patches(img), width))),
        *norm(f"{old}.norm1", f"{new}/norm1"),
        Row(f"{old}.attn.qkv.weight", tuple(f"{new}/attn/{part}/kernel" for part in "qkv"), QKV_KERNEL),
        Row(f"{old}.attn.qkv.bias", tuple(f"{new}/attn/{part}/bias" for part in "qkv"), QKV_BIAS),
        *linear(f"{old}.attn.proj", f"{new}/attn/out"),
        *norm(f"{old}.norm2", f"{new}/norm2"),
        *linear(f"{old}.mlp.fc1", f"{new}/mlp/fc1"),
        *linear(f"{old}.mlp.fc2", f"{new}/mlp/fc2"),
        *norm(f"{trunk}.norm", "img/norm_post"),
        Row(f"{pool}.latent", "img/pool/probe", Reshape((1, 1, width), (width,))),
        *linear(f"{pool}.q", "img/pool/attn/q"),
        Row(f"{pool}.kv.weight", _parts("kv", "kernel"), Fused(LINEAR, 2)),
        Row(f"{pool}.kv.bias", _parts("kv", "bias"), Fused(SAME, 2)),
        *linear(f"{pool}.proj", "img/pool/attn/out"),
        *norm(f"{pool}.norm", "img/pool/norm"),
        *linear(f"{pool}.mlp.fc1", "img/pool/mlp/fc1"),
        *linear(f"{pool}.mlp.fc2", "img/pool/mlp/fc2"),
        Row("text.token_embedding.weight", "txt/embed/embedding"),
        Row("text.positional_embedding", "txt/pos"),
        *openai_blocks("text.transformer", "txt", "t"),
        *norm("text.ln_final", "txt/norm_final"),
        *text_projection("text.", system),
        Row("logit_scale", "log_scale", scalar),
        Row("logit_bias", "logit_bias", scalar),
    )
    return Table("open_clip", rows, (), {"i": img["depth"], "t": txt["depth"]})
