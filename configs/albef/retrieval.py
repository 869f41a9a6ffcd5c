"""ALBEF fine-tuned for retrieval on COCO: contrast with all captions of a picture as positives, and matching.

    mmjax train --config configs/albef/retrieval.py --workdir runs/albef_coco --config.data.train=SOURCE \\
        --config.tokenizer.spec=wordpiece:FOLDER --config.init.path=ALBEF

ALBEF is a checkpoint of pre-training (the released ALBEF.pth with a config.json beside it, or a work directory); its
positions are resized to 384 pixels. Flickr30k: 10 epochs of its 145,000 pairs.
Hardware: the paper's is 8 A100. Expected of the paper's model (14M images): R@1 77.6 from image to text and 60.7 from
text to image on COCO's test images, with the 256 best of the cosines ranked again. Not run here at this size.
`configs/albef/retrieval.py:smoke` trains a tiny model on the built-in emoji_scenes, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

PAIRS = 566_747


def get_config(variant: str = "") -> ConfigDict:
    recipe = sibling(__file__, "_recipe")
    load = ("(img|txt)/.*", "(img|txt)_proj/.*", "itm_head/.*", "tau")
    return recipe.paper(
        "retrieval_384", variant, title="ALBEF, retrieval on COCO", pairs=PAIRS, epochs=5, batch=256, lr=1e-5,
        end_lr=1e-6, text_length=30, teacher=recipe.TEACHER, task={"kind": "pairs", "image_id": True},
        stage={"also_decay": ("img/cls", "tau")},
        init=ConfigDict({"path": "ALBEF", "load": load, "skip": ("txt/head.*",)}),
    )  # fmt: skip
