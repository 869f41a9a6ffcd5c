"""From a plain mapping to a system: the keys that a config may hold, checked by name.

`mmjax.systems.build(config)` reads `config["name"]` and hands the rest to that system's builder. Every key is optional
unless marked *; `size` gives all of them at once (the published sizes), and what stands beside it overrides it.

    build({"name": "clip", "size": "vit_b32"})
    build({"name": "clip", "size": "vit_b32", "embed_dim": 256, "img": {"image_size": 64, "patch": 8}})

name "clip":
  size         one of CLIP's SIZES: rn50 rn101 rn50x4 rn50x16 rn50x64 vit_b32 vit_b16 vit_l14 vit_l14_336, or
               SigLIP's: siglip_b_16_224 _256 _384 _512, siglip_l_16_256 _384, siglip_so400m_14_224 _384
  embed_dim *  width E of the shared space
  img *, txt * the two towers, below
  loss         "softmax" (default) or "sigmoid" (adds the parameter logit_bias)
  loss_form    "plain" (default), "blocked" or "ring": how the batch-by-batch logits are computed; same values
  loss_block   rows of a block when blocked
  project_img  whether a linear map takes the image tower's pooled state to E; default true for a ViT (SigLIP: false)
  txt_bias     whether the text tower's map to E has a bias, default false (SigLIP: true)
  scale_init   initial similarity scale, default 1 / 0.07; kept as its logarithm
  scale_max    upper bound of the scale, default 100; null leaves it free
  bias_init    initial logit_bias of the sigmoid loss, default -10
  mean, std    per-channel normalisation of images in [0, 1], default CLIP's
  dtype        computation: "auto" (default: float32 on CPU, bfloat16 on accelerators), "float32" or "bfloat16"
  scan         true scans stacked layers (transformers only), for both towers unless a tower says otherwise
  remat        what a block keeps for the backward pass: null (everything), "full" (its input), "dots"; likewise
  attention    "xla" (default) or "cudnn": NVIDIA's fused attention, for bfloat16 on a GPU; likewise

img, kind "vit" (the default kind):
  image_size *, patch *, width *, depth *, heads *
  mlp_dim      default 4 * width
  act          "quick_gelu" (default), "gelu" (erf), "gelu_tanh", "relu", "silu"
  eps          of every layer norm, default 1e-5
  patch_bias   default false; patch_stride: default patch
  cls          class token, default true; pool: "cls" (default), "mean", "flat", "map" (attention) or "none"
  crop_edge    default false: an image that does not divide into patches is an error; true leaves out what is beyond
  norm_pre     layer norm before the blocks, default true
  norm_post    "pooled" (default: after pooling), "all" (on all tokens) or "none"
  q_bias, k_bias, v_bias, out_bias   default true
  layer_scale  initial value, default null: none
  drop_path, dropout, patch_drop     rates, default 0
  scan, remat, attention

img, kind "resnet":
  image_size *, layers * (four counts), width * (of the stem), heads (default 32 * width / 64), remat

txt:
  vocab *, length *, width *, depth *, heads *
  mlp_dim (default 4 * width), act (default "quick_gelu"), eps (default 1e-5), dropout, scan, remat, attention
  causal (default true), mask_padding (default false), pool ("end" (default: the end token), "last" or "cls"),
  cls_shift (default false), layer_scale (default null)

BERT, the text towers of "albef" (systems/albef_sizes.py) and "blip" (systems/blip_sizes.py: types 0, cross_from 0):
  vocab *, length * (positions), width *, depth *, heads *
  mlp_dim (default 4 * width), act (default "gelu"), eps (default 1e-12), types (rows of token types, default 2)
  cross_from   first layer with cross-attention, default null: none
  lm_head      a head for words, default false but where the task needs it
  init_std     of the layers' weights at the start, default 0.02; for a width D far below 768, about D^-1/2
  dropout, attn_dropout (default 0), scan, remat, attention

name "vit" (mean, std, img: what ALBEF and BLIP take) and "bert": one tower, which others begin with; they do not train:
  img *, or txt *: BERT; dtype, scan, remat, attention

name "language": llm *, end_ids (default [2]), loss_chunk (default 0; see "llava"), dtype, scan, remat, attention; size:
  one of decoders/llama.SIZES

name "llava":
  size         one of systems/llava.SIZES: v1_7b v1_13b v1_5_7b v1_5_13b next_vicuna_7b next_vicuna_13b next_mistral_7b
               next_yi_34b next_llama3_8b
  img *        a ViT, above, with taps: after how many blocks its states are read, default [-2]
  keep_cls     whether the class token's states stay, default false
  layers       of the projector, default 2; act (default "gelu"), bias (default true)
  newline      a learned state ends each row of a picture's features, default false
  loss_chunk   places whose logits the loss takes at a time, default 0: all
  llm *, end_ids, mean, std, dtype, scan, remat, attention

llm:
  size         one of decoders/llama.SIZES
  vocab *, width *, depth *, heads *, mlp_dim *
  kv_heads (default heads), head_dim (default width / heads), act (default "silu"), eps (default 1e-5)
  theta (default 10000), rope_scaling (mapping: kind "linear" or "llama3", factor, low, high, length), window
  qkv_bias, out_bias, mlp_bias, tied   default false
  init_std     of kernels and embedding before training, default 0.02
  lora         mapping: rank *, alpha *, dropout (default 0), maps (default q k v out gate fc1 fc2): adapters `…_lora`
  int8         the blocks' kernels are whole numbers, as `mmjax convert --int8` writes them, default false
"""

