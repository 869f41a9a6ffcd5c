"""VQ-KD with a decoder of 3 block(s), as published (Peng et al. 2022).

    mmjax train --config configs/vqkd/base_3.py --workdir runs/vqkd_base_3 --config.data.train=SOURCE --config.init=INIT

INIT gives the teacher a CLIP's weights: {"path": "ViT-B-16.pt", "load": ["img/.*", "img_proj/.*"], "rename": RENAME}
with _recipe.py's RENAME. Hardware: 8 GPUs. Expected: 250,000 steps; the logs give the loss of each term and `used`, the
share of the codes that were chosen lately. No run of this config to its end has been measured.
`configs/vqkd/base_3.py:smoke` trains a tiny one on the built-in scenes, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling


def get_config(variant: str = "") -> ConfigDict:
    return sibling(__file__, "_recipe").paper("base_3", variant)
