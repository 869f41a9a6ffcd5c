import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import pytest

from mmjax.core.errors import UserError
from mmjax.encoders.resnet import ModifiedResNet
from mmjax.encoders.vit import ViT
from mmjax.systems import base, build

IMG = {"image_size": 16, "patch": 8, "width": 24, "depth": 2, "heads": 2}
TXT = {"vocab": 50, "length": 8, "width": 16, "depth": 2, "heads": 2}


def test_a_size_with_overrides():
    system = build({"name": "clip", "size": "vit_b32", "embed_dim": 64, "img": {"image_size": 64, "patch": 8}})
    assert (system.embed_dim, system.img.width, system.img.image_size, system.img.patch) == (64, 768, 64, 8)
    assert system.txt.vocab == 49_408


def test_another_kind_of_tower_replaces_the_size_s_own():
    img = {"kind": "resnet", "image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "heads": 2}
    system = build({"name": "clip", "size": "vit_b32", "img": img})
    assert isinstance(system.img, ModifiedResNet) and not system.project_img
    assert (system.img.layers, system.img.features, system.img.heads) == ((1, 2, 1, 1), 512, 2)


def test_config_dicts_build_the_same():
    config = {"name": "clip", "embed_dim": 12, "img": IMG, "txt": TXT, "mean": [0.5, 0.5, 0.5]}
    assert build(ml_collections.ConfigDict(config)) == build(config)
    assert build(config).mean == (0.5, 0.5, 0.5)
    assert isinstance(build(config).img, ViT)


def test_dtype_scan_and_remat_reach_both_towers_and_a_tower_may_differ():
    config = {"name": "clip", "embed_dim": 12, "img": {**IMG, "remat": None}, "txt": TXT}
    system = build({**config, "dtype": "bfloat16", "scan": True, "remat": "full"})
    assert system.img.dtype == system.txt.dtype == system.dtype == jnp.bfloat16
    assert system.img.scan and system.txt.scan and system.img.remat is None and system.txt.remat == "full"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "clap"}, "system name 'clap' does not exist; there are 'albef', "),
        ({"size": "vit_b"}, "'vit_b' is not one of .*'vit_b32'"),
        ({"lr": 1}, "unknown key lr; valid keys: .*embed_dim"),
        ({"loss": "triplet"}, "'triplet' is not one of 'softmax', 'sigmoid'"),
        ({"loss_form": "fast"}, "'fast' is not one of 'plain', 'blocked', 'ring'"),
        ({"remat": "all"}, "remat: 'all' is not one of None, 'full', 'dots'"),
        ({"dtype": "float16"}, "'float16'"),
        ({"img": {**IMG, "depht": 3}}, "clip: img: unknown key depht; valid keys: .*depth"),
        ({"img": {**IMG, "kind": "vgg"}}, "'vgg' is not one of 'vit', 'resnet'"),
        ({"img": {**IMG, "act": "swish"}}, "img: act: 'swish' is not one of 'gelu', "),
        ({"img": {"image_size": 16}}, "missing key depth, heads, patch, width"),
        ({"img": {**IMG, "heads": 5}}, "5 heads do not divide the width 24"),
        ({"img": {"kind": "resnet", "image_size": 64, "layers": [1, 2], "width": 4}}, "four counts"),
        ({"txt": {**TXT, "patch": 3}}, "clip: txt: unknown key patch"),
    ],
)
def test_mistakes_name_the_place_and_what_would_be_valid(changes, message):
    with pytest.raises(UserError, match=message):
        build({"name": "clip", "embed_dim": 12, "img": IMG, "txt": TXT, **changes})


def test_the_documentation_names_every_key():
    text = base.__doc__
    for key in base._VIT | base._RESNET | base._TEXT | base._BERT:
        assert re.search(rf"\b{key}\b", text), key


def test_bert_s_weights_begin_as_told():
    txt = base.bert_tower("txt", {**TXT, "width": 64, "heads": 2, "mlp_dim": 256, "init_std": 0.1})
    ids = jnp.zeros((1, 4), jnp.int32)
    block = nn.unbox(txt.init(jax.random.key(0), ids, ids == 0))["params"]["text"]["block_0"]
    kernels = [x for x in jax.tree.leaves(block) if x.ndim == 2]
    assert len(kernels) == 6
    for kernel in kernels:
        assert float(kernel.std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("value", [0, 1, -0.1, "wide"])
def test_no_such_spread_of_weights(value):
    with pytest.raises(UserError, match=r"txt: init_std = .*; valid: a small positive number, such as 0\.02"):
        base.bert_tower("txt", {**TXT, "init_std": value})
