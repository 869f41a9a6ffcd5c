"""Towers that were published alone and that larger systems begin with: DeiT and ViT, and BERT. They are only read.

timm's layout (`deit_base_patch16_224-b5f2ef4d.pth`; source: facebookresearch/deit, timm `VisionTransformer`), the
`.npz` files of AugReg (`L_16-i21k-….npz`; source: google-research/vision_transformer), and transformers' `BertModel`,
`BertForMaskedLM` and `BertForPreTraining`. What stands in such a file besides the tower, as a classifier of other data,
is named in the account.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import rows
from mmjax.weights.config_checks import HEAD, refuse, require
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.files import Tensors
from mmjax.weights.layout import Row, Table
from mmjax.weights.transforms import SAME, Reshape

TIMM, AUGREG = "timm", "augreg"
CLASSIFIER = "a classifier of its training's classes, which the tower does not need"
BLOCK = "Transformer/encoderblock_"
POSITIONS = "Transformer/posembed_input/pos_embedding"


def _only_read(
    system: Mapping[str, Any], layout: str, origin: Origin | None, _eos_id: int | None, _paths: Collection[str]
) -> Origin:
    refuse(layout, [f"{system['name']!r} is a tower alone, which is only read"])
    raise AssertionError


# ---------------------------------------------------------------- image towers


def _recognise_vit(published: Published) -> tuple[dict[str, Any], Origin] | None:
    """By the tensors; their shapes tell all sizes but timm's number of heads, which is that of heads 64 wide unless a
    config.json beside them says otherwise."""
    tensors, keys = published.tensors, set(published.tensors.keys())
    if {"cls", POSITIONS, "embedding/kernel"} <= keys:
        return {"name": "vit", "img": _augreg_sizes(tensors, keys)}, Origin(AUGREG, {})
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= keys:
        return None
    if "dist_token" in keys:
        raise UserError(
            f"{published.where}: a distilled DeiT has a second token, for which no system here has a place; take the "
            "one that was trained without distillation (deit_base_patch16_224-b5f2ef4d.pth)"
        )
    config = published.config or {}
    return {"name": "vit", "img": _timm_sizes(tensors, keys, config)}, Origin(TIMM, config)


def _depth(keys: set[str], before: str) -> int:
    found = (re.match(rf"{re.escape(before)}(\d+)\W", key) for key in keys)
    return 1 + max(int(match[1]) for match in found if match)


def _timm_sizes(tensors: Tensors, keys: set[str], config: Mapping[str, Any]) -> dict[str, Any]:
    width, _, patch, _ = tensors.shape("patch_embed.proj.weight")
    return {
        "image_size": patch * round((tensors.shape("pos_embed")[1] - 1) ** 0.5),
        "patch": patch,
        "width": width,
        "depth": _depth(keys, "blocks."),
        "heads": config.get("model_args", {}).get("num_heads", max(1, width // HEAD)),
        "mlp_dim": tensors.shape("blocks.0.mlp.fc1.weight")[0],
    }


def _augreg_sizes(tensors: Tensors, keys: set[str]) -> dict[str, Any]:
    patch, _, _, width = tensors.shape("embedding/kernel")
    return {
        "image_size": patch * round((tensors.shape(POSITIONS)[1] - 1) ** 0.5),
        "patch": patch,
        "width": width,
        "depth": _depth(keys, BLOCK),
        "heads": tensors.shape(f"{BLOCK}0/MultiHeadDotProductAttention_1/query/kernel")[1],
        "mlp_dim": tensors.shape(f"{BLOCK}0/MlpBlock_3/Dense_0/kernel")[1],
    }


def _vit_table(system: Mapping[str, Any], origin: Origin) -> Table:
    if origin.layout == AUGREG:
        unneeded = {f"{part}/{leaf}": CLASSIFIER for part in ("head", "pre_logits") for leaf in ("kernel", "bias")}
        return Table(AUGREG, tuple(_augreg_rows(system["img"])), unneeded=unneeded)
    made = (dataclasses.replace(row, published=row.published.removeprefix("."))
            for row in rows.timm_vit("", "img", system["img"]))  # fmt: skip
    unneeded = {f"{part}.{leaf}": CLASSIFIER for part in ("head", "pre_logits.fc") for leaf in ("weight", "bias")}
    return Table(TIMM, tuple(made), unneeded=unneeded)


def _augreg_rows(img: Mapping[str, Any]) -> list[Row]:
    """Flax's own names and axes: heads are an axis of their own."""
    width, heads, tokens = img["width"], img["heads"], (img["image_size"] // img["patch"]) ** 2 + 1
    split = (heads, width // heads)
    made = [
        Row("cls", "img/cls", Reshape((1, 1, width), (width,))),
        Row(POSITIONS, "img/pos", Reshape((1, tokens, width), (tokens, width))),
        *_flax("embedding", "img/patch"),
        *_flax("Transformer/encoder_norm", "img/norm_post", "scale"),
    ]
    for i in range(img["depth"]):
        old, new = f"{BLOCK}{i}", f"img/transformer/block_{i}"
        made += [*_flax(f"{old}/LayerNorm_0", f"{new}/norm1", "scale")]
        made += [*_flax(f"{old}/LayerNorm_2", f"{new}/norm2", "scale")]
        for theirs, ours in (("query", "q"), ("key", "k"), ("value", "v")):
            part = f"{old}/MultiHeadDotProductAttention_1/{theirs}"
            made.append(Row(f"{part}/kernel", f"{new}/attn/{ours}/kernel", Reshape((width, *split), (width, width))))
            made.append(Row(f"{part}/bias", f"{new}/attn/{ours}/bias", Reshape(split, (width,))))
        part = f"{old}/MultiHeadDotProductAttention_1/out"
        made.append(Row(f"{part}/kernel", f"{new}/attn/out/kernel", Reshape((*split, width), (width, width))))
        made.append(Row(f"{part}/bias", f"{new}/attn/out/bias"))
        for theirs, ours in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            made += [*_flax(f"{old}/MlpBlock_3/{theirs}", f"{new}/mlp/{ours}")]
    return made


def _flax(published: str, ours: str, weight: str = "kernel") -> tuple[Row, ...]:
    return Row(f"{published}/{weight}", f"{ours}/{weight}", SAME), Row(f"{published}/bias", f"{ours}/bias", SAME)


def _vit_notes(origin: Origin) -> tuple[str, ...]:
    """AugReg's models were trained with GELU's approximation; timm, and BLIP after it, compute the exact one."""
    return ("GELU by the error function, as timm reads these files",) if origin.layout == AUGREG else ()


VIT = Family((), _recognise_vit, _vit_table, _only_read, notes=_vit_notes)


# ---------------------------------------------------------------- BERT

_ACTS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}
# transformers' values where a configuration says nothing.
_BERT = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
_POOLER = "reads the first token, for the prediction of the next sentence and for classifiers"
_NEXT = "predicts whether a sentence follows another"


def _recognise_bert(published: Published) -> tuple[dict[str, Any], Origin] | None:
    config, keys = published.config, set(published.tensors.keys())
    if config is None or config.get("model_type") != "bert":
        return None
    prefix = "bert." if any(key.startswith("bert.") for key in keys) else ""
    types = f"{prefix}embeddings.token_type_embeddings.weight"
    form = {
        "prefix": prefix,
        "types": published.tensors.shape(types)[0] if types in keys else 0,
        "head": "cls.predictions.bias" in keys,
        "gamma": any(key.endswith("LayerNorm.gamma") for key in keys),  # the names of before 2019
    }
    return _bert_system(config, form, published.where), Origin("hf", config, form=form)


def _bert_system(config: Mapping[str, Any], form: Mapping[str, Any], where: str) -> dict[str, Any]:
    bert = {**_BERT, **config}
    require(where, bert, {"hidden_act": tuple(_ACTS), "position_embedding_type": ("absolute",), "is_decoder": (False,),
                          "add_cross_attention": (False,)})  # fmt: skip
    try:
        txt = {
            "vocab": bert["vocab_size"],
            "length": bert["max_position_embeddings"],
            "width": bert["hidden_size"],
            "depth": bert["num_hidden_layers"],
            "heads": bert["num_attention_heads"],
            "mlp_dim": bert["intermediate_size"],
            "act": _ACTS[bert["hidden_act"]],
            "eps": bert["layer_norm_eps"],
            "types": form["types"],
            "lm_head": form["head"],
            "dropout": bert["hidden_dropout_prob"],
            "attn_dropout": bert["attention_probs_dropout_prob"],
        }
    except KeyError as error:
        raise UserError(f"{where}: the key {error} is missing") from error
    return {"name": "bert", "txt": txt}


def _bert_table(system: Mapping[str, Any], origin: Origin) -> Table:
    form, txt, prefix = origin.form, system["txt"], origin.form["prefix"]
    head = "cls.predictions"
    made = [*rows.bert_embeddings(f"{prefix}embeddings", "txt", bool(form["types"]))]
    made += rows.bert_layers(f"{prefix}encoder", "txt", txt["depth"], txt["depth"])
    made += rows.bert_head(head, "txt") if form["head"] else ()
    made = [_old_name(row) if form["gamma"] else row for row in made]
    positions = dataclasses.replace(rows.position_ids(f"{prefix}embeddings", txt["length"]), always=False)
    unneeded = {f"{prefix}pooler.dense.{leaf}": _POOLER for leaf in ("weight", "bias")}
    unneeded |= {f"cls.seq_relationship.{leaf}": _NEXT for leaf in ("weight", "bias")}
    aliases = rows.bert_head_aliases(head, f"{prefix}embeddings") if form["head"] else ()
    return Table("hf", tuple(made), (positions,), {}, aliases, unneeded)


def _old_name(row: Row) -> Row:
    """The gain and bias of a norm were once gamma and beta."""
    module, _, leaf = row.published.rpartition(".")
    if not module.endswith("LayerNorm"):
        return row
    return dataclasses.replace(row, published=f"{module}.{ {'weight': 'gamma', 'bias': 'beta'}[leaf] }")


BERT = Family((), _recognise_bert, _bert_table, _only_read)
