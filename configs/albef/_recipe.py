"""How ALBEF was trained (Li et al. 2021, and its release), shared by the configs beside this file. Not a config itself.

From the release: AdamW (betas 0.9 and 0.999, epsilon 1e-8), weight decay 0.02 on all but biases and gains (class token
and temperature decay, too), no clipping, float32; RandAugment of two operations of strength 7, each with probability
0.5; random crops of 20 to 100 % of the area in pre-training and 50 to 100 % in fine-tuning, mirrored half of the time;
momentum 0.995; the weight of the teacher's targets grows from 0 to 0.4 over the first epoch (SNLI-VE and NLVR2: 0.4 at
once); captions are cleaned and have at most 30 words.

Ours: the release steps its cosine once an epoch, here it falls at every step; the warm-up rises from 0, not from 1e-5.

Pre-training begins with DeiT-B/16 (deit_base_patch16_224-b5f2ef4d.pth) and BERT-base (the folder bert-base-uncased of
Hugging Face's), whose layers 6 to 11 become those that look at the image; cross-attention and heads but that for words
begin at random.
"""

from typing import Any

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

TEACHER = ("(img|txt)/.*", "(img|txt)_proj/.*")
CROP = {"preset": "albef", "scale": (0.5, 1.0)}
DEIT, BERT = "deit_base_patch16_224-b5f2ef4d.pth", "bert-base-uncased"
BELOW = 6  # layers that read the text alone
# The forms `:smoke`: a model for seconds on a CPU.
IMG = {"image_size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2}
TXT = {"vocab": 400, "length": 32, "width": 16, "depth": 2, "heads": 2, "cross_from": 1}


def paper(size: str, variant: str, *, title: str, pairs: int, epochs: int, batch: int, lr: float, end_lr: float,
          text_length: int, teacher: tuple[str, ...], stage: dict[str, Any] | None = None,
          task: dict[str, Any] | None = None, image: dict[str, Any] | None = None, warmup: int = 0,
          grows: bool = True, init: Any = "") -> ConfigDict:  # fmt: skip
    """The config of a published form.

    Args:
      size: a key of SIZES in mmjax/systems/albef_sizes.py.
      variant: "" as in the paper, or "smoke": a tiny model, a few steps, CPU.
      title: of the report.
      pairs, epochs, batch: examples of an epoch, epochs, global batch.
      lr, end_lr: of the cosine.
      text_length: tokens of a text.
      teacher: patterns of what has a momentum copy; none: nothing is taught.
      stage: other fields of the stage; task, image: of config.data.
      warmup: steps.
      grows: whether the weight of the teacher's targets grows over the first epoch.
      init: the weights to begin with, for `config.init`; not in the form "smoke".

    Raises:
      UserError: another variant.
    """
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there are '' (as in the paper) and 'smoke'")
    epoch = pairs // batch
    c = ConfigDict()
    c.title = title
    c.seed = 0
    c.init = "" if variant else init
    taught = {"alpha": 0.4, "alpha_steps": epoch if grows else 0} if teacher else {}
    c.system = ConfigDict({"name": "albef", "size": size, **taught, "dtype": "auto", "scan": True, "remat": "dots"})
    c.tokenizer = ConfigDict({"spec": "wordpiece:bert-base-uncased", "clean": "albef", "most_words": 30})
    c.data = ConfigDict({"train": "", "batch_size": batch, "text_length": text_length, "image": image or CROP,
                         "text": {"forms": {"text": 1.0}}, "task": task or {"kind": "pairs"}, "workers": 16,
                         "eval_image": {"mode": "square"}})  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.stages = ConfigDict({
        "train": {"steps": epochs * epoch, "lr": lr, "end_lr": end_lr, "warmup": warmup, "schedule": "cosine",
                  "weight_decay": 0.02, "also_decay": ("img/cls",), "teacher": teacher, "teacher_decay": 0.995,
                  **(stage or {})},
    })  # fmt: skip
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 50, "save": 1_000, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    if variant:
        _shrink(c)
    return c


def towers(image: str = DEIT, text: str = BERT, below: int = BELOW, depth: int = 12) -> tuple[dict[str, Any], ...]:
    """`config.init` of pre-training: the image tower of one checkpoint, the layers of BERT in another.

    Args:
      image: DeiT's file.
      text: BERT's folder.
      below: layers without cross-attention; depth: all of them.
    """
    upper = {rf"txt/text/block_{i}/(.*)": rf"txt/fusion/block_{i - below}/\1" for i in range(below, depth)}
    return {"path": image, "load": ("img/.*",)}, {"path": text, "load": ("txt/.*",), "rename": upper}


def _shrink(c: ConfigDict) -> None:
    c.system.scan, c.system.remat = False, None
    if "alpha_steps" in c.system:
        c.system.alpha_steps = 2
    c.system.img, c.system.txt = ConfigDict(IMG), ConfigDict(TXT)
    if c.system.size in ("pretrain_256", "retrieval_384"):
        c.system.embed_dim, c.system.queue = 8, 64
    if c.system.size == "pretrain_256":
        c.system.mask_id = 4
    if c.system.size == "vqa_384":
        c.system.dec = ConfigDict({**TXT, "depth": 1, "cross_from": 0})
    if c.system.size in ("nlvr2_384", "assign_256"):
        c.system.txt.depth = 3
    if c.system.size == "assign_256":
        c.system.embed_dim = 8
    c.tokenizer = ConfigDict({"kind": "wordpiece", "train_on": "emoji_scenes:val?length=100", "vocab_size": 400})
    c.data.train, c.data.batch_size, c.data.workers, c.data.text_length = "emoji_scenes:train", 16, 0, 24
    c.stages.train.steps, c.stages.train.warmup = 4, 1
    c.every.log, c.every.save = 1, 2
