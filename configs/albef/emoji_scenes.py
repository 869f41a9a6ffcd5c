"""A small ALBEF on the built-in emoji_scenes: contrast, matching and masked words, then retrieval.

    mmjax train --config configs/albef/emoji_scenes.py --workdir runs/albef_scenes

Hardware: two CPU cores. Time, losses and retrieval: not measured.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

SIZE = 64


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    c = ConfigDict()
    c.title = "ALBEF on emoji scenes"
    c.seed = 0
    c.init = ""
    c.system = ConfigDict({
        "name": "albef",
        "task": "pretrain",
        "embed_dim": 128,
        "queue": 2048,
        "alpha": 0.4,
        "alpha_steps": 200,
        "mask_id": 4,
        "img": {"image_size": SIZE, "patch": 8, "width": 192, "depth": 3, "heads": 4},
        "txt": {"vocab": 1000, "length": 40, "width": 192, "depth": 6, "heads": 4, "cross_from": 3},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"kind": "wordpiece", "train_on": "emoji_scenes:train?length=2000", "vocab_size": 1000})
    # No mirror images: captions say left and right.
    c.data = ConfigDict({
        "train": f"emoji_scenes:train?size={SIZE}",
        "batch_size": 64,
        "image": {"preset": "none", "scale": (0.85, 1.0)},
        "text": {"forms": {"text": 1.0}},
        "text_buckets": (16, 24, 32),
        "eval_image": {"mode": "square"},
        "workers": 1,
    })  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.stages = ConfigDict({
        "train": {"steps": 600, "lr": 5e-4, "end_lr": 1e-5, "warmup": 60, "weight_decay": 0.02, "clip": 1.0,
                  "teacher": ("(img|txt)/.*", "(img|txt)_proj/.*"), "teacher_decay": 0.98},
    })  # fmt: skip
    c.evals = ConfigDict({
        "scenes": {"kind": "retrieval", "data": f"emoji_scenes:val?size={SIZE}&length=500"},
    })  # fmt: skip
    c.every = ConfigDict({"log": 10, "save": 100, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ("scenes",)
    if variant == "smoke":
        c.data.batch_size, c.data.workers = 16, 0
        c.system.queue, c.system.embed_dim = 64, 16
        c.system.img.width, c.system.img.depth, c.system.txt.width = 32, 1, 32
        c.system.txt.depth, c.system.txt.cross_from = 2, 1
        c.evals.scenes.data = "emoji_scenes:val?length=32"
        c.stages.train.steps, c.stages.train.warmup = 4, 1
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    return c
