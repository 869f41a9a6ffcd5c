"""Groups of rows that several layouts share: norms, linear layers, transformer blocks."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.weights.layout import Alias, Buffer, Row
from mmjax.weights.transforms import CONV, LINEAR, QKV_BIAS, QKV_KERNEL, Reshape, Transform


def norm(published: str, ours: str) -> tuple[Row, ...]:
    """A layer norm's `weight` and `bias`."""
    return Row(f"{published}.weight", f"{ours}/scale"), Row(f"{published}.bias", f"{ours}/bias")


def linear(published: str, ours: str, transform: Transform = LINEAR) -> tuple[Row, ...]:
    """`weight` and `bias` of a linear layer (or, with CONV, of a convolution)."""
    return Row(f"{published}.weight", f"{ours}/kernel", transform), Row(f"{published}.bias", f"{ours}/bias")


def hf_blocks(published: str, ours: str, index: str) -> tuple[Row, ...]:
    """The blocks of a Hugging Face encoder; `published` is all that stands before "encoder"."""
    old, new = f"{published}encoder.layers.{{{index}}}", f"{ours}/transformer/block_{{{index}}}"
    return (
        *norm(f"{old}.layer_norm1", f"{new}/norm1"),
        *linear(f"{old}.self_attn.q_proj", f"{new}/attn/q"),
        *linear(f"{old}.self_attn.k_proj", f"{new}/attn/k"),
        *linear(f"{old}.self_attn.v_proj", f"{new}/attn/v"),
        *linear(f"{old}.self_attn.out_proj", f"{new}/attn/out"),
        *norm(f"{old}.layer_norm2", f"{new}/norm2"),
        *linear(f"{old}.mlp.fc1", f"{new}/mlp/fc1"),
        *linear(f"{old}.mlp.fc2", f"{new}/mlp/fc2"),
    )


def openai_blocks(published: str, ours: str, index: str, layer_scale: bool = False) -> tuple[Row, ...]:
    """The blocks of OpenAI's and open_clip's transformers."""
    old, new = f"{published}.resblocks.{{{index}}}", f"{ours}/transformer/block_{{{index}}}"
    return openai_block(old, new, ("norm1", "attn", "norm2", "mlp"), ("1", "2") if layer_scale else ())


def openai_block(old: str, new: str, parts: tuple[str, str, str, str], scales: tuple[str, ...]) -> tuple[Row, ...]:
    """One block of them, q, k, v fused; `parts` of ours, and the endings of our layer scales, where there are some."""
    norm1, attn, norm2, mlp = (f"{new}/{part}" for part in parts)
    gains = (Row(f"{old}.ls_{n}.gamma", f"{new}/scale{ours}") for n, ours in enumerate(scales, 1))
    return (
        *norm(f"{old}.ln_1", norm1),
        Row(f"{old}.attn.in_proj_weight", tuple(f"{attn}/{part}/kernel" for part in "qkv"), QKV_KERNEL),
        Row(f"{old}.attn.in_proj_bias", tuple(f"{attn}/{part}/bias" for part in "qkv"), QKV_BIAS),
        *linear(f"{old}.attn.out_proj", f"{attn}/out"),
        *norm(f"{old}.ln_2", norm2),
        *linear(f"{old}.mlp.c_fc", f"{mlp}/fc1"),
        *linear(f"{old}.mlp.c_proj", f"{mlp}/fc2"),
        *gains,
    )


def text_projection(text: str, system: Mapping[str, Any]) -> tuple[Row, ...]:
    """open_clip's map to the shared space: a matrix, or with a bias a linear layer, which is stored transposed."""
    if system.get("txt_bias"):
        return linear(f"{text}text_projection", "txt_proj")
    return (Row(f"{text}text_projection", "txt_proj/kernel"),)


