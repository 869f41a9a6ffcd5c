"""How BLIP was trained (Li et al. 2022; released code), shared by the configs beside this file. Not a config itself.

AdamW with weight decay 0.05 on every parameter. Pre-training: 20 epochs, warm-up from 1e-6 over 3,000 steps (from 0
here); the rate then falls by 0.9 each epoch in the code (0.85 in the paper), here a little at every step. Images are
cropped (20 to 100 % of the area; 50 to 100 % in fine-tuning), mirrored, and changed by two operations of RandAugment of
strength 5, each half of the time, none of which changes a colour. Texts are lower case, without most marks, 30 words at
most.

Pre-training begins with DeiT-B/16 (ViT-L: AugReg's, of ImageNet-21k) and BERT-base, both of whose self-attentions, the
reader's and the writer's, are BERT's; cross-attention and the other heads begin at random. Ours: the rows of [DEC] and
[ENC] begin near the mean of the others, in the release around 0.

The vocabulary is BERT's, uncased: give a folder with its vocab.txt, --config.tokenizer.spec=wordpiece:FOLDER.
"""

from typing import Any

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

TEACHER = ("img/.*", r"txt/(?!head)(?!.*_dec/).*", "img_proj/.*", "txt_proj/.*")
"""What the published momentum copies hold: the image encoder, the text encoder, both projections."""
ADDED = ("[DEC]", "[ENC]")
PRETRAINED = "runs/blip"  # what fine-tuning begins with
DEIT, BERT = "deit_base_patch16_224-b5f2ef4d.pth", "bert-base-uncased"
# What the model becomes in the form `:smoke`: a model for seconds on a CPU.
IMG = {"image_size": 32, "patch": 16, "width": 32, "depth": 1, "heads": 2, "drop_path": 0.0}
TXT = {"vocab": 400, "length": 40, "width": 32, "depth": 2, "heads": 2}
WORDS = {"train_on": "emoji_scenes:train?length=200&parts=captions", "kind": "wordpiece", "vocab_size": 400}
SPECIAL = {"dec_id": 5, "enc_id": 6, "end_ids": (3,)}


def paper(
    size: str,
    variant: str = "",
    *,
    steps: int,
    lr: float,
    batch: int,
    text_length: int,
    warmup: int = 0,
    end_lr: float = 0.0,
    schedule: str = "cosine",
    scale: tuple[float, float] = (0.5, 1.0),
    task: dict[str, Any] | None = None,
    smoke: str = "emoji_scenes:train",
    init: Any = "",
    **system: Any,
) -> ConfigDict:
    """The config of a published form.

    Args:
      size: a key of SIZES in mmjax/systems/blip_sizes.py.
      variant: "" as published, or "smoke": a tiny model of the same form, three steps on generated scenes, CPU.
      steps, lr, batch, warmup, end_lr, schedule: of the one stage.
      text_length: tokens of a text.
      scale: share of an image's area that a crop keeps.
      task: see mmjax/data/tasks.py; default: pairs.
      smoke: source of the form `:smoke`.
      init: the weights to begin with, for `config.init`; not in the form `:smoke`.
      **system: more keys of the system.

    Raises:
      UserError: another variant.
    """
    c = ConfigDict()
    c.title = f"BLIP {size}"
    c.seed = 0
    c.init = "" if variant else init
    c.system = ConfigDict({"name": "blip", "size": size, "scan": True, "remat": "full", **system})
    c.tokenizer = ConfigDict({"spec": "", "kind": "wordpiece", "added": ADDED, "clean": "blip", "most_words": 30})
    c.data = ConfigDict(
        {
            "train": "",
            "batch_size": batch,
            "image": {"scale": scale, "flip": 0.5, "ops": 2, "magnitude": 5.0},
            "text": {},
            "text_length": text_length,
            "workers": 16,
            "read_ahead": 2,
        }
    )
    if task:
        c.data.task = ConfigDict(task)
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    stage: dict[str, Any] = {"steps": steps, "lr": lr, "warmup": warmup, "end_lr": end_lr, "schedule": schedule}
    stage |= {"weight_decay": 0.05, "also_decay": (".*",)}
    if "pretrain" in size or "retrieval" in size:
        stage |= {"teacher": TEACHER, "teacher_decay": 0.995}
    c.stages = ConfigDict({"train": stage})
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 50, "save": 2_000, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    if variant == "smoke":
        _shrink(c, size, smoke)
    elif variant:
        raise UserError(f"variant {variant!r} does not exist; there are '' (as published) and 'smoke'")
    return c


