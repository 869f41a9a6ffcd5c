"""BLIP's published forms, and from a mapping to one of its systems."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from mmjax.core.errors import UserError
from mmjax.encoders.bert import Bert
from mmjax.nn.transformer import BlockSpec, Transformer
from mmjax.systems import base
from mmjax.systems.albef_sizes import IMG
from mmjax.systems.blip import BLIP
from mmjax.systems.blip_tasks import BLIPAnswers, BLIPPairs

MERGED_FROM = 6
"""The layer of NLVR2's model from which on both looks are merged by a linear map."""
# Task -> (what is learned, keys besides the shared ones)
_CONTRAST = {"embed_dim", "queue", "alpha", "alpha_steps", "temperature", "learn_temperature", "bounds",
             "hard_negatives"}  # fmt: skip
_WRITES = {"dec_id", "end_ids", "smoothing"}
TASKS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "pretrain": (("itc", "itm", "lm"), {*_CONTRAST, *_WRITES, "lead", "floor"}),
    "retrieval": (("itc", "itm"), _CONTRAST),
    "caption": (("lm",), {*_WRITES, "lead"}),
    "vqa": ((), {*_WRITES, "dec"}),
    "nlvr2": ((), {"classes", "merged_from"}),
}
_SHARED = {"name", "size", "task", "img", "txt", "enc_id", "mean", "std", *base.SHARED}
_TUPLES = ("mean", "std", "end_ids", "lead", "bounds")
_TXT = {"types": 0, "cross_from": 0}


def _sizes(width: int, depth: int, heads: int, name: str, drop_path: float) -> dict[str, dict[str, Any]]:
    txt = {"vocab": 30524, "length": 512, "width": 768, "depth": 12, "heads": 12, "dropout": 0.1, "attn_dropout": 0.1}

    def img(size: int, drop: float) -> dict[str, Any]:
        return {"image_size": size, "patch": 16, "width": width, "depth": depth, "heads": heads, "drop_path": drop}

    rates = {"pretrain": drop_path, "retrieval": drop_path, "caption": drop_path, "vqa": 0.1, "nlvr2": 0.1}
    pixels = {"pretrain": 224, "retrieval": 384, "caption": 384, "vqa": 480, "nlvr2": 384}
    more: dict[str, dict[str, Any]] = {"vqa": {"dec": txt}, "caption": {"lead": (1037, 3861, 1997)}}  # "a picture of"
    return {
        f"{name}_{task}_{size}": {"task": task, "img": img(size, rates[task]), "txt": txt, **more.get(task, {})}
        for task, size in pixels.items()
    }


# Li et al. 2022, §3.1 and §4; drop path as in the released code.
SIZES: dict[str, dict[str, Any]] = {**_sizes(768, 12, 12, "base", 0.0), **_sizes(1024, 24, 16, "large", 0.1)}


def build(config: Mapping[str, Any]) -> nn.Module:
    """The system of a task from a mapping: the keys of `TASKS` and these:

    task *      "pretrain", "retrieval", "caption", "vqa" or "nlvr2"
    img *       a ViT; txt *: BERT (systems/base.py); dec * (vqa): BERT, likewise
    embed_dim   width of the shared space, default 256; queue: rows of past features, default 57,600
    dec_id, enc_id, end_ids   special tokens, default 30522, 30523 and (102,)
    lead        ids with which a text begins unless told, default none; smoothing: of labels, default 0.1
    classes, merged_from (nlvr2: first layer that merges both looks, default 6) and the others: see BLIP and its tasks

    Raises:
      UserError: unknown or missing keys and values that do not exist.
    """
    config = base.plain(config)
    if (size := config.pop("size", None)) is not None:
        base.check_choice("system blip: size", size, SIZES)
        config = base.override(SIZES[size], config)
    task: Any = config.get("task")
    base.check_choice("system blip: task", task, TASKS)
    tasks, keys = TASKS[task]
    required = ("img", "txt", *(("dec",) if task == "vqa" else ()))
    base.check_keys(f"system blip, task {task}", config, _SHARED | keys, required)
    shared = base.shared_options(config)
    img = base.image_tower("system blip: img", {**IMG, **config["img"]}, features=0, **shared)
    options: dict[str, Any] = {
        k: v for k, v in config.items() if k in keys | {"enc_id", "mean", "std"} and k not in ("dec", "merged_from")
    }
    options |= {k: tuple(v) for k, v in options.items() if k in _TUPLES and v is not None}
    options |= {"img": img, "dtype": shared["dtype"]}

    def text(which: str, **more: Any) -> Bert:
        return base.bert_tower(f"system blip: {which}", {**_TXT, **more, **config[which]}, **shared)

    if task == "vqa":
        return BLIPAnswers(txt=text("txt"), dec=text("dec", lm_head=True), **options)
    if task == "nlvr2":
        whole, from_layer = text("txt"), config.get("merged_from", MERGED_FROM)
        lower, upper = (_looks(whole, twin) for twin in ("mean", "merge"))
        if not 0 < from_layer < whole.depth:
            raise UserError(f"system blip: merged_from={from_layer} is not between 0 and the depth, {whole.depth}")
        options |= {"lower": _stack(whole, lower, from_layer), "upper": _stack(whole, upper, whole.depth - from_layer)}
        return BLIPPairs(txt=whole.clone(depth=0, cross_from=None), **options)
    options |= {"tasks": tasks, "by_id": task == "retrieval", "taught_negatives": task == "pretrain"}
    return BLIP(txt=text("txt", lm_head="lm" in tasks), **options)


def _looks(txt: Bert, twin: str) -> BlockSpec:
    return dataclasses.replace(txt.block(cross=True), twin=twin)


def _stack(txt: Bert, spec: BlockSpec, depth: int) -> Transformer:
    return Transformer(spec, depth, txt.scan, txt.remat)
