"""BLIP's published layouts as tables: the original one (LAVIS's files are of it, too), and Hugging Face's.

Sources: salesforce/BLIP `models/`, transformers `BlipForConditionalGeneration`, `BlipForImageTextRetrieval`,
`BlipForQuestionAnswering`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.weights.layout import Alias, Buffer, Row, Table
from mmjax.weights.rows import (
    bert_attention,
    bert_embeddings,
    bert_head,
    bert_head_aliases,
    bert_mlp,
    linear,
    norm,
    position_ids,
    timm_vit,
)
from mmjax.weights.transforms import CONV, LINEAR, ONE_VALUE, QKV_BIAS, QKV_KERNEL, Reshape

TIED = "encoder and decoder share it"
WRITES = "_dec"  # of the names of our self-attention and its norm in the mode that writes
TEACHER, QUEUE = "teacher", "queue"


def blip_table(system: Mapping[str, Any], layout: str, form: Mapping[str, Any]) -> Table:
    """The table of a BLIP of this size and task.

    Args:
      system: a mapping that `systems.build` takes, with its sizes spelled out.
      layout: "blip" or "hf".
      form: what else the tensors tell: "momentum" (whether they hold the teacher's copies).
    """
    task, txt = system["task"], system["txt"]
    rows = [*(_hf_vit(system["img"]) if layout == "hf" else timm_vit("visual_encoder", "img", system["img"]))]
    aliases: list[Alias] = []
    buffers: list[Buffer] = []
    if task != "caption":
        rows += bert_embeddings("text_encoder.embeddings", "txt", False)
        rows += _pairs(system) if task == "nlvr2" else _layers("text_encoder", "txt", txt["depth"])
        buffers.append(position_ids("text_encoder.embeddings", txt["length"]))
    if task in ("pretrain", "caption", "vqa"):
        tower, ours = (system["dec"], "dec") if task == "vqa" else (txt, "txt")
        decoder = "text_decoder.bert"
        if task == "pretrain":
            rows += _own(decoder, ours, tower["depth"], WRITES)
            aliases += _tied(tower["depth"])
        else:
            rows += bert_embeddings(f"{decoder}.embeddings", ours, False)
            rows += _layers(decoder, ours, tower["depth"], WRITES)
        rows += bert_head("text_decoder.cls.predictions", ours)
        embeddings = "text_encoder.embeddings" if task == "pretrain" else f"{decoder}.embeddings"
        aliases += bert_head_aliases("text_decoder.cls.predictions", embeddings)
        buffers.append(position_ids(f"{decoder}.embeddings", tower["length"]))
    if task in ("pretrain", "retrieval"):
        rows += [*linear("vision_proj", "img_proj"), *linear("text_proj", "txt_proj"), *linear("itm_head", "itm_head")]
        rows += [Row("temp", "tau")] if system.get("learn_temperature", True) else []
        rows += _queue(system)
        if form.get("momentum"):
            rows += _teacher(system)
            buffers.append(position_ids("text_encoder_m.embeddings", txt["length"]))
    if layout == "hf":  # its newer files hold no counted positions
        buffers = [dataclasses.replace(buffer, always=False) for buffer in buffers]
    return Table(layout, tuple(rows), tuple(buffers), {}, tuple(aliases))


def _layers(published: str, ours: str, depth: int, mode: str = "") -> list[Row]:
    """BERT's layers, each with cross-attention."""
    return [*_own(published, ours, depth, mode), *_shared(published, ours, depth)]


def _own(published: str, ours: str, depth: int, mode: str) -> list[Row]:
    """Of each layer what encoder and decoder do not share: self-attention, its output map and norm."""
    rows: list[Row] = []
    for i in range(depth):
        old = f"{published}.encoder.layer.{i}.attention"
        rows += bert_attention(old, f"{ours}/fusion/block_{i}", f"attn{mode}", f"norm1{mode}")
    return rows


def _shared(published: str, ours: str, depth: int) -> list[Row]:
    """The rest of each layer."""
    rows: list[Row] = []
    for i in range(depth):
        old, new = f"{published}.encoder.layer.{i}", f"{ours}/fusion/block_{i}"
        rows += bert_attention(f"{old}.crossattention", new, "cross", "norm_cross")
        rows += bert_mlp(old, new)
    return rows


def _hf_vit(img: Mapping[str, Any]) -> Iterator[Row]:
    width, tokens = img["width"], (img["image_size"] // img["patch"]) ** 2 + 1
    yield Row("vision_model.embeddings.class_embedding", "img/cls", Reshape((1, 1, width), (width,)))
    yield Row("vision_model.embeddings.position_embedding", "img/pos", Reshape((1, tokens, width), (tokens, width)))
    yield from linear("vision_model.embeddings.patch_embedding", "img/patch", CONV)
    yield from norm("vision_model.post_layernorm", "img/norm_post")
    for i in range(img["depth"]):
        old, new = f"vision_model.encoder.layers.{i}", f"img/transformer/block_{i}"
        yield from norm(f"{old}.layer_norm1", f"{new}/norm1")
        yield Row(f"{old}.self_attn.qkv.weight", tuple(f"{new}/attn/{part}/kernel" for part in "qkv"), QKV_KERNEL)
        yield Row(f"{old}.self_attn.qkv.bias", tuple(f"{new}/attn/{part}/bias" for part in "qkv"), QKV_BIAS)
        yield from linear(f"{old}.self_attn.projection", f"{new}/attn/out")
        yield from norm(f"{old}.layer_norm2", f"{new}/norm2")
        yield from linear(f"{old}.mlp.fc1", f"{new}/mlp/fc1")
        yield from linear(f"{old}.mlp.fc2", f"{new}/mlp/fc2")


def _tied(depth: int) -> list[Alias]:
    """The decoder's copies of what the encoder holds."""
    rows = [*bert_embeddings("embeddings", "", False), *_shared("", "", depth)]
    names = [row.published.removeprefix(".") for row in rows]
    return [Alias(f"text_decoder.bert.{name}", f"text_encoder.{name}", TIED) for name in names]


def _teacher(system: Mapping[str, Any]) -> list[Row]:
    """The momentum copies: of the image encoder, of the text encoder, and of both projections."""
    rows = [*timm_vit("visual_encoder_m", "img", system["img"])]
    rows += bert_embeddings("text_encoder_m.embeddings", "txt", False)
    rows += _layers("text_encoder_m", "txt", system["txt"]["depth"])
    rows += [*linear("vision_proj_m", "img_proj"), *linear("text_proj_m", "txt_proj")]
    return [dataclasses.replace(row, collection=TEACHER) for row in rows]


def _queue(system: Mapping[str, Any]) -> list[Row]:
    size = system.get("queue", 0)
    if not size:
        return []
    rows = [Row("image_queue", "past/img", LINEAR, QUEUE), Row("text_queue", "past/txt", LINEAR, QUEUE)]
    if system["task"] == "retrieval":
        rows += [Row("idx_queue", "past/ids", Reshape((1, size), (size,)), QUEUE, "int64")]
    pointer = "ptr_queue" if system["task"] == "retrieval" else "queue_ptr"
    return [*rows, Row(pointer, "past/pointer", ONE_VALUE, QUEUE, "int64")]


def _pairs(system: Mapping[str, Any]) -> list[Row]:
    """NLVR2: two cross-attentions in each layer, and from `merged_from` on a map that merges them."""
    rows: list[Row] = [*linear("cls_head.0", "fc1"), *linear("cls_head.2", "fc2")]
    merged = system.get("merged_from", 6)
    for layer in range(system["txt"]["depth"]):
        old = f"text_encoder.encoder.layer.{layer}"
        new = f"lower/block_{layer}" if layer < merged else f"upper/block_{layer - merged}"
        rows += [*bert_attention(f"{old}.attention", new, "attn", "norm1"), *bert_mlp(old, new)]
        rows += norm(f"{old}.crossattention.output.LayerNorm", f"{new}/norm_cross")
        for which in range(2):
            for name, mine in (("query", "q"), ("key", "k"), ("value", "v")):
                rows += linear(f"{old}.crossattention.self{which}.{name}", f"{new}/cross{which}/{mine}")
            rows += linear(f"{old}.crossattention.output.dense{which}", f"{new}/cross{which}/out")
        if layer >= merged:
            rows += linear(f"{old}.crossattention.output.merge_layer", f"{new}/merge")
    return rows
