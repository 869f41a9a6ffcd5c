"""ALBEF's published forms, and from a mapping to one of its systems."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from mmjax.core.errors import UserError
from mmjax.encoders.bert import Bert
from mmjax.systems import base
from mmjax.systems.albef import ALBEF
from mmjax.systems.albef import TASKS as LEARNED
from mmjax.systems.albef_assign import ALBEFAssign
from mmjax.systems.albef_tasks import ALBEFAnswers, ALBEFClasses, Twin

IMG = {"act": "gelu", "eps": 1e-6, "patch_bias": True, "norm_pre": False, "norm_post": "all", "pool": "none"}
"""What ALBEF's and BLIP's image towers are besides their sizes."""


def _img(size: int) -> dict[str, Any]:
    return {"image_size": size, "patch": 16, "width": 768, "depth": 12, "heads": 12}


def _txt(**options: Any) -> dict[str, Any]:
    bert = {"vocab": 30522, "length": 512, "width": 768, "depth": 12, "heads": 12, "cross_from": 6}
    return {**bert, "dropout": 0.1, "attn_dropout": 0.1, **options}


# Li et al. 2021, §3.1 and §4: one size, ViT-B/16 and BERT-base, in the forms of its tasks.
SIZES: dict[str, dict[str, Any]] = {
    "pretrain_256": {"task": "pretrain", "embed_dim": 256, "img": _img(256), "txt": _txt()},
    "retrieval_384": {"task": "retrieval", "embed_dim": 256, "img": _img(384), "txt": _txt()},
    "vqa_384": {"task": "vqa", "img": _img(384), "txt": _txt(), "dec": _txt(depth=6, cross_from=0)},
    "assign_256": {"task": "assign", "embed_dim": 256, "img": _img(256), "txt": _txt(depth=18)},
    "nlvr2_384": {"task": "nlvr2", "img": _img(384), "txt": _txt(depth=18), "classes": 2},
    "ve_384": {"task": "ve", "img": _img(384), "txt": _txt(), "classes": 3},
}
_SHARED = {"name", "size", "task", "img", "txt", "mean", "std", *base.SHARED}
_TAUGHT = {"alpha", "alpha_steps"}
_CONTRAST = {*_TAUGHT, "embed_dim", "queue", "temperature", "bounds", "hard_negatives"}
# Task -> (keys besides the shared ones, of them those that must be there)
TASKS: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "pretrain": ({*_CONTRAST, "mask_id", "mask_rate"}, ("embed_dim",)),
    "retrieval": (_CONTRAST, ("embed_dim",)),
    "vqa": ({*_TAUGHT, "dec"}, ("dec",)),
    "assign": ({"embed_dim", "temperature"}, ()),
    "nlvr2": ({*_TAUGHT, "classes"}, ()),
    "ve": ({*_TAUGHT, "classes"}, ()),
}


def build(config: Mapping[str, Any]) -> nn.Module:
    """The system of a task from a mapping: the keys of `TASKS` and these:

    task *      "pretrain", "retrieval", "vqa", "assign" (before "nlvr2"), "nlvr2" or "ve"
    img *       a ViT; txt *: BERT (systems/base.py); dec * (vqa): BERT with cross_from 0
    embed_dim * width of the shared space; queue: rows of past features, default 65,536
    temperature default 0.07; bounds: default (0.001, 0.5) in pre-training, null in retrieval
    alpha       default 0.4; alpha_steps: steps over which it grows, default 0
    mask_id, mask_rate, hard_negatives, classes, mean, std: see ALBEF and its tasks

    For nlvr2 and assign `txt` counts all layers: those from cross_from on come in pairs, one for each image.

    Raises:
      UserError: unknown or missing keys and values that do not exist.
    """
    config = base.plain(config)
    if (size := config.pop("size", None)) is not None:
        base.check_choice("system albef: size", size, SIZES)
        config = base.override(SIZES[size], config)
    task = str(config.get("task"))
    base.check_choice("system albef: task", task, TASKS)
    keys, required = TASKS[task]
    base.check_keys(f"system albef, task {task}", config, _SHARED | keys, ("img", "txt", *required))
    shared = base.shared_options(config)
    img = base.image_tower("system albef: img", {**IMG, **config["img"]}, features=0, **shared)
    options: dict[str, Any] = {k: config[k] for k in ("alpha", "alpha_steps") if k in config}
    options |= {k: tuple(config[k]) for k in ("mean", "std") if k in config}
    options |= {"dtype": shared["dtype"]}
    if task in ("pretrain", "retrieval"):
        txt = base.bert_tower("system albef: txt", {"lm_head": task == "pretrain", **config["txt"]}, **shared)
        options |= {k: config[k] for k in keys & set(config)}
        tasks = LEARNED if task == "pretrain" else ("itc", "itm")
        options.setdefault("bounds", (0.001, 0.5) if task == "pretrain" else None)
        if options["bounds"] is not None:
            options["bounds"] = tuple(options["bounds"])
        return ALBEF(img=img, txt=txt, tasks=tasks, by_id=task == "retrieval", **options)
    if task == "vqa":
        txt = base.bert_tower("system albef: txt", config["txt"], **shared)
        dec = base.bert_tower("system albef: dec", {"lm_head": True, **config["dec"]}, **shared)
        return ALBEFAnswers(img=img, txt=txt, dec=dec, **options)
    if task == "ve":
        txt = base.bert_tower("system albef: txt", config["txt"], **shared)
        return ALBEFClasses(img=img, txt=txt, classes=config.get("classes", 3), **options)
    txt, twin = _twin(config["txt"], shared)
    if task == "assign":
        return ALBEFAssign(img=img, txt=txt, twin=twin, **options, **{k: config[k] for k in keys & set(config)})
    return ALBEFClasses(img=img, txt=txt, twin=twin, classes=config.get("classes", 2), **options)


def _twin(config: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[Bert, Twin]:
    """The layers below the cross-attention, and the pairs above."""
    whole = base.bert_tower("system albef: txt", config, **shared)
    below = whole.cross_from
    if below is None or (whole.depth - below) % 2:
        raise UserError(
            f"system albef: txt: depth {whole.depth}, cross_from {below}: layers from cross_from on come in pairs"
        )
    txt = base.bert_tower("system albef: txt", {**config, "depth": below, "cross_from": None}, **shared)
    return txt, Twin(whole.block(cross=True), whole.depth - below, whole.remat)
