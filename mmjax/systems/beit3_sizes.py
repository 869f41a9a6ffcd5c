"""BEiT-3's stages and sizes, and from a mapping to a system."""

from collections.abc import Mapping
from typing import Any

from mmjax.encoders.tokens import UNUSED, ImageTokens, WordTokens
from mmjax.fusion.multiway import Multiway
from mmjax.nn.dense import normal
from mmjax.nn.transformer import BlockSpec
from mmjax.systems import base, stacks, vqkd
from mmjax.systems.beit3 import EPS, RATES, TARGETS, TASKS, BEiT3

STAGES: dict[str, tuple[str, ...]] = {"pretrain": ("(?!tokenizer/).*",), "finetune": (".*",)}
"""What trains: everything but the image tokenizer."""


def _size(width: int, depth: int, heads: int, **other: Any) -> dict[str, Any]:
    texts = {"vocab": 64_010, "length": 1022, "mask_id": 64_001}
    size = {"width": width, "depth": depth, "heads": heads, "img": {"image_size": 224, "patch": 16}, "txt": texts}
    return {"tasks": ("mdm",), **size, **other}


SIZES: dict[str, dict[str, Any]] = {
    "base": _size(768, 12, 12),
    "large": _size(1024, 24, 16),
    "giant": _size(1408, 40, 16, mlp_dim=6144, top=3, shared=True, img={"image_size": 224, "patch": 14}),
}
"""Base and large as released, every module of an expert its own; the paper's giant (table 2), with one attention for
all and an expert for fused sequences in its last three blocks."""


def build(config: Mapping[str, Any]) -> BEiT3:
    """A BEiT-3 from a mapping; its keys are listed in systems/stacks.py.

    Raises:
      UserError: unknown or missing keys and values that do not exist; the message lists the valid ones.
    """
    config, where = stacks.sized("beit3", config, SIZES), "system beit3"
    options = {"codes", "target", "classes", "rates", "smoothing", "begin_id", "end_ids"}
    base.check_keys(where, config, {"name", *stacks.STACK, "top", "shared", "norm_final", "tasks", "tokenizer", "img",
                                    "txt", *options}, required=("width", "depth", "heads", "img", "txt"))  # fmt: skip
    tasks = config.get("tasks", ())
    if tasks:
        stacks.check_tasks(where, tasks, TASKS)
    base.check_choice(f"{where}: target", config.get("target", TARGETS[0]), TARGETS)
    img, txt, top, D = config["img"], config["txt"], config.get("top", 0), config["width"]
    base.check_keys(f"{where}: img", img, ("image_size", "patch"), ("image_size", "patch"))
    base.check_keys(f"{where}: txt", txt, ("vocab", "length", "mask_id"), ("vocab", "length", "mask_id"))
    base.check_keys(f"{where}: rates", config.get("rates", {}), RATES)
    fields, shared = stacks.stack_options(where, config)
    spec = BlockSpec(**fields, act="gelu", eps=EPS, sub_norm=True, separate=not config.get("shared", False))
    tokenizer, start = config.get("tokenizer"), normal(config.get("init_std", 0.02))
    final = config.get("norm_final", not {"vqa", "classify"} & set(tasks))  # whose heads have a norm of their own
    chosen: dict[str, Any] = {
        key: tuple(config[key]) if key == "end_ids" else config[key] for key in options if key in config
    }
    return BEiT3(
        img=ImageTokens(img["image_size"], img["patch"], D, unused=UNUSED, maskable=True, init=start, dtype=spec.dtype),
        txt=WordTokens(txt["vocab"], txt["length"], D, start, spec.dtype),
        fusion=Multiway(spec, config["depth"] - top, top, norm_final=final, **shared),
        tasks=tuple(tasks),
        mask_id=txt["mask_id"],
        tokenizer=None if tokenizer is None else vqkd.build({"name": "vqkd", **tokenizer}),
        dtype=spec.dtype,
        **chosen,
    )