def timm_vit(published: str, ours: str, img: Mapping[str, Any]) -> tuple[Row, ...]:
    """timm's vision transformer as ALBEF and BLIP keep it: class token, biases, fused q, k, v, a final norm."""
    width, tokens = img["width"], (img["image_size"] // img["patch"]) ** 2 + 1
    rows = [
        Row(f"{published}.cls_token", f"{ours}/cls", Reshape((1, 1, width), (width,))),
        Row(f"{published}.pos_embed", f"{ours}/pos", Reshape((1, tokens, width), (tokens, width))),
        *linear(f"{published}.patch_embed.proj", f"{ours}/patch", CONV),
        *norm(f"{published}.norm", f"{ours}/norm_post"),
    ]
    for i in range(img["depth"]):
        old, new = f"{published}.blocks.{i}", f"{ours}/transformer/block_{i}"
        rows += norm(f"{old}.norm1", f"{new}/norm1")
        rows.append(Row(f"{old}.attn.qkv.weight", tuple(f"{new}/attn/{part}/kernel" for part in "qkv"), QKV_KERNEL))
        rows.append(Row(f"{old}.attn.qkv.bias", tuple(f"{new}/attn/{part}/bias" for part in "qkv"), QKV_BIAS))
        rows += linear(f"{old}.attn.proj", f"{new}/attn/out")
        rows += norm(f"{old}.norm2", f"{new}/norm2")
        rows += linear(f"{old}.mlp.fc1", f"{new}/mlp/fc1") + linear(f"{old}.mlp.fc2", f"{new}/mlp/fc2")
    return tuple(rows)


def bert_embeddings(published: str, ours: str, types: bool) -> tuple[Row, ...]:
    """BERT's tables and their norm; `types`: whether there is one of token types."""
    return (
        Row(f"{published}.word_embeddings.weight", f"{ours}/embed/embedding"),
        Row(f"{published}.position_embeddings.weight", f"{ours}/pos"),
        *((Row(f"{published}.token_type_embeddings.weight", f"{ours}/types"),) if types else ()),
        *norm(f"{published}.LayerNorm", f"{ours}/norm"),
    )


def bert_attention(published: str, ours: str, name: str, norm_name: str) -> tuple[Row, ...]:
    """An attention of a BERT layer, with its output map and norm: `attention` or `crossattention` of the releases."""
    parts = (("query", "q"), ("key", "k"), ("value", "v"))
    return (
        *(row for old, new in parts for row in linear(f"{published}.self.{old}", f"{ours}/{name}/{new}")),
        *linear(f"{published}.output.dense", f"{ours}/{name}/out"),
        *norm(f"{published}.output.LayerNorm", f"{ours}/{norm_name}"),
    )


def bert_mlp(published: str, ours: str) -> tuple[Row, ...]:
    """The feed-forward part of a BERT layer."""
    return (
        *linear(f"{published}.intermediate.dense", f"{ours}/mlp/fc1"),
        *linear(f"{published}.output.dense", f"{ours}/mlp/fc2"),
        *norm(f"{published}.output.LayerNorm", f"{ours}/norm2"),
    )


def bert_layers(published: str, ours: str, depth: int, cross_from: int) -> tuple[Row, ...]:
    """All layers; those from `cross_from` on have cross-attention and are `fusion/block_{i - cross_from}`."""
    rows: list[Row] = []
    for i in range(depth):
        old, cross = f"{published}.layer.{i}", i >= cross_from
        new = f"{ours}/fusion/block_{i - cross_from}" if cross else f"{ours}/text/block_{i}"
        rows += bert_attention(f"{old}.attention", new, "attn", "norm1")
        rows += bert_attention(f"{old}.crossattention", new, "cross", "norm_cross") if cross else ()
        rows += bert_mlp(old, new)
    return tuple(rows)


def bert_head(published: str, ours: str) -> tuple[Row, ...]:
    """The head for words; its output map is the token embedding (see `bert_head_aliases`)."""
    return (
        *linear(f"{published}.transform.dense", f"{ours}/head/dense"),
        *norm(f"{published}.transform.LayerNorm", f"{ours}/head/norm"),
        Row(f"{published}.bias", f"{ours}/head_bias"),
    )


def bert_head_aliases(published: str, embeddings: str) -> tuple[Alias, ...]:
    """What the head repeats."""
    return (
        Alias(f"{published}.decoder.weight", f"{embeddings}.word_embeddings.weight", "the output map is the embedding"),
        Alias(f"{published}.decoder.bias", f"{published}.bias", "one bias under two names"),
    )


def position_ids(embeddings: str, length: int) -> Buffer:
    """The positions counted from 0 that BERT's releases store."""
    why = "positions counted from 0"
    return Buffer(f"{embeddings}.position_ids", why, np.arange(length)[None], always=True)
