"""CLIP on the built-in emoji: the demo's longer brother, for an hour or less on two CPU cores.

    mmjax train --config configs/clip/emoji.py --workdir runs/emoji

Trained on Noto and Twemoji, judged on Fluent, a style that it never sees: on concepts of the training split, ranked
among all labels (`emoji_fluent_seen`), and on concepts that it never sees either (`emoji_fluent_heldout`).

Measured on two shared CPU cores in 40 minutes (seed 0): image_to_text_R@1 of the seen concepts 0.413 (95 %: 0.386 to
0.438; matching by pixels 0.246), image_to_text_R@5 of the held-out ones 0.171 (0.127 to 0.219; chance 0.018).
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    c = ConfigDict()
    c.title = "CLIP learns emoji"
    c.seed = 0
    c.init = ""
    # Sprites are centred and few: states that keep their places ("flat") beat a pooled one by far in so short a time.
    c.system = ConfigDict({
        "name": "clip",
        "embed_dim": 128,
        "scale_init": 30.0,
        "img": {"kind": "vit", "image_size": 32, "patch": 8, "width": 256, "depth": 3, "heads": 4, "cls": False,
                "pool": "flat", "norm_post": "all"},
        "txt": {"vocab": 2000, "length": 12, "width": 128, "depth": 2, "heads": 2},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"train_on": "emoji:train", "vocab_size": 2000, "normalization": "nmt_nfkc_cf"})
    c.data = ConfigDict(
        {
            "train": "emoji:train",
            "batch_size": 256,
            "image": {"preset": "sprite"},
            # Tags alone and dropped words: unseen labels are read word by word, so words have to be learned one by one.
            "text": {"forms": {"label": 0.4, "label_tags": 0.4, "tags": 0.2}, "drop_words": 0.25},
            "workers": 1,
        }
    )
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.stages = ConfigDict(
        {
            "train": {
                "steps": 3600,
                "lr": 2e-3,
                "warmup": 100,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.1,
                "clip": 1.0,
            }
        }
    )
    labels = "style=noto,twemoji,fluent"
    c.evals = ConfigDict(
        {
            "emoji_fluent_seen": {
                "kind": "retrieval",
                "data": "emoji:train?style=fluent",
                "gallery": f"emoji:all?{labels}",
                "pixel_match": "emoji:all",
            },
            "emoji_fluent_heldout": {
                "kind": "retrieval",
                "data": "emoji:test?style=fluent",
                "gallery": f"emoji:test?{labels}",
            },
        }
    )
    c.every = ConfigDict({"log": 20, "save": 200, "evaluate": 600})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ("emoji_fluent_seen", "emoji_fluent_heldout")
    if variant == "smoke":
        c.data.batch_size = 16
        c.stages.train.steps, c.stages.train.warmup = 4, 1
        c.system.img.width, c.system.img.depth, c.system.embed_dim = 32, 1, 16
        c.system.txt.width, c.system.txt.depth = 32, 1
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    return c
