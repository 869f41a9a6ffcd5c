"""BEiT-3 answers the questions of easy-VQA: a packaged benchmark with its official test set, for two CPU cores.

    mmjax train --config configs/beit3/easy_vqa.py --workdir runs/beit3_easy_vqa

Pictures of 64 pixels with one shape, 13 answers (extra `easy_vqa`). From nothing, no pre-training: 5,000 steps of 32
questions, each of another picture, five passes over the 38,575 questions. Judged on all 9,673 questions of the test set
(`answers`); always "yes" answers 37.3 % of them. Aimed at: 90 % in 30 minutes. No run of this config has been measured.

By count: 81 tokens through three layers of width 128 are 37 million multiplications and additions, a step 7 GFLOP
(forward and backward), which is 0.2 to 0.5 s on one core.

`:smoke` is a form of a few steps on the built-in scenes.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError
from mmjax.data.scenes.questions import possible_answers
from mmjax.data.sources import open_source

ANSWERS = (
    "yes", "no", "circle", "rectangle", "triangle", "black", "blue", "brown", "gray", "green", "red", "teal", "yellow"
)  # fmt: skip


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps.

    Raises:
      UserError: another variant.
    """
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    c = sibling(__file__, "_recipe").paper("base")
    c.title = "BEiT-3 answers questions of easy-VQA"
    c.system = ConfigDict({
        "name": "beit3", "tasks": ("vqa",), "width": 128, "depth": 3, "heads": 4, "mlp_dim": 256, "init_std": 0.07,
        "img": {"image_size": 64, "patch": 8}, "txt": {"vocab": 160, "length": 16, "mask_id": 4},
        "classes": len(ANSWERS),
    })  # fmt: skip
    c.tokenizer = ConfigDict({"kind": "wordpiece", "train_on": "easy_vqa:train", "vocab_size": 160})
    # The questions name colours and no sides: a mirror image has the same answers.
    c.data = ConfigDict({
        "train": "easy_vqa:train", "batch_size": 32, "text": {}, "text_length": 16, "workers": 1,
        "image": {"scale": (0.8, 1.0), "flip": 0.5}, "task": {"kind": "vqa", "classes": ANSWERS},
    })  # fmt: skip
    c.mesh.fsdp = 1
    c.stages = ConfigDict({
        "train": {"steps": 5000, "lr": 1e-3, "warmup": 200, "b2": 0.98, "weight_decay": 0.05, "clip": 1.0,
                  "no_decay": ("img/pos",)}
    })  # fmt: skip
    c.evals = ConfigDict({
        "answers": {"kind": "vqa", "mode": "classify", "candidates": ANSWERS, "data": "easy_vqa:test"}
    })  # fmt: skip
    c.every = ConfigDict({"log": 50, "save": 500, "evaluate": 0})
    c.report = ("answers",)
    if variant:
        _shrink(c)
    return c


def _shrink(c: ConfigDict) -> None:
    """A tiny model, a few steps, scenes in the place of the package's pictures."""
    source = "emoji_scenes:{}?size=64&parts=image,questions&length={}"
    answers = tuple(possible_answers(open_source("emoji_scenes:train").world))
    c.system.width, c.system.depth, c.system.heads, c.system.classes = 32, 1, 2, len(answers)
    c.system.txt.vocab, c.tokenizer.vocab_size = 400, 400
    c.data.train = c.tokenizer.train_on = source.format("train", 200)
    c.data.batch_size, c.data.workers, c.data.task.classes = 16, 0, answers
    c.stages.train.steps, c.stages.train.warmup = 3, 1
    c.evals.answers.candidates, c.evals.answers.data = answers, source.format("test", 8)
    c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
