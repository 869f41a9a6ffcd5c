"""How BEiT-3 was trained (Wang et al. 2022, §2.2 and appendix), shared by the configs beside this file.

From the paper: masked data modelling for 1,000,000 steps of 2,048 images, 2,048 texts and 2,048 pairs; AdamW with
beta2 0.98, epsilon 1e-6, weight decay 0.05, peak 1e-3 after 10,000 steps of warm-up, a cosine, gradients clipped at 3,
drop path 0.1; 40 % of the patches masked block-wise, 15 % of a text's words and 50 % of a pair's; random crops, flips,
colours by 0.4. No pre-training code was released.

From the released code: fine-tuning, whose rate falls by a factor with each layer below the heads, along a cosine to
1e-6 (the warm-up begins at 1e-6 there, at 0 here); and what is not decayed: gains, biases, the positions of images, the
class token. That pre-training has the same list is ours.

Images and texts alone have sources of their own, `data.alone.image.train` and `data.alone.text.train`, as many rows of
each as of pairs; where one is not given, the pairs' are read alone, too. The image codes are those of a
VQ-KD (`configs/vqkd`), whose run `init` names.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.core.errors import UserError
from mmjax.systems import beit3_sizes, vqkd

PRETRAINED = "runs/beit3_base"  # what fine-tuning begins with
NO_DECAY = ("img/pos",)  # besides what has one axis
TOKENIZER = {
    "img": {"image_size": 32, "patch": 8, "width": 32, "depth": 1, "heads": 2},
    "decoder": {"width": 32, "depth": 1, "heads": 2},
    "codes": 32,
    "code_dim": 8,
    "target": 16,
    "kmeans": False,
}


def paper(size: str, variant: str = "") -> ConfigDict:
    """The config of a size; "smoke" is a tiny model of the same kind for three steps on the built-in scenes.

    Raises:
      UserError: another variant.
    """
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there are '' (as in the paper) and 'smoke'")
    tokenizer = vqkd.SIZES["base_3"]
    if size == "giant":  # patches of 14: its grid has 16 x 16 codes, of images of 256 pixels
        tokenizer = {**tokenizer, "img": {**tokenizer["img"], "image_size": 256}}
    c = ConfigDict()
    c.title = f"BEiT-3 {size}"
    c.seed = 0
    c.init = ""
    c.system = ConfigDict({
        "name": "beit3", "size": size, "tasks": ("mdm",), "tokenizer": tokenizer, "drop_path": 0.1, "dtype": "auto",
        "scan": True, "remat": "full",
    })  # fmt: skip
    c.tokenizer = ConfigDict({"spec": "sentencepiece:beit3.spm"})
    c.data = ConfigDict({
        "train": "", "batch_size": 2048, "text_length": 64, "text": {}, "workers": 16, "read_ahead": 2,
        "image": {"scale": (0.2, 1.0), "flip": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
        "task": {"kind": "masked", "modality": "all"}, "alone": {"image": {"train": ""}, "text": {"train": ""}},
    })  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 8, "tensor": 1})
    adam = {"b2": 0.98, "eps": 1e-6, "weight_decay": 0.05, "clip": 3.0, "lr": 1e-3, "no_decay": NO_DECAY,
            "also_decay": ("img/mask",)}  # fmt: skip
    c.stages = ConfigDict({
        "pretrain": {"steps": 1_000_000, "warmup": 10_000, "train": beit3_sizes.STAGES["pretrain"], **adam}
    })  # fmt: skip
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 50, "save": 1_000, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    if variant:
        smoke(c, shared=size == "giant")
    return c


def smoke(c: ConfigDict, shared: bool = False) -> None:
    """A tiny model for three steps; its image codes are of random weights."""
    with c.ignore_type():
        c.init = "random"
    c.system = ConfigDict({
        "name": "beit3", "tasks": ("mdm",), "width": 32, "depth": 2, "heads": 2, "shared": shared, "top": int(shared),
        "codes": 32, "tokenizer": TOKENIZER, "img": {"image_size": 32, "patch": 8},
        "txt": {"vocab": 400, "length": 24, "mask_id": 399},
    })  # fmt: skip
    source = "emoji_scenes:train?length=200"
    c.tokenizer = ConfigDict({"train_on": source, "vocab_size": 350})
    c.data.train, c.data.batch_size, c.data.workers, c.data.text_length = source, 16, 0, 24
    c.mesh.fsdp = 1
    for stage in c.stages.values():
        stage.steps, stage.warmup = 3, 1
    c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    c.evals = ConfigDict()
    c.report = ()


def finetune(
    task: str,
    variant: str,
    *,
    title: str,
    heads: str,
    image_size: int,
    text_length: int,
    data_task: Mapping[str, Any],
    examples: int,
    batch: int,
    epochs: int,
    warm: int,
    rates: Mapping[str, Mapping[str, float]],
    weight_decay: float,
) -> ConfigDict:
    """The config of a task's fine-tuning as released.

    Args:
      task: of mmjax/systems/beit3.py.
      variant: "" is the base size, "large" the large one, "smoke" a tiny one for three steps on the built-in scenes.
      title: of the report.
      heads: pattern of what begins at random.
      image_size, text_length, data_task: what a batch has.
      examples: of an epoch; batch, epochs, warm: sizes of a step, of the run and of its warm-up.
      rates: size -> `lr`, `layer_decay` and `drop_path`.
      weight_decay: of the optimizer.

    Raises:
      UserError: another variant.
    """
    if variant not in ("", "large", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there are '' (base), 'large' and 'smoke'")
    size = "large" if variant == "large" else "base"
    each, own = examples // batch, rates[size]
    c = paper(size)
    c.title = f"BEiT-3 {size}, {title}"
    with c.ignore_type():
        c.init = (
            {"path": PRETRAINED.replace("base", size), "load": ("(img|txt|fusion)/.*",)},
            {"path": "random", "load": (heads,)},
        )
    c.system = ConfigDict({
        "name": "beit3", "size": size, "tasks": (task,), "drop_path": own["drop_path"], "dtype": "auto", "scan": True,
        "remat": "full", "img": {"image_size": image_size},
    })  # fmt: skip
    c.data.batch_size, c.data.text_length = batch, text_length
    c.data.image, c.data.task = ConfigDict({"scale": (0.5, 1.0), "flip": 0.5}), ConfigDict(dict(data_task))
    c.stages = ConfigDict({
        "finetune": {"steps": epochs * each, "warmup": warm * each, "lr": own["lr"], "end_lr": 1e-6,
                     "layer_decay": own["layer_decay"], "weight_decay": weight_decay, "no_decay": NO_DECAY,
                     "train": beit3_sizes.STAGES["finetune"]}
    })  # fmt: skip
    if variant == "smoke":
        smoke(c)
        c.system.tasks = (task,)
        del c.system.tokenizer
    return c
