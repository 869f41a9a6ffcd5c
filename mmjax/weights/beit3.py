"""BEiT-3's published layout: its table, and its configuration as a system mapping and back.

Source: microsoft/torchscale `BEiT3` with the heads of microsoft/unilm `beit3/`. The released files hold weights alone;
`config.json` has the arguments of torchscale's `EncoderConfig`, and `num_classes` or `image_codes`. Which task a
checkpoint is for, its heads tell.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights.config_checks import known, refuse, require
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.layout import Buffer, Row, Table
from mmjax.weights.rows import linear, norm
from mmjax.weights.transforms import CONV, LINEAR, Reshape

LAYOUT = "torchscale"
UNUSED = 2  # torchscale counts positions from 2
# A tensor that only the heads of this task have -> the task.
_SIGNS = {"mim_head.weight": "mdm", "mlm_head.weight": "caption", "vision_head.weight": "retrieval",
          "pooler.dense.weight": "vqa", "head.dense1.weight": "nlvr2", "fc_norm.weight": "classify"}  # fmt: skip
_KEYS = {"img_size", "patch_size", "vocab_size", "multiway", "layernorm_embedding", "normalize_output",
         "no_output_layer", "drop_path_rate", "encoder_embed_dim", "encoder_attention_heads", "encoder_ffn_embed_dim",
         "encoder_layers", "max_source_positions", "num_classes", "image_codes", "in_chans", "dropout",
         "attention_dropout", "activation_dropout", "activation_fn", "encoder_normalize_before", "subln",
         "checkpoint_activations", "mask_ratio"}  # fmt: skip
_FIXED = {"multiway": (True,), "layernorm_embedding": (False,), "no_output_layer": (True,), "in_chans": (3,),
          "activation_fn": ("gelu",), "encoder_normalize_before": (True,), "subln": (True,)}  # fmt: skip


def system_from(config: Mapping[str, Any], task: str | None, where: str) -> dict[str, Any]:
    """The mapping for `systems.build`, every size spelled out.

    Raises:
      UserError: keys that are not known, or a form that mmjax does not compute.
    """
    known(where, config, _KEYS)
    require(where, config, _FIXED)
    classes = {"num_classes": "classes", "image_codes": "codes"}
    return {
        "name": "beit3",
        "tasks": [] if task is None else [task],
        "width": config["encoder_embed_dim"],
        "depth": config["encoder_layers"],
        "heads": config["encoder_attention_heads"],
        "mlp_dim": config["encoder_ffn_embed_dim"],
        "norm_final": config["normalize_output"],
        "drop_path": config.get("drop_path_rate", 0.0),
        "img": {"image_size": config["img_size"], "patch": config["patch_size"]},
        "txt": {
            "vocab": config["vocab_size"],
            "length": config["max_source_positions"] - UNUSED,
            # The released models' vocabulary is padded: their tokenizer has 64,002 ids, of which this is the last.
            "mask_id": 64_001 if config["vocab_size"] == 64_010 else config["vocab_size"] - 1,
        },
        **{ours: config[theirs] for theirs, ours in classes.items() if theirs in config},
    }


def config_from(system: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a system.

    Raises:
      UserError: this layout cannot hold it.
    """
    refuse(LAYOUT, ["its attention is shared"] if system.get("shared") else [])
    refuse(LAYOUT, ["it has an expert for fused sequences"] if system.get("top") else [])
    refuse(LAYOUT, ["it has no layer scale"] if system.get("layer_scale") is not None else [])
    tasks, width = list(system.get("tasks", ())), system["width"]
    refuse(LAYOUT, [f"it has one task, not {tasks}"] if len(tasks) > 1 else [])
    task = tasks[0] if tasks else None
    numbers = {"vqa": ("num_classes", "classes", 3129), "classify": ("num_classes", "classes", 3129),
               "mdm": ("image_codes", "codes", 8192)}  # fmt: skip
    extra = {"num_classes": 2} if task == "nlvr2" else {}
    if task in numbers:
        theirs, ours, usual = numbers[task]
        extra = {theirs: system.get(ours, usual)}
    return {
        "img_size": system["img"]["image_size"],
        "patch_size": system["img"]["patch"],
        "vocab_size": system["txt"]["vocab"],
        "multiway": True,
        "layernorm_embedding": False,
        "normalize_output": system.get("norm_final", task not in ("vqa", "classify")),
        "no_output_layer": True,
        "drop_path_rate": system.get("drop_path", 0.0),
        "encoder_embed_dim": width,
        "encoder_attention_heads": system["heads"],
        "encoder_ffn_embed_dim": system.get("mlp_dim") or 4 * width,
        "encoder_layers": system["depth"],
        "max_source_positions": system["txt"]["length"] + UNUSED,
        **extra,
    }


