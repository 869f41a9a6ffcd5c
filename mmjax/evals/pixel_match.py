"""The baseline that style transfer has to beat: the nearest picture by its pixels, with nothing learned.

An untrained nearest neighbour finds the same emoji in another style far more often than chance: of the packaged ones in
the held-out style 23 % (chance: 0.05 %). So that, and not chance, is what a model's R@1 on an unseen style is compared
with.
"""

import numpy as np
from jaxtyping import Float32, Int
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.evals.base import Rows
from mmjax.evals.prompts import normalise

_ROWS = 1024


def pixel_features(images: Rows, size: int = 32) -> Float32[np.ndarray, "N D"]:
    """Pictures as unit vectors: resized to size x size, each less its own mean, divided by its norm.

    Args:
      images: uint8[Y, X, 3] each, already on a plain background.
      size: pixels a side; D = 3 size².
    """
    pictures = (Image.fromarray(images[i]) for i in range(len(images)))
    small = np.stack([np.asarray(p.resize((size, size), Image.Resampling.BICUBIC)) for p in pictures])
    flat = small.reshape(len(small), -1).astype(np.float32)  # [N, size, size, 3] -> [N, D]
    flat -= flat.mean(axis=1, keepdims=True)
    flat[~flat.any(axis=1), 0] = 1  # a blank picture has no direction: give it one that means nothing
    return normalise(flat)


def nearest_pixels(queries: Rows, references: Rows, *, size: int = 32) -> Int[np.ndarray, " N"]:
    """Index of the reference whose pixels have the highest mean-centred cosine with each query's.

    Raises:
      UserError: nothing to compare, or most queries are themselves among the references: they would find themselves.
    """
    if not len(queries) or not len(references):
        raise UserError(f"matching by pixels needs pictures: {len(queries)} queries, {len(references)} references")
    asked, known = pixel_features(queries, size), pixel_features(references, size)
    nearest = np.empty(len(asked), np.int64)
    for start in range(0, len(asked), _ROWS):
        cosine = asked[start : start + _ROWS] @ known.T
        nearest[start : start + _ROWS] = cosine.argmax(axis=1)
    same = [i for i, j in enumerate(nearest) if np.array_equal(queries[i], references[int(j)])]
    if len(same) > len(asked) // 2:
        raise UserError(
            f"matching by pixels: {len(same)} of {len(asked)} queries are among the references themselves; "
            "give references in other styles"
        )
    return nearest
