"""The models of the step benchmark: sizes, batches, and the floating-point operations that a step needs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SMALL = {
    "name": "clip",
    "embed_dim": 128,
    "img": {"image_size": 64, "patch": 8, "width": 256, "depth": 3, "heads": 4},
    "txt": {"vocab": 2000, "length": 16, "width": 128, "depth": 2, "heads": 2},
}
TINY = {
    "name": "clip",
    "embed_dim": 16,
    "img": {"image_size": 32, "patch": 16, "width": 32, "depth": 1, "heads": 2},
    "txt": {"vocab": 64, "length": 8, "width": 32, "depth": 1, "heads": 2},
}
# name -> (system, batch on a CPU)
ROWS: dict[str, tuple[dict[str, Any], int]] = {
    "small": (SMALL, 64),
    "b32": ({"name": "clip", "size": "vit_b32"}, 16),
    "b16": ({"name": "clip", "size": "vit_b16"}, 4),
    "l14": ({"name": "clip", "size": "vit_l14"}, 2),
    "tiny": (TINY, 4),
}
"""`small`: the towers of configs/clip/emoji.py on 64-pixel images, with a class token; the others as published."""


STAGE = {"steps": 10_000, "lr": 5e-4, "warmup": 1000, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.2}


def make_batch(system: Mapping[str, Any], size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Normalised images float32[B, Y, X, 3], and texts whose end is their largest id, as CLIP's tokenizer has it.

    The longest caption has 0.4 of the tokens that there is room for (77: 30), as those of web pages do.
    """
    rng = np.random.default_rng(seed)
    pixels, length, vocab = system["img"]["image_size"], system["txt"]["length"], system["txt"]["vocab"]
    longest = max(3, int(0.4 * length))
    ends = rng.integers(2, longest, size)
    ends[0] = longest - 1
    places = np.arange(length)[None]
    ids = rng.integers(1, vocab - 1, (size, length))
    ids = np.where(places < ends[:, None], ids, np.where(places == ends[:, None], vocab - 1, 0))
    image = rng.standard_normal((size, pixels, pixels, 3), np.float32)
    return {"image": image, "ids": ids.astype(np.int32), "valid": places <= ends[:, None]}


def step_flops(system: Mapping[str, Any], batch: int, *, text: int | None = None, patch_drop: float = 0.0) -> float:
    """Multiplications and additions of the matrix products of one training step: three times the forward pass.

    The usual count behind MFU: norms, activations, softmax and the optimizer are left out, a rematerialised forward
    pass counts once, causal attention counts whole. Two operations for each multiply-accumulate.

    Args:
      system: with every size spelled out.
      batch: examples.
      text: tokens that the text tower sees, default all.
      patch_drop: share of the patches left out.
    """
    img, txt = system["img"], system["txt"]
    patches = (img["image_size"] // img["patch"]) ** 2
    kept = max(1, round(patches * (1 - patch_drop)))
    tokens = kept + 1
    length = text or txt["length"]
    total = patches * img["patch"] ** 2 * 3 * img["width"]
    for tower, seen in ((img, tokens), (txt, length)):
        width = tower["width"]
        inner = tower.get("mlp_dim") or 4 * width
        block = seen * (4 * width * width + 2 * width * inner) + 2 * seen * seen * width
        total += tower["depth"] * block + width * system["embed_dim"]
    total += batch * system["embed_dim"]  # logits, for each example
    return 3.0 * 2.0 * batch * total
