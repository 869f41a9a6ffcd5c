"""CoCa 2.1B as in its paper (Yu et al. 2022, Table 1 and §4.1).

    mmjax train --config configs/coca/coca.py --workdir runs/coca_coca \
        --config.data.train=SOURCE --config.tokenizer.spec=sentencepiece:MODEL

Hardware: the paper's run took five days on 2,048 chips of TPU v4; groups of 8 devices hold a copy.
Parameters, poolers included: 2,208,285,441, float32; Adafactor keeps one moment of that size besides.
Expected: 500,000 steps of 65,536 pairs. No run of this config to its end has been measured. The second part, one epoch
with images of 576 pixels: --config.init=runs/coca_coca --config.system.img.image_size=576 in a new work directory.
Which numbers come from the paper and which do not: _recipe.py.
`configs/coca/coca.py:smoke` trains a tiny model of the same kind on the built-in emoji, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling


def get_config(variant: str = "") -> ConfigDict:
    return sibling(__file__, "_recipe").paper("coca", variant)
