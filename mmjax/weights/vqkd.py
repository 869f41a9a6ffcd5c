"""VQ-KD's published layout: its table, and its configuration as a system mapping and back.

Source: microsoft/unilm `beit2/` (`VQKD`). The released files hold weights alone; `config.json` has the arguments of
that class, and `layer_norm_eps`. What belongs to the teacher is not part of a tokenizer.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mmjax.weights.config_checks import known, refuse, require
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.layout import Buffer, Row, Table
from mmjax.weights.rows import linear, norm
from mmjax.weights.transforms import CONV, LINEAR, Reshape
from mmjax.weights.vlmo import beit_attention

LAYOUT = "beit2"
_KEYS = {"encoder_config", "decoder_config", "n_embed", "embed_dim", "decay", "decoder_out_dim",
         "quantize_kmeans_init", "layer_norm_eps", "process_type", "rec_loss_type", "teacher_model_type"}  # fmt: skip
_TOWER: dict[str, tuple | None] = {
    "in_chans": None,
    "num_classes": (0,),
    "qkv_bias": (True,),
    "qk_scale": (None,),
    "use_abs_pos_emb": (True,),
    "use_rel_pos_bias": (False,),
    "use_shared_rel_pos_bias": (False,),
    "use_mean_pooling": (True,),
    "init_scale": None,
    "drop_rate": None,
    "attn_drop_rate": None,
}
_SIZES = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "init_values", "drop_path_rate"}
_BLOCKS = {"img": "encoder", "decoder": "decoder"}


def system_from(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping for `systems.build`, every size spelled out.

    Raises:
      UserError: keys that are not known, or a form that mmjax does not compute.
    """
    known(where, config, _KEYS)
    require(where, config, {"process_type": ("default",), "rec_loss_type": ("cosine",)})
    towers = {}
    for ours, theirs in _BLOCKS.items():
        t = config[f"{theirs}_config"]
        known(f"{where}: {theirs}_config", t, _SIZES | set(_TOWER))
        require(f"{where}: {theirs}_config", t, {key: valid for key, valid in _TOWER.items() if valid is not None})
        towers[ours] = {
            "width": t["embed_dim"],
            "depth": t["depth"],
            "heads": t["num_heads"],
            "mlp_dim": round(t["embed_dim"] * t.get("mlp_ratio", 4)),
            "layer_scale": t.get("init_values") or None,
            "drop_path": t.get("drop_path_rate", 0.0),
        }
    e = config["encoder_config"]
    towers["img"] |= {"image_size": e["img_size"], "patch": e["patch_size"]}
    return {
        "name": "vqkd",
        **towers,
        "codes": config["n_embed"],
        "code_dim": config["embed_dim"],
        "decay": config.get("decay", 0.99),
        "kmeans": config.get("quantize_kmeans_init", True),
        "target": config["decoder_out_dim"],
        "eps": config.get("layer_norm_eps", 1e-6),
    }


def config_from(system: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a system.

    Raises:
      UserError: it has a teacher, which this layout has no place for.
    """
    refuse(LAYOUT, ["it has no place for the teacher"] if system.get("teacher") else [])
    img = system["img"]
    sizes = {"img": (img["image_size"], img["patch"], 3),
             "decoder": (img["image_size"] // img["patch"], 1, system["code_dim"])}  # fmt: skip
    towers = {}
    for ours, theirs in _BLOCKS.items():
        t, (size, patch, channels) = system[ours], sizes[ours]
        fixed = {key: valid[0] for key, valid in _TOWER.items() if valid is not None}
        towers[f"{theirs}_config"] = {
            **fixed,
            "img_size": size,
            "patch_size": patch,
            "in_chans": channels,
            "embed_dim": t["width"],
            "depth": t["depth"],
            "num_heads": t["heads"],
            "mlp_ratio": (t.get("mlp_dim") or 4 * t["width"]) / t["width"],
            "init_values": t.get("layer_scale") or 0.0,
            "drop_path_rate": t.get("drop_path", 0.0),
        }
    return {
        **towers,
        "n_embed": system["codes"],
        "embed_dim": system["code_dim"],
        "decay": system.get("decay", 0.99),
        "quantize_kmeans_init": system.get("kmeans", True),
        "decoder_out_dim": system["target"],
        "layer_norm_eps": system.get("eps", 1e-6),
    }


def _tower(ours: str, theirs: str, system: Mapping[str, Any], rows: int) -> list[Row]:
    t, (old, new) = system[ours], (f"{theirs}.blocks", f"{ours}/transformer/block")
    D, found = t["width"], [
        *linear(f"{theirs}.patch_embed.proj", f"{ours}/patch", CONV),
        Row(f"{theirs}.cls_token", f"{ours}/cls", Reshape((1, 1, t["width"]), (t["width"],))),
    ]  # fmt: skip
    found.append(Row(f"{theirs}.pos_embed", f"{ours}/pos", Reshape((1, rows, D), (rows, D))))
    for i in range(t["depth"]):
        found += norm(f"{old}.{i}.norm1", f"{new}_{i}/norm1") + norm(f"{old}.{i}.norm2", f"{new}_{i}/norm2")
        found += beit_attention(f"{old}.{i}.attn", f"{new}_{i}/attn")
        found += linear(f"{old}.{i}.mlp.fc1", f"{new}_{i}/mlp/fc1") + linear(f"{old}.{i}.mlp.fc2", f"{new}_{i}/mlp/fc2")
        if t.get("layer_scale"):
            found += [Row(f"{old}.{i}.gamma_{n}", f"{new}_{i}/scale{n}") for n in (1, 2)]
    return found


def vqkd_table(system: Mapping[str, Any], _origin: Origin | None = None) -> Table:
    """The table of a VQ-KD of this size."""
    rows = (system["img"]["image_size"] // system["img"]["patch"]) ** 2 + 1
    K, H, book = system["codes"], system["code_dim"], "codebook"
    found = [
        *_tower("img", "encoder", system, rows),
        *norm("encoder.fc_norm", "norm"),
        *linear("encode_task_layer.0", "encode_head"),
        *linear("encode_task_layer.2", "quantize", LINEAR),
        Row("quantize.embedding.weight", "quantize/vectors", collection=book),
        Row("quantize.cluster_size", "quantize/usage", collection=book),
        Row("quantize.embedding.initted", "quantize/ready", Reshape((1,), ()), collection=book),
        *_tower("decoder", "decoder", system, rows),
        *norm("decoder.fc_norm", "decoder_norm"),
        *linear("decode_task_layer.0", "decode_head"),
        *linear("decode_task_layer.2", "decode_out"),
    ]
    why = "a sum that the published code keeps and does not use"
    buffers = (
        Buffer("quantize.embedding.cluster_size", why, np.zeros(K, np.float32), fixed=False, always=True),
        Buffer("quantize.embedding.embed_avg", why, np.zeros((K, H), np.float32), fixed=False, always=True),
    )
    return Table(LAYOUT, tuple(found), buffers)


def _recognise(published: Published) -> tuple[dict[str, Any], Origin] | None:
    config = published.config
    if config is None or not {"encoder_config", "decoder_config", "n_embed"} <= set(config):
        return None
    return system_from(config, published.where), Origin(LAYOUT, config)


def _target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, _eos_id: int | None, _paths: Collection[str]
) -> Origin:
    config = config_from(system)
    if origin and origin.layout == layout and system_from(origin.config, "config") == system_from(config, "config"):
        config = origin.config
    return Origin(layout, config)


FAMILY = Family((LAYOUT,), _recognise, vqkd_table, _target)
