"""Depth of parameters by their paths, and layer-wise rates against scales computed by hand."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import systems
from mmjax.commands import models
from mmjax.core import config as configs
from mmjax.core import sharding, trees
from mmjax.core.config import sibling
from mmjax.core.errors import UserError
from mmjax.core.stacking import stack_blocks
from mmjax.train.layers import steps_below_top, towers
from mmjax.train.optim import decay_mask, rate_factors
from mmjax.train.stage import Stage, make_stage

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
VLMO = ("itc", "itm", "mlm")
TINY = {"width": 8, "heads": 2, "img": {"image_size": 8, "patch": 4}}
TXT = {"vocab": 12, "length": 6, "mask_id": 4}


@functools.lru_cache
def multiway(name, tasks, depth, top):
    """Shapes of the parameters of a small VLMo or BEiT-3."""
    scale = {"layer_scale": 0.1} if name == "vlmo" else {}
    system = systems.build({"name": name, "tasks": tasks, "depth": depth, "top": top, **TINY, "txt": TXT, **scale})
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), system.example(2))
    rngs = {key: jax.random.key(0) for key in ("params", "dropout")}
    made = jax.eval_shape(lambda: system.init(rngs, batch, train=False))
    return sharding.unbox(made)["params"]


def factors(params, decay=0.5, **settings):
    return trees.flatten(rate_factors(params, Stage(steps=1, lr=1.0, layer_decay=decay, **settings)))


def test_beit3_as_released():
    """L = 3 blocks: heads and final norms 1, block i decay^(L - i), everything called "embed" decay^(L + 1)."""
    flat = factors(multiway("beit3", ("mdm",), 3, 0))
    by_part = {}
    for path, factor in flat.items():
        part = "/".join(path.split("/")[:3]) if "block" in path else path.split("/")[0]
        part = "final" if "norm_final" in path else part
        by_part.setdefault(part, set()).add(factor)
    assert by_part == {"img": {0.0625}, "txt": {0.0625}, "fusion/low/block_0": {0.125}, "fusion/low/block_1": {0.25},
                       "fusion/low/block_2": {0.5}, "final": {1.0}, "words": {1.0}, "patches": {1.0}}  # fmt: skip


def test_the_upper_stack_goes_on_where_the_lower_one_ends():
    """VLMo: two blocks without and two with the fused expert are four blocks of one tower."""
    flat = factors(multiway("vlmo", VLMO, 4, 2))
    scales = [flat[f"fusion/{block}/norm1/scale"] for block in ("low/block_0", "low/block_1", "top/block_0",
                                                                "top/block_1")]  # fmt: skip
    assert scales == [0.0625, 0.125, 0.25, 0.5]
    assert flat["fusion/top/block_0/mlp_vl/fc1/kernel"] == 0.25
    assert {flat[path] for path in ("types", "txt/types", "txt/norm/scale", "img/patch/kernel", "img/cls")} == {2**-5}
    tops = ("bias/table", "pooler/kernel", "words/kernel", "itm/bias", "img_vl_proj/kernel", "log_vl_scale")
    assert {flat[path] for path in tops} == {1.0}


def test_a_scanned_stack_has_a_vector_of_scales():
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), multiway("beit3", ("mdm",), 3, 0))
    flat = factors(stack_blocks(params))
    kernel = flat["fusion/low/blocks/mlp_img/fc1/kernel"]
    assert kernel.shape == (3, 1, 1) and kernel.ravel().tolist() == [0.125, 0.25, 0.5]
    assert flat["fusion/low/blocks/norm1_txt/scale"].shape == (3, 1) and flat["img/pos"] == 0.0625


def test_towers_count_by_themselves():
    paths = [f"img/layer{group}_{i}/conv1/kernel" for group, blocks in ((1, 2), (2, 1)) for i in range(blocks)]
    paths += ["img/conv1/kernel", "img/attnpool/pos", "txt/embed/embedding", "txt/norm/scale", "img_proj/kernel"]
    paths += [f"txt/{stack}/block_{i}/attn/q/kernel" for stack in ("fusion", "text") for i in range(2)]
    below = steps_below_top(paths, towers(paths))
    assert [below[path] for path in paths[:3]] == [3, 2, 1]  # a ResNet's blocks, stage by stage
    assert (below["img/conv1/kernel"], below["img/attnpool/pos"], below["img_proj/kernel"]) == (4, 0, 0)
    # ALBEF's text layers come before those that look at the image.
    order = ("text/block_0", "text/block_1", "fusion/block_0", "fusion/block_1")
    assert [below[f"txt/{name}/attn/q/kernel"] for name in order] == [4, 3, 2, 1]
    assert below["txt/embed/embedding"] == below["txt/norm/scale"] == 5


def test_what_nothing_is_known_of_is_an_error_or_stated():
    paths = ["img/transformer/block_0/norm1/scale", "img/gate/kernel", "txt/embed/embedding"]
    with pytest.raises(UserError, match=r"how deep img/gate/kernel, txt/embed/embedding lie; towers .*\['img'\]"):
        steps_below_top(paths, towers(paths))
    stated = (("img/gate/.*", "below"), (".*", "above"))
    assert list(steps_below_top(paths, towers(paths), stated).values()) == [1, 2, 0]
    with pytest.raises(UserError, match="how deep txt/embed/embedding lie"):  # below no tower
        steps_below_top(paths, towers(paths), ((".*", "below"),))


def test_a_stated_pattern_that_matches_nothing():
    with pytest.raises(UserError, match=r"layers \['image/\.\*'\] matches no parameter"):
        factors(multiway("beit3", ("mdm",), 3, 0), layers=(("image/.*", "below"),))


@pytest.mark.parametrize("scanned", [False, True])
def test_what_decays_as_released(scanned):
    """BEiT-3: not what has one axis, nor positions of images and the class token; those of texts and the mask do.
    VLMo, by its names: of the norms only the experts' gains; layer scale, class token, temperatures; not the table."""
    recipes = {name: sibling(str(CONFIGS / name / "base.py"), "_recipe") for name in ("beit3", "vlmo")}
    trees_of = {"beit3": multiway("beit3", ("mdm",), 3, 0), "vlmo": multiway("vlmo", VLMO, 4, 2)}
    for name, last in (("beit3", "pretrain"), ("vlmo", "pairs")):
        stage, params = make_stage(name, configs.plain(recipes[name].paper("base").stages[last])), trees_of[name]
        if scanned:
            params = stack_blocks(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params))
        mask = trees.flatten(decay_mask(params, stage.no_decay, stage.also_decay))
        decayed = {path for path, on in mask.items() if on}
        expected = {
            path for path in mask if path.endswith(("kernel", "embedding", "txt/pos", "/types")) or path == "types"
        }
        if name == "beit3":
            expected |= {"img/mask"}
        else:
            gains = {path for path in mask if re.search(r"/norm2_\w+/scale$|/scale[12]$", path)}
            assert len(gains) > 4
            expected |= gains | {"img/cls", "log_scale", "log_vl_scale"}
        assert decayed == expected


def test_fine_tuning_has_the_published_rates():
    """BEiT-3 base and large, retrieval on COCO: peak 2e-4 and 5e-5, factor .65 and .85 a layer."""
    for variant, depth, peak, decay in (("", 12, 2e-4, 0.65), (":large", 24, 5e-5, 0.85)):
        config = configs.plain(configs.load(f"{CONFIGS}/beit3/retrieval_coco.py{variant}"))
        stage = make_stage("finetune", config["stages"]["finetune"])
        assert (stage.lr, stage.layer_decay, stage.b2, stage.end_lr) == (peak, decay, 0.999, 1e-6)
        shapes = models.shapes(models.spelled_out(config["system"]))
        params = {
            path.removeprefix("params/"): jax.ShapeDtypeStruct(shape, np.float32)
            for path, shape in shapes.items()
            if path.startswith("params/")
        }
        flat = trees.flatten(rate_factors(trees.unflatten(params), stage))
        assert flat["img/patch/kernel"] == pytest.approx(decay ** (depth + 1)) and flat["img_proj/kernel"] == 1.0
        assert flat["fusion/low/block_2/mlp_txt/fc1/kernel"] == pytest.approx(decay ** (depth - 2))
