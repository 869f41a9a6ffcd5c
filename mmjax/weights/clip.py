"""CLIP's published layouts as tables: Hugging Face's, OpenAI's (ViT and ResNet), open_clip's two.

OpenAI's and open_clip's plain keys are the same; open_clip's custom-text models keep the text tower under `text.`.
Sources: transformers `CLIPModel`, openai/CLIP `clip/model.py`, open_clip `CLIP` and `CustomTextCLIP`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights.layout import Buffer, Row, Table
from mmjax.weights.rows import hf_blocks, linear, norm, openai_blocks, text_projection
from mmjax.weights.siglip import is_siglip, patches, siglip_hf, siglip_open_clip
from mmjax.weights.transforms import CONV, LINEAR, ONE_VALUE, SAME

LAYOUTS = ("hf", "openai", "open_clip")


def clip_table(system: Mapping[str, Any], layout: str, *, custom_text: bool = False, one_value: bool = False) -> Table:
    """The table of a CLIP or SigLIP of this size.

    Args:
      system: a mapping that `systems.build` takes, with its sizes spelled out.
      layout: one of `LAYOUTS`.
      custom_text: open_clip's custom-text model: the text tower's keys begin with `text.`.
      one_value: scale and bias are stored as `[1]` instead of `[]` (open_clip's `nonscalar_logit_scale`).
    """
    if is_siglip(system) and layout in ("hf", "open_clip"):
        return siglip_hf(system) if layout == "hf" else siglip_open_clip(system, one_value)
    if layout == "hf":
        return _hf(system)
    if layout in ("openai", "open_clip"):
        return _openai(system, layout, "text." if custom_text else "", one_value)
    raise UserError(f"unknown layout {layout!r} of clip; there are {', '.join(LAYOUTS)}")


# ------------------------------------------------------------------------------------------------- Hugging Face


def hf_vision(published: str) -> tuple[Row, ...]:
    """The rows of CLIP's vision tower; `published` is what stands before "embeddings". Its blocks count as `{i}`."""
    return (
        Row(f"{published}embeddings.class_embedding", "img/cls"),
        Row(f"{published}embeddings.patch_embedding.weight", "img/patch/kernel", CONV),
        Row(f"{published}embeddings.position_embedding.weight", "img/pos"),
        *norm(f"{published}pre_layrnorm", "img/norm_pre"),  # spelled so in the published checkpoints
        *hf_blocks(published, "img", "i"),
        *norm(f"{published}post_layernorm", "img/norm_post"),
    )


def hf_vision_buffers(published: str, img: Mapping[str, Any]) -> tuple[Buffer, ...]:
    """What older versions stored besides."""
    why = "positions counted from 0, which older versions stored"
    return (Buffer(f"{published}embeddings.position_ids", why, np.arange(patches(img) + 1)[None]),)


def _hf(system: Mapping[str, Any]) -> Table:
    img, txt = system["img"], system["txt"]
    rows = (
        *hf_vision("vision_model."),
        Row("text_model.embeddings.token_embedding.weight", "txt/embed/embedding"),
        Row("text_model.embeddings.position_embedding.weight", "txt/pos"),
        *hf_blocks("text_model.", "txt", "t"),
        *norm("text_model.final_layer_norm", "txt/norm_final"),
        Row("visual_projection.weight", "img_proj/kernel", LINEAR),
        Row("text_projection.weight", "txt_proj/kernel", LINEAR),
        Row("logit_scale", "log_scale"),
    )
    why = "positions counted from 0, which older versions stored"
    buffers = (
        *hf_vision_buffers("vision_model.", img),
        Buffer("text_model.embeddings.position_ids", why, np.arange(txt["length"])[None]),
    )
    return Table("hf", rows, buffers, {"i": img["depth"], "t": txt["depth"]})


# ------------------------------------------------------------------------------------------------- OpenAI, open_clip


def _vit(img: Mapping[str, Any]) -> tuple[Row, ...]:
    return (
        Row("visual.class_embedding", "img/cls"),
        Row("visual.positional_embedding", "img/pos"),
        Row("visual.conv1.weight", "img/patch/kernel", CONV),
        *(norm("visual.ln_pre", "img/norm_pre") if img.get("norm_pre", True) else ()),
        *openai_blocks("visual.transformer", "img", "i", img.get("layer_scale") is not None),
        *norm("visual.ln_post", "img/norm_post"),
        Row("visual.proj", "img_proj/kernel"),
    )


def _batch_norm(published: str, ours: str) -> tuple[Row, ...]:
    return (
        *norm(published, ours),
        Row(f"{published}.running_mean", f"{ours}/mean", collection="batch_stats"),
        Row(f"{published}.running_var", f"{ours}/var", collection="batch_stats"),
    )


def _resnet(layers: list[int]) -> tuple[Row, ...]:
    rows = []
    for n in (1, 2, 3):
        rows += [
            Row(f"visual.conv{n}.weight", f"img/conv{n}/kernel", CONV),
            *_batch_norm(f"visual.bn{n}", f"img/bn{n}"),
        ]
    for stage in range(1, len(layers) + 1):
        old, new = f"visual.layer{stage}", f"img/layer{stage}"
        for n in (1, 2, 3):
            index = f"s{stage}"
            rows.append(Row(f"{old}.{{{index}}}.conv{n}.weight", f"{new}_{{{index}}}/conv{n}/kernel", CONV))
            rows += _batch_norm(f"{old}.{{{index}}}.bn{n}", f"{new}_{{{index}}}/bn{n}")
        # Only the first block of a stage changes width or resolution; "-1" of the sequence is a pool without weights.
        rows.append(Row(f"{old}.0.downsample.0.weight", f"{new}_0/down_conv/kernel", CONV))
        rows += _batch_norm(f"{old}.0.downsample.1", f"{new}_0/down_bn")
    rows.append(Row("visual.attnpool.positional_embedding", "img/attnpool/pos"))
    for old, new in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("c_proj", "out")):
        rows += linear(f"visual.attnpool.{old}", f"img/attnpool/{new}")
    return tuple(rows)


