"""open_clip's CoCa: configurations read, written and refused; every tensor there and back."""

import json

import numpy as np
import pytest
import safetensors.numpy

from mmjax.commands import models
from mmjax.core.errors import UserError
from mmjax.systems import base
from mmjax.systems.coca import SIZES
from mmjax.weights import coca_config, surgery

TEXT = {"context_length": 76, "vocab_size": 49408, "embed_cls": True, "output_tokens": True}


def published(width: int, heads: int, embed_dim: int, vision: dict, **text) -> dict:
    """A configuration as open_clip's repository holds it."""
    sizes = {"width": width, "heads": heads, "layers": 12}
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {"output_tokens": True, **vision},
        "text_cfg": {**TEXT, **sizes, **text},
        "multimodal_cfg": {"context_length": 76, "attn_pooler_heads": 8, "mlp_ratio": 4, **sizes, **text},
        "custom_text": True,
    }


POOLED = {"image_size": 224, "attentional_pool": True, "attn_pooler_heads": 8}
CONFIGS = {
    "open_clip_vit_b32": published(512, 8, 512, {**POOLED, "layers": 12, "width": 768, "patch_size": 32}),
    "open_clip_vit_l14": published(768, 12, 768, {**POOLED, "layers": 24, "width": 1024, "patch_size": 14}),
    "open_clip_base": published(768, 12, 512, {"image_size": 288, "layers": 12, "width": 768, "patch_size": 18},
                                vocab_size=64000),
}  # fmt: skip


@pytest.mark.parametrize("size", sorted(CONFIGS))
def test_the_published_configurations_are_the_sizes(size):
    read = coca_config.from_open_clip(CONFIGS[size], "config.json")
    assert models.shapes(read) == models.shapes({"name": "coca", **SIZES[size]})
    size = base.plain(SIZES[size])
    for tower in ("img", "txt", "dec"):
        found = read[tower] if tower != "dec" else coca_config.decoder_of(read)
        spelled = size[tower] if tower != "dec" else coca_config.decoder_of(size)
        assert {k: found.get(k) for k in spelled} == spelled
    assert {k: read.get(k) for k in size if k not in ("img", "txt", "dec")} == {
        k: v for k, v in size.items() if k not in ("img", "txt", "dec")
    }


@pytest.mark.parametrize("size", sorted(CONFIGS))
def test_a_written_configuration_reads_as_the_same_system(size):
    system = coca_config.from_open_clip(CONFIGS[size], "config.json")
    assert coca_config.from_open_clip(coca_config.to_open_clip(system), "again") == system
    changed = {**system, "pad_id": 3, "txt_bias": True, "scale_init": 20.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    changed["txt"] = {**system["txt"], "act": "gelu_tanh", "eps": 1e-6, "layer_scale": 0.1}
    changed["dec"] = {**system["dec"], "layer_scale": 0.2}
    again = coca_config.from_open_clip(coca_config.to_open_clip(changed), "again")
    assert again.pop("scale_init") == pytest.approx(changed.pop("scale_init"))
    assert again == changed


def test_what_open_clip_cannot_say_is_listed():
    with pytest.raises(UserError) as error:
        coca_config.to_open_clip({"name": "coca", **SIZES["base"]})
    for words in ("pool is 'cascade'", "project is False", "dec.mlps is 1", "cls_shift is False", "pad_id is not set",
                  "img.patch_bias is True", "img.cls is False"):  # fmt: skip
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("text_cfg", {"embed_cls": False}, "embed_cls = False"),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask = True"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "hf_model_name"),
        ("multimodal_cfg", {"width": 256}, "width = 256, but the text has states of 512"),
        ("vision_cfg", {"attentional_pool": "cascade"}, "attentional_pool = 'cascade'"),
        ("vision_cfg", {"pool_type": "avg"}, "pool_type = 'avg'"),
        ("vision_cfg", {"layers": [1, 1, 1, 1]}, "CoCa's image tower is a ViT"),
        ("vision_cfg", {"depth": 3}, "keys that mmjax does not know: depth"),
        ("multimodal_cfg", {"depth": 3}, "keys that mmjax does not know: depth"),
    ],
)
def test_what_is_not_computed_is_refused(section, change, words):
    config = json.loads(json.dumps(CONFIGS["open_clip_vit_b32"]))
    config[section] |= change
    with pytest.raises(UserError, match=words):
        coca_config.from_open_clip(config, "config.json")


@pytest.mark.parametrize("variant", ["main_a", "nopool_a"])
def test_a_checkpoint_is_written_as_it_was_read(variant, golden, tmp_path):
    folder = golden / "coca" / variant
    loaded = surgery.load(folder, models.shapes)
    assert loaded.system["name"] == "coca"
    surgery.export(loaded.variables, loaded.system, "open_clip", tmp_path, origin=loaded.origin)
    before, after = (safetensors.numpy.load_file(f / "model.safetensors") for f in (folder, tmp_path))
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
        assert after[key].dtype == value.dtype
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    # Without its origin the configuration is written anew, and reads as the same system.
    other = tmp_path / "other"
    surgery.export(loaded.variables, loaded.system, "open_clip", other)
    assert surgery.load(other, models.shapes).system == loaded.system


def test_fused_keys_where_the_pooler_is_as_wide_as_the_tower(golden, tmp_path):
    """torch stores one in_proj_weight where keys are as wide as queries."""
    system = surgery.load(golden / "coca" / "main_a", models.shapes).system
    system = {**system, "img": {**system["img"], "width": 24, "heads": 2, "mlp_dim": 48}}
    rng = np.random.default_rng(0)
    variables = {path: rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    surgery.export(models.trees.unflatten(variables), system, "open_clip", tmp_path)
    stored = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    fused = stored["visual.attn_pool.attn.in_proj_weight"]
    np.testing.assert_array_equal(fused[24:48], variables["params/cap_pool/attn/k/kernel"].T)
    assert surgery.load(tmp_path, models.shapes).system == system


def test_resized_positions_keep_the_class_tokens_row_in_the_table(golden):
    loaded = surgery.load(golden / "coca" / "main_a", models.shapes, text_length=6, image_size=64)
    assert loaded.variables["params"]["txt"]["pos"].shape == (7, 24)
    assert loaded.variables["params"]["img"]["pos"].shape == (65, 48)
