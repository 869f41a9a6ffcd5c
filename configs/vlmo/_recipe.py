"""How VLMo was trained (Bao et al. 2021), shared by the configs beside this file. Not a config itself.

From the released code and its commands: texts alone for 200,000 steps in batches of 1,024 with up to 196 tokens,
learning rate 2e-4, whole words masked at 15 %; then pairs for 200,000 steps in batches of 1,024 with up to 40 tokens,
AdamW with beta2 0.98 and weight decay 0.01, 2,500 steps of warm-up, a linear decay to zero, drop path 0.1, a random
resized crop of at least half of the image, flipped at random. What decays is chosen by names there: of the norms only
those of the experts, layer scale, the class token and the temperatures do, the table of relative positions does not.

Ours: the stage of images. The published one starts from BEiT's weights; here images alone are masked block-wise at
40 % and their codes predicted (BEiT v2: batches of 2,048, learning rate 1.5e-3, gradients clipped at 3), for as many
steps as the other stages have. The codes are those of a VQ-KD (`configs/vqkd`), whose run `init` names. Not part of
it: RandAugment on the images of pairs. The first two stages read `data.alone.image.train` and `data.alone.text.train`,
or the pairs' where these are empty.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError
from mmjax.systems import vlmo, vqkd

PEAKS = {"base": 2e-4, "base_plus": 1e-4, "large": 5e-5}  # of pairs, by size


def masked(modality: str) -> dict:
    """The task of a stage: images or texts alone, or pairs; words are masked whole."""
    return {"kind": "masked", "modality": modality, "whole_words": modality != "image"}


def decays(size: str, *more: str) -> dict:
    """What decays besides arrays of two axes, as released; `more`: patterns of a stage of all parameters."""
    relative = size != "base_plus"  # which has neither layer scale nor the table
    scales = ("fusion/.*/scale[12]",) if relative and more else ()
    also = ("fusion/.*/norm2_(img|txt|vl)/scale", *scales, *more)
    return {"also_decay": also, "no_decay": ("bias/table",) if relative else ()}


def paper(size: str, variant: str = "") -> ConfigDict:
    """The config of a published size.

    Args:
      size: a key of SIZES in mmjax/systems/vlmo.py.
      variant: "" as published, or "smoke": a tiny model of the same kind, nine steps on the built-in scenes, CPU.

    Raises:
      UserError: another variant.
    """
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there are '' (as published) and 'smoke'")
    c = ConfigDict()
    c.title = f"VLMo {size}"
    c.seed = 0
    c.init = ""
    c.system = ConfigDict({
        "name": "vlmo", "size": size, "tasks": ("mim", "mlm", "itc", "itm"), "tokenizer": vqkd.SIZES["base_3"],
        "txt": {"length": 196}, "drop_path": 0.1, "dtype": "auto", "scan": True, "remat": "full",
    })  # fmt: skip
    c.tokenizer = ConfigDict({"spec": "wordpiece:vocab.txt"})
    c.data = ConfigDict({
        "train": "", "batch_size": 1024, "image": {"scale": (0.5, 1.0), "flip": 0.5}, "text": {},
        "text_length": 40, "workers": 16, "read_ahead": 2, "alone": {"image": {"train": ""}, "text": {"train": ""}},
    })  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 8, "tensor": 1})
    adam = {"b2": 0.98, "weight_decay": 0.01, "warmup": 2_500, "schedule": "linear", "steps": 200_000}
    texts = {"task": masked("text"), "text_length": 196}
    c.stages = ConfigDict({
        "images": {**adam, "lr": 1.5e-3, "clip": 3.0, "train": vlmo.STAGES["images"],
                   "data": {"task": masked("image"), "batch_size": 2048}},
        "text": {**adam, **decays(size), "lr": 2e-4, "train": vlmo.STAGES["text"], "data": texts},
        "pairs": {**adam, **decays(size, "img/cls", "log_(vl_)?scale"), "lr": PEAKS[size],
                  "train": vlmo.STAGES["pairs"], "data": {"task": masked("pair")}},
    })  # fmt: skip
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 50, "save": 1_000, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    if variant:
        smoke(c)
    return c


TOKENIZER = {
    "img": {"image_size": 32, "patch": 8, "width": 32, "depth": 1, "heads": 2},
    "decoder": {"width": 32, "depth": 1, "heads": 2},
    "codes": 32,
    "code_dim": 8,
    "target": 16,
    "kmeans": False,
}


def smoke(c: ConfigDict) -> None:
    """A tiny model of the same kind for nine steps; its image codes are of random weights."""
    positions = "absolute" if c.system.get("size") == "base_plus" else "relative"
    c.init = "random"
    c.system = ConfigDict({
        "name": "vlmo", "tasks": ("mim", "mlm", "itc", "itm"), "width": 32, "depth": 3, "heads": 2, "top": 1,
        "positions": positions, "layer_scale": 0.1, "codes": 32, "tokenizer": TOKENIZER,
        "img": {"image_size": 32, "patch": 8}, "txt": {"vocab": 500, "length": 24, "mask_id": 4},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"kind": "wordpiece", "train_on": "emoji_scenes:train?length=200", "vocab_size": 300})
    c.data.train, c.data.batch_size, c.data.workers, c.data.text_length = "emoji_scenes:train?length=200", 16, 0, 24
    c.mesh.fsdp = 1
    for stage in c.stages.values():
        stage.steps, stage.warmup = 3, 1
        for key in ("batch_size", "text_length"):
            if key in stage.data:
                del stage.data[key]
    c.every = ConfigDict({"log": 1, "save": 3, "evaluate": 0})
    c.evals = ConfigDict()
    c.report = ()