from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.core.errors import UserError
from mmjax.core.precision import compute_dtype
from mmjax.encoders.bert import Bert
from mmjax.encoders.resnet import ModifiedResNet
from mmjax.encoders.text import POOLS as TEXT_POOLS
from mmjax.encoders.text import TextTransformer
from mmjax.encoders.vit import POOLS, POSTS, ViT
from mmjax.nn.attention import KERNELS
from mmjax.nn.dense import normal_init
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.transformer import REMAT

MATCHING_NEEDS = {"itm": "itc"}  # task -> the task without which it trains nothing: negatives are drawn by contrast
SHARED = {"dtype", "scan", "remat", "attention"}
"""Keys of `shared_options`."""
_SHARED = SHARED - {"dtype"}
_VIT = {"kind", "image_size", "patch", "width", "depth", "heads", "mlp_dim", "act", "eps", "patch_bias", "patch_stride",
        "cls", "pool", "norm_pre", "norm_post", "q_bias", "k_bias", "v_bias", "out_bias", "layer_scale", "drop_path",
        "dropout", "patch_drop", "crop_edge", "taps", *_SHARED}  # fmt: skip
_RESNET = {"kind", "image_size", "layers", "width", "heads", "remat"}
_TEXT = {"vocab", "length", "width", "depth", "heads", "mlp_dim", "act", "eps", "dropout", "causal", "mask_padding",
         "pool", "cls_shift", "layer_scale", *_SHARED}  # fmt: skip
_BERT = {"vocab", "length", "width", "depth", "heads", "mlp_dim", "act", "eps", "types", "cross_from", "lm_head",
         "dropout", "attn_dropout", "init_std", *_SHARED}  # fmt: skip
_CHOICES = {"act": tuple(ACTIVATIONS), "remat": tuple(REMAT), "norm_post": POSTS, "attention": KERNELS}
_POOLS = {True: TEXT_POOLS, False: POOLS}  # whether it is the text tower


def grown(value: float, steps: int, done: Any) -> Any:
    """A weight that grows linearly from 0 over its first `steps` steps; `done`: steps so far, None: all of them."""
    return value if done is None or not steps else value * jnp.minimum(1.0, done / steps)