def _resnet_buffers(layers: list[int]) -> tuple[Buffer, ...]:
    norms = [f"visual.bn{n}" for n in (1, 2, 3)]
    for stage, depth in enumerate(layers, 1):
        for block in range(depth):
            norms += [f"visual.layer{stage}.{block}.bn{n}" for n in (1, 2, 3)]
        norms.append(f"visual.layer{stage}.0.downsample.1")
    why = "batches counted in training, which inference does not use"
    return tuple(
        Buffer(f"{norm}.num_batches_tracked", why, np.zeros((), np.int64), fixed=False, always=True) for norm in norms
    )


def _openai(system: Mapping[str, Any], layout: str, text: str, one_value: bool) -> Table:
    img, txt = system["img"], system["txt"]
    resnet = img.get("kind", "vit") == "resnet"
    scalar = ONE_VALUE if one_value else SAME
    rows = (
        *(_resnet(img["layers"]) if resnet else _vit(img)),
        Row(f"{text}token_embedding.weight", "txt/embed/embedding"),
        Row(f"{text}positional_embedding", "txt/pos"),
        *openai_blocks(f"{text}transformer", "txt", "t"),
        *norm(f"{text}ln_final", "txt/norm_final"),
        *text_projection(text, system),
        Row("logit_scale", "log_scale", scalar),
        *((Row("logit_bias", "logit_bias", scalar),) if system.get("loss") == "sigmoid" else ()),
    )
    ranges = {"t": txt["depth"]}
    ranges |= {f"s{n}": depth for n, depth in enumerate(img["layers"], 1)} if resnet else {"i": img["depth"]}
    buffers = _resnet_buffers(img["layers"]) if resnet else ()
    if layout == "openai":
        sizes = {"input_resolution": img["image_size"], "context_length": txt["length"], "vocab_size": txt["vocab"]}
        why = "a number of the configuration that the released archives hold"
        buffers += tuple(Buffer(key, why, np.array(size, np.int64), always=True) for key, size in sizes.items())
    elif txt.get("causal", True):
        mask = np.triu(np.full((txt["length"], txt["length"]), -np.inf, np.float32), 1)
        buffers += (Buffer(f"{text}attn_mask", "the causal mask, which older versions stored", mask),)
    return Table(layout, rows, buffers, ranges)
