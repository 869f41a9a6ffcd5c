"""CLIP ViT-L/14@336: one further epoch at 336 pixels, from the weights of ViT-L/14 (Radford et al. 2021, §2.5).

    mmjax train --config configs/clip/vit_l14_336.py --workdir runs/clip_vit_l14_336 --config.data.train=SOURCE

`init` names the weights to begin with: the work directory of vit_l14.py, or --config.init=DIR with a checkpoint of
any layout that mmjax reads. Their positions are resized from 16x16 to 24x24.
Hardware: a slice of a TPU pod or a cluster of GPUs, in groups of 8 devices; 256 devices take 128 images of 336
pixels each. Parameters and moments (427,944,193 of each, float32) take 5.1 GB in each group of 8, besides gradients
and activations. With fewer than 8 devices set --config.mesh.fsdp=1, and a --config.data.batch_size that fits.
Expected: 12,207 steps. The logs give the loss, the norm of the gradients, pairs per second and the share of time
spent waiting for input; afterwards `mmjax eval` measures zero-shot accuracy or retrieval, and so do evaluators
entered in `evals`. No run of this config to its end has been measured.
Which numbers come from the paper and which do not: _recipe.py. The paper does not say how this epoch is scheduled:
warm-up and cosine are as in the first training.
`configs/clip/vit_l14_336.py:smoke` trains a tiny model of the same kind on the built-in emoji, in seconds on a
CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling


def get_config(variant: str = "") -> ConfigDict:
    return sibling(__file__, "_recipe").paper("vit_l14_336", variant, lr=2e-5, epochs=1, init="runs/clip_vit_l14")
