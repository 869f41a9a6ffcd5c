"""ALBEF's pre-training on 4 million images: contrast, matching and masked words, with a momentum teacher.

    mmjax train --config configs/albef/pretrain_4m.py --workdir runs/albef --config.data.train=SOURCE \\
        --config.tokenizer.spec=wordpiece:FOLDER

Data: COCO, Visual Genome, SBU and Conceptual Captions, 5.1 million pairs; FOLDER has the vocabulary of BERT uncased.
Hardware: the paper's is 8 A100. Expected: 298,830 steps of 512 pairs; the logs give the three losses (itc, itm, mlm),
the norm of the gradients and pairs per second. No run of this config to its end has been measured.
Which numbers come from the release and which do not: _recipe.py.
`configs/albef/pretrain_4m.py:smoke` trains a tiny model on the built-in emoji_scenes, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

PAIRS = 5_100_000


def get_config(variant: str = "") -> ConfigDict:
    recipe = sibling(__file__, "_recipe")
    return recipe.paper(
        "pretrain_256", variant, title="ALBEF, pre-training on 4M images", pairs=PAIRS, epochs=30, batch=512, lr=1e-4,
        end_lr=1e-5, warmup=2_000, text_length=25, teacher=recipe.TEACHER, image={"preset": "albef"},
        stage={"also_decay": ("img/cls", "tau")},
    )  # fmt: skip
