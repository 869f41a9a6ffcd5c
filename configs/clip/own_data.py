"""CLIP on your own pairs of image and text, from random weights: a small ViT for a start, on any device.

    mmjax train --config configs/clip/own_data.py --workdir runs/own --config.data.train=jsonl:pairs.jsonl

The source may be of any kind (README, "Your own data"): jsonl:, csv:, parquet:, folder:, webdataset:, arrayrecord:,
tfds:, coco:, easy_vqa. It needs 64 pairs or more: --config.data.batch_size=… changes that. Afterwards
`mmjax eval --checkpoint runs/own --data jsonl:held_out.jsonl` says how well images and texts find each other.

Hardware: a step takes about a second on two CPU cores, the 1,000 steps a quarter of an hour. Expected: as good as the
data; what a thousand steps learn is what pairs have in common that come up again and again, not a CLIP. For hundreds of
thousands of pairs take a size of the paper instead, with the same flag: configs/clip/vit_b32.py.

Changed most often:
  --config.stages.train.steps=…       how long; with few pairs, watch a held-out set rather than the loss
  --config.data.batch_size=…          the more the better: every other pair of the batch is a wrong answer
  --config.system.img.image_size=…    pixels, a multiple of the patch (16)
  --config.data.workers=…             processes that read and decode

Texts of any language are cut into CLIP's byte pairs; languages other than English need more of the 32 places. A
vocabulary of your own: --config.tokenizer.spec= --config.tokenizer.train_on=jsonl:pairs.jsonl
--config.tokenizer.vocab_size=8000.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps on the built-in emoji."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    c = ConfigDict()
    c.title = "CLIP on own data"
    c.seed = 0
    c.init = ""
    c.system = ConfigDict({
        "name": "clip",
        "embed_dim": 192,
        "dtype": "auto",
        "img": {"kind": "vit", "image_size": 96, "patch": 16, "width": 192, "depth": 6, "heads": 3},
        "txt": {"vocab": 49408, "length": 32, "width": 192, "depth": 3, "heads": 3},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"spec": "clip_bpe", "train_on": "", "vocab_size": 0})
    # No mirror images: a text may say left or right, or an image show letters.
    c.data = ConfigDict({
        "train": "",
        "batch_size": 64,
        "image": {"preset": "clip", "scale": (0.5, 1.0), "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
        "text": {"forms": {"text": 1.0}},
        "eval_image": {"mode": "crop"},
        "workers": 1,
    })  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.stages = ConfigDict({
        "train": {"steps": 1000, "lr": 5e-4, "warmup": 10, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.2, "clip": 1.0},
    })  # fmt: skip
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 10, "save": 200, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    if variant == "smoke":
        c.data.train, c.data.batch_size, c.data.workers = "emoji:train", 16, 0
        c.system.embed_dim = 16
        c.system.img = ConfigDict({"kind": "vit", "image_size": 32, "patch": 16, "width": 32, "depth": 1, "heads": 2})
        c.system.txt = ConfigDict({"vocab": 49408, "length": 16, "width": 16, "depth": 1, "heads": 1})
        c.stages.train.steps, c.stages.train.warmup = 3, 1
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    return c
