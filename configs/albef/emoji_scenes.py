"""A small ALBEF on the built-in emoji_scenes: contrast, matching and masked words, then retrieval.

    mmjax train --config configs/albef/emoji_scenes.py --workdir runs/albef_scenes

Hardware: a CPU. A step takes 0.3 s of one core (AMD EPYC) with masked words alone and 0.6 s with all three losses.
Measured in its two parts (`words`, then `fuse`; seed 0): R@1 among 200 scenes is 11.6 % from text to image and 22.5 %
from image to text by cosine, 11.5 and 25.5 % re-ranked; matching has come from 0.64 to about 0.47 nats.

Judged on 200 held-out scenes and their 1,000 captions (`scenes`): of each the 32 nearest by cosine, put in order by the
matching head; `scenes/cosine/...` is the order by cosine alone.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

SIZE = 64
# Other parts of a scene, as its depth, take longer to make than these.
SCENES = f"emoji_scenes:train?size={SIZE}&parts=image,captions"


def get_config(variant: str = "") -> ConfigDict:
    """The config.

    Args:
      variant: "" trains from nothing. "words" ends before the last stage, and "fuse" is the last stage alone, from the
        model that `init` names. "smoke", "words_smoke" and "fuse_smoke" are forms of a few steps.

    Raises:
      UserError: another variant.
    """
    form, smoke = variant.removesuffix("smoke").removesuffix("_"), variant.endswith("smoke")
    if form not in ("", "words", "fuse"):
        raise UserError(f"variant {variant!r} does not exist; there are words, fuse, with _smoke, smoke, or none")
    c = ConfigDict()
    c.title = "ALBEF on emoji scenes"
    c.seed = 0
    c.init = ""
    c.system = ConfigDict({
        "name": "albef",
        "task": "pretrain",
        "embed_dim": 128,
        "queue": 256,
        "alpha": 0.4,
        "alpha_steps": 300,
        "hard_negatives": True,
        "mask_id": 4,
        "mask_rate": 0.75,  # 0.15 in the paper; in so short a run names must be guessed more often
        # A patch of 16 pixels sees a small sprite whole; they overlap by a quarter.
        "img": {"image_size": SIZE, "patch": 16, "patch_stride": 12, "width": 128, "depth": 3, "heads": 4},
        "txt": {"vocab": 640, "length": 40, "width": 128, "mlp_dim": 256, "depth": 4, "heads": 4, "cross_from": 2,
                "init_std": 0.07},
    })  # fmt: skip
    c.tokenizer = ConfigDict(
        {"kind": "wordpiece", "train_on": "emoji_scenes:train?length=2000&parts=captions", "vocab_size": 640}
    )
    # No mirror images: captions say left and right.
    c.data = ConfigDict({
        "train": SCENES,
        "batch_size": 64,
        "image": {"preset": "none"},
        "text": {"forms": {"text": 1.0}},
        "text_length": 24,
        "eval_image": {"mode": "square"},
        "workers": 1,
    })  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    # τ is a small number: its rate is scaled down, as in configs/blip/emoji_scenes.py (not compared without).
    stage = {"lr": 1.5e-3, "b2": 0.98, "weight_decay": 0.02, "clip": 1.0, "warmup": 50}
    # What is meant by a name is learned soonest where nothing else could be; and masked words, which are cheap, before
    # all three losses at once.
    words = {**stage, "schedule": "constant", "tasks": ("mlm",)}
    c.stages = ConfigDict({
        "names": {**words, "steps": 1500, "data": {"train": f"{SCENES}&kinds=1"}},
        "words": {**words, "steps": 1000},
        "scenes": {**stage, "lr": 1e-3, "steps": 900, "lr_scale": (("tau", 0.01),),
                   "teacher": ("(img|txt)/.*", "(img|txt)_proj/.*"), "teacher_decay": 0.98},
    })  # fmt: skip
    for name in {"words": ("scenes",), "fuse": ("names", "words")}.get(form, ()):
        del c.stages[name]
    c.evals = ConfigDict({
        "scenes": {"kind": "rerank", "data": f"emoji_scenes:val?size={SIZE}&length=200", "nearest": 32},
    })  # fmt: skip
    c.every = ConfigDict({"log": 10, "save": 100, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ("scenes",)
    if smoke:
        c.data.batch_size, c.data.workers = 16, 0
        c.tokenizer.train_on = "emoji_scenes:train?length=400&parts=captions"
        c.system.queue, c.system.embed_dim = 64, 16
        c.system.img.width, c.system.img.depth, c.system.txt.width = 32, 1, 32
        c.system.txt.depth, c.system.txt.cross_from = 2, 1
        c.evals.scenes.data, c.evals.scenes.nearest = "emoji_scenes:val?length=16", 4
        for name in c.stages:
            c.stages[name].steps, c.stages[name].warmup = 2, 1
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    return c
