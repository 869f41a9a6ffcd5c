"""ALBEF fine-tuned to answer questions about images (VQA v2 with Visual Genome): a decoder of six layers.

    mmjax train --config configs/albef/vqa.py --workdir runs/albef_vqa --config.data.train=SOURCE \\
        --config.tokenizer.spec=wordpiece:FOLDER

The encoder begins as the pre-trained one (the folder ALBEF; elsewhere: --config.init[0].path=DIR and
--config.init[1].path=DIR), the decoder as its six layers that look at the image.
Hardware: the paper's is 8 A100. Expected of the paper's model (14M images): 75.84 on test-dev, the 3,128 candidate
answers ranked by the decoder. Not run here at this size. One thing differs from the release, whose answers end in two
[SEP]: here they end in one.
`configs/albef/vqa.py:smoke` trains a tiny model on questions of the built-in emoji_scenes, in seconds on a CPU.
"""

from typing import Any

from ml_collections import ConfigDict

from mmjax.core.config import sibling

PAIRS = 1_428_000  # questions of VQA v2 (train and val) and Visual Genome, about


def get_config(variant: str = "") -> ConfigDict:
    recipe = sibling(__file__, "_recipe")
    c = recipe.paper(
        "vqa_384", variant, title="ALBEF, VQA", pairs=PAIRS, epochs=8, batch=256, lr=2e-5, end_lr=1e-6, text_length=25,
        teacher=("(img|txt|dec)/.*",), task={"kind": "vqa", "answers": 4, "answer_length": 8, "weight": 0.5},
        init=answers(),
    )  # fmt: skip
    if variant:
        c.data.train = "emoji_scenes:train?parts=image,questions"
    return c


def answers(path: str = "ALBEF") -> tuple[dict[str, Any], ...]:
    """`config.init` from a pre-trained model, whose layers that look at the image become those of the decoder, too."""
    decoder = {"txt/fusion/(.*)": r"dec/fusion/\1", "txt/(embed|norm|head)(.*)": r"dec/\1\2",
               "txt/(pos|types)": r"dec/\1"}  # fmt: skip
    return (
        {"path": path, "load": ("(img|txt)/.*",), "skip": ("txt/head.*",)},
        {"path": path, "load": ("txt/(fusion|embed|norm|head).*", "txt/(pos|types)"), "rename": decoder},
    )
