r"""BEiT-3 fine-tuned for captions on COCO, as released: masked words under a mask that hides what comes later.

    mmjax train --config configs/beit3/caption_coco.py --workdir runs/beit3_caption \
        --config.data.train=SOURCE

It begins with the pre-trained model in runs/beit3_base (elsewhere: --config.init[0].path=DIR), `:large` with that in
runs/beit3_large. `tokenizer.spec` is the released SentencePiece model. Hardware: a group of 8 GPUs or more. No run of
this config to its end has been measured.
Reported by the release: CIDEr 133.6 (base), 143.2 (large). Ours: one epoch of warm-up. Not part of it: that the worst
fifth of the words leaves the loss after 12,000 steps.
`configs/beit3/caption_coco.py:smoke` trains a tiny model on the built-in scenes, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

TEXTS, BATCH = 566_747, 256


def get_config(variant: str = "") -> ConfigDict:
    """The config; `large` is the other size, `smoke` a form of a few steps."""
    return sibling(__file__, "_recipe").finetune(
        "caption",
        variant,
        title="captions of COCO",
        heads="words/.*",
        image_size=480,
        text_length=32,
        data_task={"kind": "pairs"},
        examples=TEXTS,
        batch=BATCH,
        epochs=10,
        warm=1,
        rates={
            "base": {"lr": 4e-5, "layer_decay": 1.0, "drop_path": 0.1},
            "large": {"lr": 8e-6, "layer_decay": 1.0, "drop_path": 0.1},
        },
        weight_decay=0.05,
    )
