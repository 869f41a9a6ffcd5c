"""How CLIP was trained (Radford et al. 2021), shared by the nine configs beside this file. Not a config itself.

From the paper (§2.4, §2.5): 32 epochs of 400 million pairs in batches of 32,768, which is 390,625 steps; Adam with
decoupled weight decay on all weights that are not gains or biases; a cosine schedule; initial temperature 0.07; the
scale of the logits bounded by 100; mixed precision; gradient checkpointing; a random square crop of the resized image
as the only augmentation.

Recalled from the paper's tables of hyper-parameters and not checked against them: the peak learning rates that the
configs pass, 2,000 steps of warm-up, weight decay 0.2, beta2 and epsilon of the two families.

From the practice of open_clip, because the paper does not say: the crop covers 90 to 100 % of the image; arrays with
fewer than two axes (the class embedding among them) count as gains and biases.

Ours: how the work is spread. Images and texts are split over all devices, parameters and optimizer state over groups of
8; the loss is computed as a ring, whose memory does not grow with the square of the batch; blocks are scanned and
recomputed in the backward pass. Batch statistics of ResNets are those of the global batch.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

PAIRS, BATCH, EPOCHS = 400_000_000, 32_768, 32

# What a ResNet and a ViT become in the form `:smoke`: a model for seconds on a CPU.
TINY = {
    "resnet": {"image_size": 32, "layers": (1, 1, 1, 1), "width": 4, "heads": 2},
    "vit": {"image_size": 32, "patch": 16, "width": 32, "depth": 2, "heads": 2},
}


def paper(size: str, variant: str = "", *, lr: float, epochs: int = EPOCHS, init: str = "") -> ConfigDict:
    """The config of a published size.

    Args:
      size: a key of SIZES in mmjax/systems/clip.py.
      variant: "" as in the paper, or "smoke": a tiny model of the same kind, three steps on the built-in emoji, CPU.
      lr: peak learning rate.
      epochs: over the 400 million pairs.
      init: directory of the weights to begin with; empty: random ones.

    Raises:
      UserError: another variant.
    """
    kind = "resnet" if size.startswith("rn") else "vit"
    c = ConfigDict()
    c.title = f"CLIP {size}"
    c.seed = 0
    c.init = init
    c.system = ConfigDict(
        {"name": "clip", "size": size, "loss_form": "ring", "dtype": "auto", "scan": True, "remat": "full"}
    )
    c.tokenizer = ConfigDict({"spec": "clip_bpe"})
    c.data = ConfigDict(
        {"train": "", "batch_size": BATCH, "image": {"preset": "clip"}, "text": {}, "workers": 16, "read_ahead": 2}
    )
    c.mesh = ConfigDict({"data": -1, "fsdp": 8, "tensor": 1})
    adam = {"b2": 0.999, "eps": 1e-8} if kind == "resnet" else {"b2": 0.98, "eps": 1e-6}
    steps = epochs * PAIRS // BATCH
    c.stages = ConfigDict(
        {"train": {"steps": steps, "lr": lr, "warmup": 2_000, "schedule": "cosine", "weight_decay": 0.2, **adam}}
    )
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 50, "save": 1_000, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    if variant == "smoke":
        _shrink(c, kind)
    elif variant:
        raise UserError(f"variant {variant!r} does not exist; there are '' (as in the paper) and 'smoke'")
    return c


def _shrink(c: ConfigDict, kind: str) -> None:
    c.init = ""
    c.system.embed_dim = 16
    c.system.img = ConfigDict(TINY[kind])
    c.system.txt = ConfigDict({"length": 16, "width": 32, "depth": 2, "heads": 2})
    c.data.train, c.data.batch_size, c.data.workers = "emoji:train", 16, 0
    c.mesh.fsdp = 1
    c.stages.train.steps, c.stages.train.warmup = 3, 1
    c.every.log, c.every.save = 1, 2
