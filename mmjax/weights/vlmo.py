"""VLMo's published layout: its table, and its configuration as a system mapping and back.

Source: microsoft/unilm `vlmo/`. The released files hold weights alone; `config.json` has the keys of the repository's
configuration, and the sizes that stand in its code under "transformer".
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights.config_checks import known, refuse
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.layout import Buffer, Row, Table
from mmjax.weights.rows import linear, norm
from mmjax.weights.transforms import CONV, LINEAR, QKV_KERNEL, Reshape

LAYOUT = "vlmo"
MASK = 103  # [MASK] of BERT's vocabulary, which the configuration does not name
_TASKS = {"mlm": "mlm", "textmlm": "mlm", "itc": "itc", "itm": "itm", "irtr": "retrieval", "vqa": "vqa",
          "nlvr2": "nlvr2"}  # fmt: skip
_KEYS = {"image_size", "drop_path_rate", "max_text_len", "max_text_len_of_initckpt", "vocab_size", "vqav2_label_size",
         "loss_names", "transformer"}  # fmt: skip
_SIZES = {"patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "vlffn_start_layer_index", "use_abs_pos_emb",
          "need_relative_position_embed", "layer_scale_init_values"}  # fmt: skip


def system_from(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping for `systems.build`, every size spelled out.

    Raises:
      UserError: keys that are missing or not known, or a form that mmjax does not compute.
    """
    known(where, config, _KEYS)
    t = config["transformer"]
    known(f"{where}: transformer", t, _SIZES)
    losses = {name for name, weight in config["loss_names"].items() if weight}
    if unknown := sorted(losses - set(_TASKS)):
        raise UserError(f"{where}: loss_names {unknown} are not supported; supported: {', '.join(_TASKS)}")
    if t["use_abs_pos_emb"] == t["need_relative_position_embed"]:
        both = t["use_abs_pos_emb"]
        raise UserError(f"{where}: use_abs_pos_emb and need_relative_position_embed are both {both}; one is true")
    depth, width = t["depth"], t["embed_dim"]
    texts = {"relative": config["max_text_len_of_initckpt"]} if t["need_relative_position_embed"] else {}
    return {
        "name": "vlmo",
        "tasks": sorted({_TASKS[name] for name in losses}),
        "width": width,
        "depth": depth,
        "heads": t["num_heads"],
        "mlp_dim": round(width * t["mlp_ratio"]),
        # The text stage has no expert for fused sequences.
        "top": 0 if "textmlm" in losses else max(depth - t["vlffn_start_layer_index"], 0),
        "positions": "relative" if t["need_relative_position_embed"] else "absolute",
        "layer_scale": t["layer_scale_init_values"],
        "drop_path": config.get("drop_path_rate", 0.0),
        "img": {"image_size": config["image_size"], "patch": t["patch_size"]},
        "txt": {
            "vocab": config["vocab_size"],
            "length": config["max_text_len"],
            "mask_id": min(MASK, config["vocab_size"] - 1),
            **texts,
        },
        "answers": config.get("vqav2_label_size", 3129),
    }


