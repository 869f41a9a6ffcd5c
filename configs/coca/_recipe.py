"""How CoCa was trained (Yu et al. 2022), shared by the configs beside this file. Not a config itself.

From the paper (§4.1, Table 1): 500,000 steps of 65,536 pairs, half labels with a prompt and half texts of the web; both
losses from one pass, the captions' with weight 2; Adafactor with β1 0.9, β2 0.999 and decoupled weight decay of
0.01; the rate rises for 2 % of the steps to 8e-4 and falls linearly; images of 288 pixels in patches of 18, a
vocabulary of 64,000 pieces; then one epoch with images of 576 pixels. JFT-3B and ALIGN are not public: give a source.

From the paper's fine-tuning (§4.2 and appendix): weight decay 0.1, gradients of a norm of at most 1, a cosine to 0;
classifiers with a pooler of their own at a rate of 5e-4 (VQA) over an encoder at 2e-5, captions at 1e-5.

Not said there, ours: texts of at most 64 pieces, erf-GELU, layer norms of 1e-5, a random crop of 90 to 100 %, the
sigmoid loss of VQA's soft targets (as VLMo and BEiT-3 have it); captions are fine-tuned on their loss alone; the weight
of writing question and answer beside VQA's classes, 1.

How the work is spread is ours, too: images and texts over all devices, parameters and moments over groups of 8; the
contrastive loss as a ring; blocks scanned and recomputed in the backward pass.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

STEPS, BATCH = 500_000, 65_536


def paper(size: str, variant: str = "") -> ConfigDict:
    """Pre-training of a size of mmjax/systems/coca.py.

    Args:
      size: "base", "large" or "coca".
      variant: "" as in the paper, or "smoke": a tiny model of the same kind, three steps on the built-in emoji, CPU.

    Raises:
      UserError: another variant.
    """
    c = ConfigDict()
    c.title = f"CoCa {size}"
    c.seed = 0
    c.init = ""
    # mmjax's SentencePiece begins texts with 1 and ends them with 2.
    c.system = ConfigDict({"name": "coca", "size": size, "begin_id": 1, "end_ids": [2], "loss_form": "ring",
                           "dtype": "auto", "scan": True, "remat": "full"})  # fmt: skip
    c.tokenizer = ConfigDict({"spec": ""})
    c.data = ConfigDict({"train": "", "batch_size": BATCH, "image": {"preset": "clip"}, "text": {}, "workers": 16})
    c.mesh = ConfigDict({"data": -1, "fsdp": 8, "tensor": 1})
    adafactor = {"optimizer": "adafactor", "b1": 0.9, "b2": 0.999, "weight_decay": 0.01}
    rate = {"lr": 8e-4, "warmup": STEPS // 50, "schedule": "linear"}
    c.stages = ConfigDict({"train": {"steps": STEPS, **rate, **adafactor}})
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 50, "save": 1_000, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    return _varied(c, variant, "emoji_scenes:train?size=32")


def finetune(variant: str, *, batch: int, steps: int, task: dict, head: dict, stage: dict) -> ConfigDict:
    """Fine-tuning of the largest size at 576 pixels from the checkpoint that `init` names.

    Args:
      variant: as in `paper`.
      batch, steps: of the training.
      task: config.data.task.
      head: what of the system differs.
      stage: its rates.
    """
    c = paper("coca")
    c.title = f"CoCa fine-tuned: {task['kind']}"
    c.system.update({"img": ConfigDict({"image_size": 576}), **head})
    c.data.batch_size, c.data.task = batch, ConfigDict(task)
    decay = {"schedule": "cosine", "weight_decay": 0.1, "clip": 1.0, "warmup": 1_000}
    c.stages.train.update({"steps": steps, **decay, **stage})
    return _varied(c, variant, "emoji_scenes:train?size=32&parts=image,captions,questions")


def _varied(c: ConfigDict, variant: str, data: str) -> ConfigDict:
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there are '' (as in the paper) and 'smoke'")
    if variant == "smoke":
        blocks = {"width": 32, "depth": 2, "heads": 2, "mlp_dim": 64}
        c.init = ""
        c.system.embed_dim, c.system.queries, c.system.pool_width, c.system.pool_heads = 32, 4, 32, 2
        c.system.img = ConfigDict({"image_size": 32, "patch": 8, **blocks})
        c.system.txt = ConfigDict({"vocab": 300, "length": 24, **blocks})
        c.system.dec = ConfigDict({"depth": 2})
        c.tokenizer = ConfigDict({"train_on": "emoji_scenes:train?parts=captions&length=200", "vocab_size": 300})
        c.data.train, c.data.batch_size, c.data.workers = data, 16, 0
        c.mesh.fsdp = 1
        c.stages.train.steps, c.stages.train.warmup = 3, 1
        c.every.log, c.every.save = 1, 2
    return c