def towers(image: str = DEIT, text: str = BERT) -> tuple[dict[str, Any], ...]:
    """`config.init` of pre-training: the image tower of one checkpoint, the layers of BERT in another.

    BERT's self-attention is read twice: for the mode that reads and for the one that writes.

    Args:
      image: DeiT's file, or AugReg's.
      text: BERT's folder.
    """
    attention = r"txt/text/block_(\d+)/(attn|norm1)/(.*)"
    return (
        {"path": image, "load": ("img/.*",)},
        {"path": text, "load": ("txt/.*",), "skip": ("txt/types",), "rename": {"txt/text/(.*)": r"txt/fusion/\1"},
         "grow_vocab": True, "grow_noise": 0.02},
        {"path": text, "load": (attention,), "rename": {attention: r"txt/fusion/block_\1/\2_dec/\3"}},
    )  # fmt: skip


# The model's modes share all but the self-attention and its norm; the form that fine-tuning trains takes what it uses.
_READS, _WRITES = r"txt/fusion/block_\d+/(attn|norm1)/.*", r"txt/fusion/block_\d+/(attn|norm1)_dec/.*"
HEAD = {"path": "random", "load": ("fc[12]/.*",)}


def reads(path: str = PRETRAINED) -> dict[str, Any]:
    """An item of `config.init`: image encoder and text encoder of a pre-trained model."""
    return {"path": path, "load": ("img/.*", "txt/.*"), "skip": ("txt/head.*", _WRITES)}


def contrasts(path: str = PRETRAINED) -> tuple[dict[str, Any], ...]:
    """`config.init` of retrieval: the encoders, both projections, the matching head and the temperature."""
    return reads(path), {"path": path, "load": ("(img|txt)_proj/.*", "itm_head/.*", "tau")}


def writes(path: str = PRETRAINED) -> tuple[dict[str, Any], ...]:
    """`config.init` of captions: the image encoder and the mode that writes."""
    return ({"path": path, "load": ("img/.*", "txt/.*"), "skip": (_READS,)},)


def answers(path: str = PRETRAINED) -> tuple[dict[str, Any], ...]:
    """`config.init` of questions: the encoders, and a decoder that begins as the mode that writes."""
    decoder = {"path": path, "load": ("txt/.*",), "skip": (_READS,), "rename": {"txt/(.*)": r"dec/\1"}}
    return reads(path), decoder


def pairs(path: str = PRETRAINED, merged: int = 6, depth: int = 12) -> tuple[dict[str, Any], ...]:
    """`config.init` of pairs of images: each look begins as the one look of the pre-trained model.

    Args:
      path: the pre-trained model.
      merged: the first layer that merges both looks by a linear map, which begins at random; depth: layers.
    """
    found = [{"path": path, "load": ("img/.*", "txt/(embed|norm)/.*", "txt/pos")}]
    blocks = {i: f"lower/block_{i}" if i < merged else f"upper/block_{i - merged}" for i in range(depth)}
    for look in range(2):
        names = {rf"txt/fusion/block_{i}/cross/(.*)": rf"{new}/cross{look}/\1" for i, new in blocks.items()}
        found.append({"path": path, "load": tuple(names), "rename": names})
    rest = "attn|norm1|norm_cross|mlp|norm2"
    names = {rf"txt/fusion/block_{i}/({rest})/(.*)": rf"{new}/\1/\2" for i, new in blocks.items()}
    merge = {"path": "random", "load": ("upper/.*/merge/.*",)}
    return *found, {"path": path, "load": tuple(names), "rename": names}, merge, HEAD


def _shrink(c: ConfigDict, size: str, source: str) -> None:
    c.system.scan, c.system.remat = False, None
    c.system.img, c.system.txt = ConfigDict(IMG), ConfigDict(TXT)
    form = size.split("_")[1]
    for name, value in SPECIAL.items():
        if not (name == "enc_id" and form == "caption") and not (name != "enc_id" and form in ("retrieval", "nlvr2")):
            c.system[name] = value
    if form in ("pretrain", "retrieval"):
        c.system.embed_dim, c.system.queue = 16, 64
    if form == "vqa":
        c.system.dec = ConfigDict(TXT)
    if form == "caption":
        c.system.lead = ()
    if form == "nlvr2":
        c.system.merged_from = 1
    c.tokenizer = ConfigDict({**WORDS, "added": ADDED, "clean": "blip", "most_words": 30})
    c.data.train, c.data.batch_size, c.data.workers = source, 8, 0
    c.data.text_length = min(c.data.text_length, c.system.txt.length)
    c.stages.train.steps, c.stages.train.warmup = 3, 1
    c.every.log, c.every.save = 1, 2
