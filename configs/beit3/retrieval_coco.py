r"""BEiT-3 fine-tuned for retrieval on COCO, as released: a dual encoder at 384 pixels, the rate falling by layers.

    mmjax train --config configs/beit3/retrieval_coco.py --workdir runs/beit3_retrieval \
        --config.data.train=SOURCE

It begins with the pre-trained model in runs/beit3_base (elsewhere: --config.init[0].path=DIR), `:large` with that in
runs/beit3_large. `tokenizer.spec` is the released SentencePiece model. Hardware: a group of 8 GPUs or more. No run of
this config to its end has been measured.
Reported by the release: text to image R@1 61.4, image to text 79.1 (base), 63.4 and 82.1 (large), from a model that had
learned contrast on its pre-training's pairs before, which is not part of this.
`configs/beit3/retrieval_coco.py:smoke` trains a tiny model on the built-in scenes, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

TEXTS, BATCH = 566_747, 3072


def get_config(variant: str = "") -> ConfigDict:
    """The config; `large` is the other size, `smoke` a form of a few steps."""
    return sibling(__file__, "_recipe").finetune(
        "retrieval",
        variant,
        title="retrieval on COCO",
        heads="(img|txt)_proj/.*",
        image_size=384,
        text_length=64,
        data_task={"kind": "pairs"},
        examples=TEXTS,
        batch=BATCH,
        epochs=15,
        warm=3,
        rates={
            "base": {"lr": 2e-4, "layer_decay": 0.65, "drop_path": 0.2},
            "large": {"lr": 5e-5, "layer_decay": 0.85, "drop_path": 0.2},
        },
        weight_decay=0.05,
    )
