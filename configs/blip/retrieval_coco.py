"""BLIP ViT-B/16, retrieval on COCO (released code): contrast and matching, pairs of one image as positives.

    mmjax train --config configs/blip/retrieval_coco.py --workdir runs/blip_coco
        --config.data.train=coco:… --config.tokenizer.spec=wordpiece:bert-base-uncased

It begins with the pre-trained model in runs/blip (elsewhere: --config.init[0].path=DIR --config.init[1].path=DIR).
Reported for the base model from 129 million images: text R@1 81.9, image R@1 64.3 on COCO's 5K test, with the best 256
of each row matched again (Li et al. 2022).
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

TEXTS, BATCH, EPOCHS = 566_747, 256, 6


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
