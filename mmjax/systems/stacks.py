"""Config keys of the systems that are one transformer for all tokens: VLMo, BEiT-3, VQ-KD's encoder and decoder.

  size         one of the system's SIZES
  width *, depth *, heads *
  mlp_dim      default 4 * width
  layer_scale  initial value of the gains of the branches, default null: none
  drop_path    default 0
  init_std     of the blocks' weights at the start (of BEiT-3's tokens, too), default 0.02; for a width D far below
               768, about D^-1/2
  dtype, scan, remat, attention   as for "clip" (systems/base.py)

name "vlmo" also:
  tasks *      what there are heads for: "mlm", "itc", "itm"; "mim"; or "retrieval", "vqa", "nlvr2"
  top          last blocks with an expert for fused sequences, default 0
  positions    "relative" (default) or "absolute"
  img *        image_size *, patch *
  txt *        vocab *, length *, mask_id *, relative: tokens that the relative positions cover, default length
  answers      classes of VQA, default 3129
  codes        image codes that "mim" predicts, default 8192; tokenizer: the mapping of the VQ-KD that gives them
  mask_rate    share of the tokens that are predicted, default 0.15; mlm_weight: of that loss for pairs, default 0.25

name "beit3" also:
  tasks        what there are heads for: "mdm", "caption", "retrieval", "vqa", "nlvr2" or "classify"; default none
  shared       one attention and one set of norms for all experts (the paper), default false (as released)
  top          as above; norm_final: whether a norm ends the stack, default true but for "vqa" and "classify"
  img *        image_size *, patch *
  txt *        vocab *, length *, mask_id *
  target       what is predicted of masked patches: "codes" (default) or "pixels" (normalised, as MAE)
  codes        image codes that are predicted, default 8192; tokenizer: the mapping of the VQ-KD that gives them
  classes      of VQA or of images, default 3129
  rates        share that is masked: image 0.4, text 0.15, pair 0.5, caption 0.7; smoothing: of captions, default 0.1
  begin_id     token with which a caption begins, default 0; end_ids: tokens that end it, default [2]

name "vqkd" has instead of width, depth, heads:
  img *        an image tower as for "clip": image_size *, patch *, width *, depth *, heads *, mlp_dim, …
  decoder *    width *, depth *, heads *, mlp_dim, …
  codes *, code_dim *   of the codebook; decay: of its averages, default 0.99; kmeans: start from clusters, default true
  revive       usage below which a code moves to a feature of the batch, default 0: never
  target *     channels of the teacher's features; teacher: a CLIP's `img` mapping; eps, default 1e-6
"""

from collections.abc import Collection, Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.nn.dense import normal_init
from mmjax.systems import base

SHARED = ("dtype", "scan", "remat", "attention")
STACK = ("size", "width", "depth", "heads", "mlp_dim", "layer_scale", "drop_path", "init_std", *SHARED)


def sized(name: str, config: Mapping[str, Any], sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The config with the published size that it names laid under it.

    Raises:
      UserError: no such size.
    """
    config = base.plain(config)
    if (size := config.pop("size", None)) is None:
        return config
    base.check_choice(f"system {name}: size", size, sizes)
    return base.override(sizes[size], config)


def check_tasks(where: str, tasks: Any, valid: Collection[str]) -> None:
    """Raises UserError unless `tasks` is a list of some of the valid ones."""
    if isinstance(tasks, str) or not tasks:
        raise UserError(f"{where}: tasks = {tasks!r}; valid: a list of {', '.join(valid)}")
    for task in tasks:
        base.check_choice(f"{where}: tasks", task, valid)


def stack_options(where: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of a BlockSpec, `scan` and `remat`) from the keys in `STACK`.

    Raises:
      UserError: values that do not exist or fit together.
    """
    base.check_values(where, config)
    shared = base.shared_options(config)
    width, heads = config["width"], config["heads"]
    if width % heads:
        raise UserError(f"{where}: {heads} heads do not divide the width {width}")
    fields = {"heads": heads, "mlp_dim": config.get("mlp_dim") or 4 * width, "dtype": shared["dtype"]}
    fields |= {"attention": shared["attention"]}
    fields |= {"inits": normal_init(config["init_std"])} if "init_std" in config else {}
    fields |= {key: config[key] for key in ("layer_scale", "drop_path") if config.get(key) is not None}
    return fields, {"scan": shared["scan"], "remat": shared["remat"]}
