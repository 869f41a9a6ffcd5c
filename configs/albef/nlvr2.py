"""ALBEF fine-tuned for NLVR2: is a sentence true of two images? Each layer that looks at an image comes twice.

    mmjax train --config configs/albef/nlvr2.py --workdir runs/albef_nlvr2 --config.data.train=SOURCE \\
        --config.tokenizer.spec=wordpiece:FOLDER

Both layers of a pair begin as the same layer of the pre-trained model and share its keys and values. The release trains
one epoch of text assignment before this, which mmjax does not have.
Hardware: the paper's is 8 A100. Expected of the paper's model (14M images), with that epoch: 82.55 on dev and 83.14 on
test-P. Not run here at this size.
`configs/albef/nlvr2.py:smoke` resolves to a tiny model; the built-in data has no pairs of images, so name a source.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

PAIRS = 86_373


def get_config(variant: str = "") -> ConfigDict:
    recipe = sibling(__file__, "_recipe")
    init = [
        {"path": "ALBEF", "load": ("img/.*", "txt/.*"), "skip": ("txt/head.*", "txt/fusion/.*")},
        *[_twin(pair, which) for pair in range(6) for which in range(2)],
        *[_shared(pair) for pair in range(6)],
        {"path": "random", "load": ("fc[12]/.*",)},
    ]
    return recipe.paper(
        "nlvr2_384", variant, title="ALBEF, NLVR2", pairs=PAIRS, epochs=10, batch=128, lr=2e-5, end_lr=1e-6,
        text_length=30, teacher=("(img|txt|twin)/.*", "fc[12]/.*"), task={"kind": "nlvr2"}, grows=False, init=init,
    )  # fmt: skip


def _twin(pair: int, which: int) -> dict:
    old, new = f"txt/fusion/block_{pair}", f"twin/block_{2 * pair + which}"
    return {
        "path": "ALBEF",
        "load": (f"{old}/.*",),
        "skip": (f"{old}/cross/[kv]/.*",),
        "rename": {f"{old}/(.*)": rf"{new}/\1"},
    }


def _shared(pair: int) -> dict:
    old = f"txt/fusion/block_{pair}/cross"
    return {"path": "ALBEF", "load": (f"{old}/[kv]/.*",), "rename": {f"{old}/([kv])/(.*)": rf"twin/\1_{pair}/\2"}}