def example(rows: int, image_size: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of images with texts (data/example.py)."""
    return {
        "image": jax.ShapeDtypeStruct((rows, image_size, image_size, 3), jnp.uint8),
        "ids": jax.ShapeDtypeStruct((rows, length), jnp.int32),
        "valid": jax.ShapeDtypeStruct((rows, length), jnp.bool_),
    }


def answers_example(rows: int, image_size: int, length: int, positions: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The same of questions in `ids`, each with one answer, for a decoder of so many positions."""
    shape = (rows, 1, min(8, positions))
    return {
        **example(rows, image_size, length),
        "answer_ids": jax.ShapeDtypeStruct(shape, jnp.int32),
        "answer_valid": jax.ShapeDtypeStruct(shape, jnp.bool_),
        "answer_weight": jax.ShapeDtypeStruct(shape[:2], jnp.float32),
    }


def picture_ids(batch: Mapping[str, Any]) -> jax.Array:
    """int32[B], what the pictures of a batch show: `image_id`, or else `index`, the example's number.

    Raises:
      UserError: the batch has neither.
    """
    ids = batch.get("image_id", batch.get("index"))
    if ids is None:
        raise UserError("pairs of one picture are positives of each other: the batch needs image_id, or index")
    return jnp.asarray(ids, jnp.int32)


def stream_key(module: nn.Module, stream: str) -> jax.Array:
    """A step's key of a named stream; outside of training always the same one."""
    return module.make_rng(stream) if module.has_rng(stream) else jax.random.key(0)


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


def override(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `config` laid over it, mapping by mapping; one of another `kind` replaces its counterpart."""
    out = dict(base)
    for key, value in config.items():
        old = out.get(key)
        if not (isinstance(value, Mapping) and isinstance(old, Mapping)):
            out[key] = value
        elif value.get("kind", old.get("kind")) != old.get("kind"):
            out[key] = dict(value)
        else:
            out[key] = override(old, value)
    return out


def shared_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """`dtype`, `scan`, `remat` and `attention` of a system, for all its towers."""
    check_choice("system: remat", config.get("remat"), _CHOICES["remat"])
    check_choice("system: attention", config.get("attention", "xla"), KERNELS)
    return {
        "dtype": compute_dtype(config.get("dtype", "auto")),
        "scan": config.get("scan", False),
        "remat": config.get("remat"),
        "attention": config.get("attention", "xla"),
    }


def _check_tower(where: str, config: Mapping[str, Any], valid: Collection[str], required: Collection[str]) -> None:
    check_keys(where, config, valid, required)
    for key, choices in {**_CHOICES, "pool": _POOLS["vocab" in valid]}.items():
        if key in config:
            check_choice(f"{where}: {key}", config[key], choices)
    check_values(where, config)
    width, heads = config["width"], config.get("heads")
    if config.get("kind") != "resnet" and width % heads:
        raise UserError(f"{where}: {heads} heads do not divide the width {width}")


_COUNTS = ("image_size", "patch", "patch_stride", "width", "depth", "heads", "mlp_dim", "vocab", "length")
_RATES = ("dropout", "attn_dropout", "drop_path", "patch_drop")


def check_values(where: str, config: Mapping[str, Any]) -> None:
    """Raises UserError for counts that are no positive whole numbers, and rates and eps out of range."""
    for key in (key for key in _COUNTS if config.get(key) is not None):
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{where}: {key} = {value!r}; valid: a whole number, at least 1")
    for key in (key for key in _RATES if key in config):
        value = config[key]
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise UserError(f"{where}: {key} = {value!r}; valid: a number from 0 to less than 1")
    for key, default in (("eps", 1e-5), ("init_std", 0.02)):
        value = config.get(key, default)
        if not isinstance(value, float) or not 0 < value < 1:
            raise UserError(f"{where}: {key} = {value!r}; valid: a small positive number, such as {default}")


def image_tower(where: str, config: Mapping[str, Any], *, features: int, **shared: Any) -> ViT | ModifiedResNet:
    """An image tower from its keys (see the top of this file).

    Args:
      where: its place in the config, for messages.
      features: output width of a ResNet's attention pool.
      **shared: defaults from `shared_options`.

    Raises:
      UserError: unknown or missing keys, or values that do not exist.
    """
    kind = config.get("kind", "vit")
    check_choice(f"{where}: kind", kind, ("vit", "resnet"))
    if kind == "vit":
        _check_tower(where, config, _VIT, ("image_size", "patch", "width", "depth", "heads"))
        return ViT(**{**shared, **{k: v for k, v in config.items() if k != "kind"}})
    _check_tower(where, config, _RESNET, ("image_size", "layers", "width"))
    if len(config["layers"]) != 4:
        raise UserError(f"{where}: layers {config['layers']!r} must be four counts, one per stage")
    options = {"remat": shared["remat"], **config, "layers": tuple(config["layers"]), "features": features}
    options["dtype"] = shared["dtype"]
    return ModifiedResNet(**{k: v for k, v in options.items() if k != "kind"})


def text_tower(where: str, config: Mapping[str, Any], **shared: Any) -> TextTransformer:
    """A text tower from its keys (see the top of this file).

    Raises:
      UserError: unknown or missing keys, or values that do not exist.
    """
    _check_tower(where, config, _TEXT, ("vocab", "length", "width", "depth", "heads"))
    return TextTransformer(**{**shared, **config})


def bert_tower(where: str, config: Mapping[str, Any], **shared: Any) -> Bert:
    """BERT from its keys (see the top of this file).

    Raises:
      UserError: unknown or missing keys, or values that do not exist.
    """
    _check_tower(where, config, _BERT, ("vocab", "length", "width", "depth", "heads"))
    layers = {"inits": normal_init(config["init_std"])} if "init_std" in config else {}
    return Bert(**{**shared, **{k: v for k, v in config.items() if k != "init_std"}, **layers})
