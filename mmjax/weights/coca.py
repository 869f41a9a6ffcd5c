"""open_clip's CoCa as a table. Source: open_clip 3.3.0, `coca_model.py` and `transformer.py`."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights import clip_family, coca_config
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.layout import Buffer, Row, Table
from mmjax.weights.rows import linear, norm, openai_block, openai_blocks, text_projection
from mmjax.weights.transforms import CONV, LINEAR, ONE_VALUE, QKV_BIAS, QKV_KERNEL, SAME


def _vision(system: Mapping[str, Any]) -> tuple[Row, ...]:
    img = system["img"]
    return (
        Row("visual.class_embedding", "img/cls"),
        Row("visual.positional_embedding", "img/pos"),
        Row("visual.conv1.weight", "img/patch/kernel", CONV),
        *(norm("visual.ln_pre", "img/norm_pre") if img.get("norm_pre", True) else ()),
        *openai_blocks("visual.transformer", "img", "i", img.get("layer_scale") is not None),
        *(_pooler(system) if system["pool"] == "first" else norm("visual.ln_post", "img/norm_post")),
        Row("visual.proj", "img_proj/kernel"),
    )


def _pooler(system: Mapping[str, Any]) -> tuple[Row, ...]:
    old, new = "visual.attn_pool", "cap_pool"
    kernels = {part: f"{new}/attn/{part}/kernel" for part in "qkv"}
    rows = [Row(f"{old}.attn.{part}_proj_weight", ours, LINEAR) for part, ours in kernels.items()]
    if system["img"]["width"] == system["embed_dim"]:  # torch fuses the three where keys are as wide as queries
        rows = [Row(f"{old}.attn.in_proj_weight", tuple(kernels.values()), QKV_KERNEL)]
    return (
        Row(f"{old}.query", f"{new}/query"),
        *norm(f"{old}.ln_q", f"{new}/norm_q"),
        *norm(f"{old}.ln_k", f"{new}/norm_kv"),
        *rows,
        Row(f"{old}.attn.in_proj_bias", tuple(f"{new}/attn/{part}/bias" for part in "qkv"), QKV_BIAS),
        *linear(f"{old}.attn.out_proj", f"{new}/attn/out"),
        *norm("visual.ln_post", f"{new}/norm_out"),
    )


def _decoder(scaled: bool) -> tuple[Row, ...]:
    """A layer is two blocks there: self-attention with an MLP, then cross-attention with another one."""
    block = "dec/transformer/block_{d}"
    one, two = (("1", "_mid"), ("_cross", "2")) if scaled else ((), ())
    return (
        *openai_block("text_decoder.resblocks.{d}", block, ("norm1", "attn", "norm_mid", "mlp_mid"), one),
        *openai_block("text_decoder.cross_attn.{d}", block, ("norm_cross", "cross", "norm2", "mlp"), two),
        *norm("text_decoder.cross_attn.{d}.ln_1_kv", f"{block}/norm_context"),
        *norm("text_decoder.ln_final", "dec/norm_final"),
        Row("text_decoder.text_projection", "dec/head/kernel"),
    )


def _table(system: Mapping[str, Any], origin: Origin) -> Table:
    txt, dec = system["txt"], system["dec"]
    rows = (
        *_vision(system),
        Row("text.token_embedding.weight", "txt/embed/embedding"),
        Row("text.positional_embedding", "txt/pos"),
        Row("text.cls_emb", "txt/cls"),
        *openai_blocks("text.transformer", "txt", "t", txt.get("layer_scale") is not None),
        *norm("text.ln_final", "txt/norm_final"),
        *text_projection("text.", system),
        *_decoder(dec.get("layer_scale") is not None),
        Row("logit_scale", "log_scale", ONE_VALUE if origin.one_value else SAME),
    )
    why = "the causal mask, which older versions stored"
    masks = (("text.attn_mask", txt["length"] + 1), ("text_decoder.attn_mask", txt["length"]))
    buffers = tuple(Buffer(key, why, np.triu(np.full((n, n), -np.inf, np.float32), 1)) for key, n in masks)
    return Table("open_clip", rows, buffers, {"i": system["img"]["depth"], "t": txt["depth"], "d": dec["depth"]})


def _recognise(published: Published) -> tuple[dict[str, Any], Origin] | None:
    config, tensors = published.config, published.tensors
    if config is None or not coca_config.is_coca(config):
        return None
    try:
        system = coca_config.from_open_clip(config, published.where)
    except KeyError as error:
        raise UserError(f"{published.where}: the key {error} is missing") from error
    one_value = "logit_scale" in tensors.keys() and tensors.shape("logit_scale") == (1,)  # noqa: SIM118
    resample = clip_family.resample(published, "open_clip", config)
    return system, Origin("open_clip", config, custom_text=True, one_value=one_value, resample=resample)


def _target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, _eos_id: int | None, _paths: Collection[str]
) -> Origin:
    one_value = origin is not None and origin.one_value
    config = coca_config.to_open_clip(system, one_value=one_value)
    resample = "bicubic" if origin is None else origin.resample
    if origin is not None and coca_config.from_open_clip(origin.config, "config") == dict(system):
        config = origin.config
    return Origin(layout, config, custom_text=True, one_value=one_value, resample=resample)


FAMILY = Family(("open_clip",), _recognise, _table, _target, write=clip_family.FAMILY.write)
