"""CLIP ViT-L/14 as in its paper (Radford et al. 2021, §2.4 and §2.5).

    mmjax train --config configs/clip/vit_l14.py --workdir runs/clip_vit_l14 --config.data.train=SOURCE

Hardware: a slice of a TPU pod or a cluster of GPUs, in groups of 8 devices; 256 devices take 128 images of 224
pixels each. Parameters and moments (427,616,513 of each, float32) take 5.1 GB in each group of 8, besides gradients
and activations. With fewer than 8 devices set --config.mesh.fsdp=1, and a --config.data.batch_size that fits.
Expected: 390,625 steps. The logs give the loss, the norm of the gradients, pairs per second and the share of time
spent waiting for input; afterwards `mmjax eval` measures zero-shot accuracy or retrieval, and so do evaluators
entered in `evals`. No run of this config to its end has been measured.
Which numbers come from the paper and which do not: _recipe.py.
`configs/clip/vit_l14.py:smoke` trains a tiny model of the same kind on the built-in emoji, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling


def get_config(variant: str = "") -> ConfigDict:
    return sibling(__file__, "_recipe").paper("vit_l14", variant, lr=4e-4)
