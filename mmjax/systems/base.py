"""From a plain mapping to a system: the keys that a config may hold, checked by name.

`mmjax.systems.build(config)` reads `config["name"]` and hands the rest to that system's builder. Every key is optional
unless marked *; `size` gives all of them at once (the published sizes), and what stands beside it overrides it.

    build({"name": "clip", "size": "vit_b_32"})
    build({"name": "clip", "size": "vit_b_32", "embed_dim": 256, "img": {"image_size": 64, "patch": 8}})

name "clip":
  size         one of CLIP's SIZES: rn50 rn101 rn50x4 rn50x16 rn50x64 vit_b_32 vit_b_16 vit_l_14 vit_l_14_336
  embed_dim *  width E of the shared space
  img *, txt * the two towers, below
  loss         "softmax" (default) or "sigmoid" (adds the parameter logit_bias)
  loss_form    "plain" (default), "blocked" or "ring": how the batch-by-batch logits are computed; same values
  loss_block   rows of a block when blocked
  scale_init   initial similarity scale, default 1 / 0.07; kept as its logarithm
  scale_max    upper bound of the scale, default 100; null leaves it free
  bias_init    initial logit_bias of the sigmoid loss, default -10
  mean, std    per-channel normalisation of images in [0, 1], default CLIP's
  dtype        computation: "auto" (default: float32 on CPU, bfloat16 on accelerators), "float32" or "bfloat16"
  scan, remat  for both towers unless a tower says otherwise: true scans stacked layers; remat is null, "full", "dots"

img, kind "vit" (the default kind):
  image_size *, patch *, width *, depth *, heads *
  mlp_dim      default 4 * width
  act          "quick_gelu" (default), "gelu" (erf), "gelu_tanh", "relu", "silu"
  eps          of every layer norm, default 1e-5
  patch_bias   default false; patch_stride: default patch
  cls          class token, default true; pool: "cls" (default), "mean" or "none"
  norm_pre     layer norm before the blocks, default true
  norm_post    "pooled" (default: after pooling), "all" (on all tokens) or "none"
  q_bias, k_bias, v_bias, out_bias   default true
  layer_scale  initial value, default null: none
  drop_path, dropout, patch_drop     rates, default 0
  scan, remat

img, kind "resnet":
  image_size *, layers * (four counts), width * (of the stem), heads (default 32 * width / 64)

txt:
  vocab *, length *, width *, depth *, heads *
  mlp_dim (default 4 * width), act (default "quick_gelu"), eps (default 1e-5), dropout, scan, remat
"""

from collections.abc import Collection, Mapping
from typing import Any

from mmjax.core.errors import UserError


def plain(config: Any) -> dict[str, Any]:
    """A mapping (or an ml_collections ConfigDict) as nested plain dictionaries."""
    return {k: plain(v) if hasattr(v, "items") else v for k, v in config.items()}


def check_keys(where: str, config: Mapping[str, Any], valid: Collection[str], required: Collection[str] = ()) -> None:
    """Raises UserError for an unknown or a missing key; the message lists the valid ones."""
    unknown = sorted(set(config) - set(valid))
    if unknown:
        raise UserError(f"{where}: unknown key {', '.join(unknown)}; valid keys: {', '.join(sorted(valid))}")
    missing = sorted(set(required) - set(config))
    if missing:
        raise UserError(f"{where}: missing key {', '.join(missing)}; given: {', '.join(sorted(config))}")


def check_choice(where: str, value: Any, valid: Collection[Any]) -> None:
    """Raises UserError unless the value is one of the valid ones."""
    if value not in valid:
        raise UserError(f"{where}: {value!r} is not one of {', '.join(map(repr, valid))}")


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `override` laid over it, mapping by mapping."""
    out = dict(base)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out
