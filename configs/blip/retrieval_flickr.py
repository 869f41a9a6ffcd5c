"""BLIP ViT-B/16, retrieval on Flickr30k (released code): as retrieval_coco.py, on 29,000 images.

    mmjax train --config configs/blip/retrieval_flickr.py --workdir runs/blip_flickr
        --config.data.train=… --config.tokenizer.spec=wordpiece:bert-base-uncased

It begins as retrieval_coco.py does. Evaluated with the best 128 of each row matched again.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

TEXTS, BATCH, EPOCHS = 145_000, 256, 6


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    each = TEXTS // BATCH
    recipe = sibling(__file__, "_recipe")
    return recipe.paper(
        "base_retrieval_384",
        variant,
        steps=EPOCHS * each,
        lr=1e-5,
        batch=BATCH,
        text_length=35,
        task={"kind": "pairs", "image_id": True},
        queue=57_600,
        alpha_steps=each,
        init=recipe.contrasts(),
    )
