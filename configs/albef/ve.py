"""ALBEF fine-tuned for visual entailment (SNLI-VE): does the image contradict a sentence, or bear it out?

    mmjax train --config configs/albef/ve.py --workdir runs/albef_ve --config.data.train=SOURCE \\
        --config.tokenizer.spec=wordpiece:FOLDER

Classes: 0 contradiction, 1 neutral, 2 entailment. Hardware: the paper's is 8 A100. Expected of the paper's model (14M
images): 80.80 on the validation and 80.91 on the test sentences. Not run here at this size.
`configs/albef/ve.py:smoke` resolves to a tiny model; the built-in data has no entailment, so name a source for it.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

PAIRS = 529_527


def get_config(variant: str = "") -> ConfigDict:
    recipe = sibling(__file__, "_recipe")
    init = [
        {"path": "ALBEF", "load": ("(img|txt)/.*",), "skip": ("txt/head.*",)},
        {"path": "random", "load": ("fc[12]/.*",)},
    ]
    return recipe.paper(
        "ve_384", variant, title="ALBEF, SNLI-VE", pairs=PAIRS, epochs=5, batch=256, lr=2e-5, end_lr=1e-6,
        text_length=30, teacher=("(img|txt)/.*", "fc[12]/.*"), task={"kind": "entailment"}, grows=False, init=init,
    )  # fmt: skip
