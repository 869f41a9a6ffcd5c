r"""BEiT-3 fine-tuned for NLVR2, as released: is a sentence true of two images? The rate falls by layers.

    mmjax train --config configs/beit3/nlvr2.py --workdir runs/beit3_nlvr2 \
        --config.data.train=SOURCE

It begins with the pre-trained model in runs/beit3_base (elsewhere: --config.init[0].path=DIR), `:large` with that in
runs/beit3_large. `tokenizer.spec` is the released SentencePiece model. Hardware: a group of 8 GPUs or more. No run of
this config to its end has been measured.
Reported by the release: test-P 84.4 (base), 89.4 (large).
`configs/beit3/nlvr2.py:smoke` resolves to a tiny model, but the built-in data has no statements on two pictures, so
name a source.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

STATEMENTS, BATCH = 86_373, 256


def get_config(variant: str = "") -> ConfigDict:
    """The config; `large` is the other size, `smoke` a form of a few steps."""
    return sibling(__file__, "_recipe").finetune(
        "nlvr2",
        variant,
        title="NLVR2",
        heads="pair_head/.*",
        image_size=224,
        text_length=64,
        data_task={"kind": "nlvr2"},
        examples=STATEMENTS,
        batch=BATCH,
        epochs=20,
        warm=5,
        rates={
            "base": {"lr": 7e-4, "layer_decay": 0.65, "drop_path": 0.2},
            "large": {"lr": 3e-4, "layer_decay": 0.85, "drop_path": 0.2},
        },
        weight_decay=0.2,
    )
