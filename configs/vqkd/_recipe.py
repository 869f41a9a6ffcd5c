"""How VQ-KD was trained (Peng et al. 2022, and the released code), shared by the configs beside this file.

ImageNet-1k, 100 epochs in batches of 512, AdamW with beta2 0.99, weight decay 1e-4, peak 2e-4 after 10 epochs of
warm-up, to 1e-5 along a cosine; crops of 8 to 100 % of the image, flipped at random. The teacher is CLIP's ViT-B/16.
"""

from typing import Any

from ml_collections import ConfigDict

from mmjax.core.errors import UserError
from mmjax.systems import clip, vqkd

IMAGES, BATCH, EPOCHS = 1_281_167, 512, 100
# From a CLIP's paths to the teacher's.
RENAME = {"img/(.*)": r"teacher/\1", "img_proj/(.*)": r"teacher_proj/\1"}


def paper(size: str, variant: str = "") -> ConfigDict:
    """The config of a published tokenizer; "smoke" is a tiny one for three steps on the built-in scenes.

    Raises:
      UserError: another variant.
    """
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there are '' (as published) and 'smoke'")
    steps, warmup = EPOCHS * IMAGES // BATCH, 10 * IMAGES // BATCH
    system = {"name": "vqkd", "size": size, "teacher": clip.SIZES["vit_b16"]["img"], "scan": True, "dtype": "auto"}
    c = config(f"VQ-KD {size}", system, {"scale": (0.08, 1.0), "flip": 0.5})
    c.data.batch_size, c.data.workers, c.mesh.fsdp = BATCH, 16, 8
    adam = {"b2": 0.99, "weight_decay": 1e-4, "end_lr": 1e-5, "lr": 2e-4}
    c.stages.train = ConfigDict({"steps": steps, "warmup": warmup, "train": vqkd.STAGES["train"], **adam})
    if variant:
        smoke(c)
    return c


def config(title: str, system: dict[str, Any], image: dict[str, Any]) -> ConfigDict:
    """What the configs have in common; no source, no stage."""
    c = ConfigDict()
    c.title = title
    c.seed = 0
    c.init = ""
    c.system = ConfigDict(system)
    c.tokenizer = ConfigDict({"spec": "clip_bpe"})  # for what reads texts: a VQ-KD reads images alone
    c.data = ConfigDict({
        "train": "", "batch_size": 64, "image": image, "text": {}, "workers": 1,
        "task": {"kind": "masked", "modality": "image"},
    })  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.stages = ConfigDict()
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 20, "save": 500, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    return c


def smoke(c: ConfigDict) -> None:
    """A tiny tokenizer of a random teacher, for three steps."""
    tower = {"width": 32, "depth": 1, "heads": 2}
    image = {**tower, "image_size": 32, "patch": 8}
    c.init = "random"
    c.system = ConfigDict({
        "name": "vqkd", "img": image, "decoder": tower, "teacher": image, "codes": 32, "code_dim": 8, "target": 16,
    })  # fmt: skip
    c.data.train, c.data.batch_size, c.data.workers = "emoji_scenes:train?length=200", 16, 0
    c.mesh.fsdp = 1
    c.stages.train.steps, c.stages.train.warmup = 3, 1
    c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