def _blocks(expert: str, ours: str) -> tuple[Row, ...]:
    old, new = "beit3.encoder.layers.{i}", "fusion/low/block_{i}"
    rows = [*norm(f"{old}.self_attn_layer_norm.{expert}", f"{new}/norm1_{ours}")]
    for part in ("q", "k", "v", "out"):
        rows += linear(f"{old}.self_attn.{part}_proj.{expert}", f"{new}/attn/{part}_{ours}")
    rows += norm(f"{old}.self_attn.inner_attn_ln.{expert}", f"{new}/attn/norm_inner_{ours}")
    rows += norm(f"{old}.final_layer_norm.{expert}", f"{new}/norm2_{ours}")
    for theirs, name in (("fc1", "fc1"), ("fc2", "fc2")):
        rows += linear(f"{old}.ffn.{expert}.{theirs}", f"{new}/mlp_{ours}/{name}")
    rows += norm(f"{old}.ffn.{expert}.ffn_layernorm", f"{new}/mlp_{ours}/norm_inner")
    return tuple(rows)


def _heads(task: str | None) -> tuple[Row, ...]:
    words = linear("mlm_head", "words")
    rows: dict[str | None, tuple[Row, ...]] = {
        None: (),
        "mdm": (*words, *linear("mim_head", "patches")),
        "caption": words,
        "retrieval": (
            Row("vision_head.weight", "img_proj/kernel", LINEAR),
            Row("language_head.weight", "txt_proj/kernel", LINEAR),
            Row("logit_scale", "log_scale"),
        ),
        "vqa": (
            *norm("pooler.norm", "pool_norm"),
            *linear("pooler.dense", "pooler"),
            *linear("head.0", "answer_head/fc1"),
            *norm("head.1", "answer_head/norm"),
            *linear("head.3", "answer_head/fc2"),
        ),
        "nlvr2": (
            *norm("head.norm1", "pair_head/norm_in"),
            *linear("head.dense1", "pair_head/fc1"),
            *norm("head.norm2", "pair_head/norm"),
            *linear("head.dense2", "pair_head/fc2"),
        ),
        "classify": (*norm("fc_norm", "class_norm"), *linear("head", "class_head")),
    }
    return rows[task]


def beit3_table(system: Mapping[str, Any], _origin: Origin | None = None) -> Table:
    """The table of a BEiT-3 of this size and task."""
    D, tasks = system["width"], list(system.get("tasks", ()))
    task = tasks[0] if tasks else None
    final = system.get("norm_final", task not in ("vqa", "classify"))
    experts = (("A", "img"), ("B", "txt"))
    rows = [
        *linear("beit3.vision_embed.proj", "img/patch", CONV),
        Row("beit3.vision_embed.cls_token", "img/cls", Reshape((1, 1, D), (D,))),
        Row("beit3.vision_embed.mask_token", "img/mask", Reshape((1, 1, D), (D,))),
        Row("beit3.text_embed.weight", "txt/embed/embedding"),
        Row("beit3.encoder.embed_positions.A.weight", "img/pos"),
        Row("beit3.encoder.embed_positions.B.weight", "txt/pos"),
        *(row for theirs, ours in experts for row in _blocks(theirs, ours)),
        *_heads(task),
    ]
    if final:
        for theirs, ours in experts:
            rows += norm(f"beit3.encoder.layer_norm.{theirs}", f"fusion/norm_final_{ours}")
    version = Buffer("beit3.encoder.version", "the version of the library's format", np.array([3.0]), fixed=False)
    return Table(LAYOUT, tuple(rows), (version,), {"i": system["depth"]})


def _recognise(published: Published) -> tuple[dict[str, Any], Origin] | None:
    config = published.config
    if config is None or not {"encoder_embed_dim", "encoder_layers", "multiway"} <= set(config):
        return None
    keys = set(published.tensors.keys())
    if "beit3.text_embed.weight" not in keys:
        raise UserError(f"{published.where}: a configuration of torchscale, but the weights are not BEiT-3's")
    task = next((task for sign, task in _SIGNS.items() if sign in keys), None)
    return system_from(config, task, published.where), Origin(LAYOUT, config)


def _target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, _eos_id: int | None, _paths: Collection[str]
) -> Origin:
    config, tasks = config_from(system), list(system.get("tasks", ()))
    task = tasks[0] if tasks else None
    if origin and origin.layout == layout:
        then, now = (system_from(each, task, "config") for each in (origin.config, config))
        config = origin.config if then == now else config
    return Origin(layout, config)


FAMILY = Family((LAYOUT,), _recognise, beit3_table, _target)