def config_from(system: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a system.

    Raises:
      UserError: it has a task that this layout has no place for.
    """
    names = {task: name for name, task in _TASKS.items() if name != "textmlm"}
    refuse(LAYOUT, [f"it has no task {task!r}" for task in system["tasks"] if task not in names])
    relative, depth, txt = system.get("positions", "relative") == "relative", system["depth"], system["txt"]
    alone = list(system["tasks"]) == ["mlm"] and not system.get("top", 0)
    losses = {name: int(not alone and _TASKS[name] in system["tasks"]) for name in _TASKS}
    mlp = system.get("mlp_dim") or 4 * system["width"]
    return {
        "image_size": system["img"]["image_size"],
        "drop_path_rate": system.get("drop_path", 0.0),
        "max_text_len": txt["length"],
        "max_text_len_of_initckpt": txt.get("relative", txt["length"]),
        "vocab_size": txt["vocab"],
        "vqav2_label_size": system.get("answers", 3129),
        "loss_names": {**losses, "textmlm": int(alone)},
        "transformer": {
            "patch_size": system["img"]["patch"],
            "embed_dim": system["width"],
            "depth": depth,
            "num_heads": system["heads"],
            "mlp_ratio": mlp / system["width"],
            "vlffn_start_layer_index": depth - system.get("top", 0),
            "use_abs_pos_emb": not relative,
            "need_relative_position_embed": relative,
            "layer_scale_init_values": system.get("layer_scale"),
        },
    }


def beit_attention(old: str, new: str) -> tuple[Row, ...]:
    """BEiT's attention: one matrix for q, k, v, biases of q and v alone."""
    return (
        Row(f"{old}.qkv.weight", tuple(f"{new}/{part}/kernel" for part in "qkv"), QKV_KERNEL),
        Row(f"{old}.q_bias", f"{new}/q/bias"),
        Row(f"{old}.v_bias", f"{new}/v/bias"),
        *linear(f"{old}.proj", f"{new}/out"),
    )


def _blocks(system: Mapping[str, Any]) -> list[Row]:
    low, rows = system["depth"] - system.get("top", 0), []
    for i in range(system["depth"]):
        old, new = f"transformer.blocks.{i}", f"fusion/low/block_{i}" if i < low else f"fusion/top/block_{i - low}"
        rows += [*norm(f"{old}.norm1", f"{new}/norm1"), *beit_attention(f"{old}.attn", f"{new}/attn")]
        if system.get("layer_scale") is not None:
            rows += [Row(f"{old}.gamma_{n}", f"{new}/scale{n}") for n in (1, 2)]
        for theirs, ours in (("text", "txt"), ("imag", "img"), *((("vl", "vl"),) if i >= low else ())):
            rows += norm(f"{old}.norm2_{theirs}", f"{new}/norm2_{ours}")
            rows += linear(f"{old}.mlp_{theirs}.fc1", f"{new}/mlp_{ours}/fc1")
            rows += linear(f"{old}.mlp_{theirs}.fc2", f"{new}/mlp_{ours}/fc2")
    return rows


def _classifier(old: str, new: str) -> tuple[Row, ...]:
    return (*linear(f"{old}.0", f"{new}/fc1"), *norm(f"{old}.1", f"{new}/norm"), *linear(f"{old}.3", f"{new}/fc2"))


def _heads(tasks: Collection[str]) -> list[Row]:
    rows: list[Row] = []
    if "mlm" in tasks:
        rows += linear("mlm_score.transform.dense", "word/dense")
        rows += norm("mlm_score.transform.LayerNorm", "word/norm")
        rows += [Row("mlm_score.decoder.weight", "words/kernel", LINEAR), Row("mlm_score.bias", "words/bias")]
    if "itm" in tasks:
        rows += linear("itm_score.fc", "itm")
    if {"itc", "retrieval"} & set(tasks):
        rows += [Row(f"itc_{old}_proj.fc.weight", f"{new}_proj/kernel", LINEAR)
                 for old, new in (("image", "img"), ("text", "txt"))]  # fmt: skip
        rows.append(Row("logit_scale", "log_scale"))
    if "itc" in tasks:
        rows += [Row(f"itc_vl_{old}_proj.fc.weight", f"{new}_vl_proj/kernel", LINEAR)
                 for old, new in (("image", "img"), ("text", "txt"))]  # fmt: skip
        rows.append(Row("logit_vl_scale", "log_vl_scale"))
    if "vqa" in tasks:
        rows += _classifier("vqa_classifier", "answer_head")
    if "nlvr2" in tasks:
        rows += _classifier("nlvr2_classifier", "pair_head")
    return rows


def vlmo_table(system: Mapping[str, Any], _origin: Origin | None = None) -> Table:
    """The table of a VLMo of this size and these tasks."""
    D, img, txt = system["width"], system["img"], system["txt"]
    patches = (img["image_size"] // img["patch"]) ** 2
    rows = [
        *linear("transformer.patch_embed.proj", "img/patch", CONV),
        Row("transformer.cls_token", "img/cls", Reshape((1, 1, D), (D,))),
        *_blocks(system),
        *norm("transformer.norm", "fusion/norm_final"),
        Row("text_embeddings.word_embeddings.weight", "txt/embed/embedding"),
        Row("text_embeddings.position_embeddings.weight", "txt/pos"),
        Row("text_embeddings.token_type_embeddings.weight", "txt/types"),
        *norm("text_embeddings.LayerNorm", "txt/norm"),
        Row("token_type_embeddings.weight", "types"),
        *linear("pooler.dense", "pooler"),
        *_heads(system["tasks"]),
    ]
    if system.get("positions", "relative") == "relative":
        rows.append(Row("relative_position_bias_table", "bias/table"))
    else:
        rows.append(Row("transformer.pos_embed", "img/pos", Reshape((1, patches + 1, D), (patches + 1, D))))
    index = "rows of the relative positions, which follow from the sizes"
    buffers = [Buffer("text_embeddings.position_ids", "positions counted from 0", np.arange(txt["length"])[None])]
    for name in ("relative_position_index", "text_relative_position_index", "text_imag_relative_position_index"):
        buffers.append(Buffer(name, index, np.zeros((0, 0), np.int64), fixed=False))
    return Table(LAYOUT, tuple(rows), tuple(buffers))


def _recognise(published: Published) -> tuple[dict[str, Any], Origin] | None:
    config = published.config
    if config is None or not {"loss_names", "transformer", "max_text_len"} <= set(config):
        return None
    return system_from(config, published.where), Origin(LAYOUT, config)


def _target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, _eos_id: int | None, _paths: Collection[str]
) -> Origin:
    config = config_from(system)
    if origin and origin.layout == layout and system_from(origin.config, "config") == system_from(config, "config"):
        config = origin.config
    return Origin(layout, config)


FAMILY = Family((LAYOUT,), _recognise, vlmo_table, _target)
