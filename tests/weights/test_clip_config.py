import copy
import json
import pathlib

import pytest

from mmjax.core.errors import UserError
from mmjax.weights import clip_config
from mmjax.weights.clip_config import config_from, detect_layout, eos_id, system_from

OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2},
}


def fixture(golden: pathlib.Path, name: str) -> dict:
    return json.loads((golden / "clip" / name / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "layout"),
    [("hf_a", "hf"), ("open_clip_a", "open_clip"), ("openai_vit_a", "openai"), ("openai_rn_a", "openai")],
)  # fmt: skip
def test_layouts_and_back(name: str, layout: str, golden: pathlib.Path) -> None:
    config = fixture(golden, name)
    assert detect_layout(config, name) == layout
    system = system_from(config, layout, name)
    again = config_from(system, layout, eos_id=eos_id(config, layout))
    assert detect_layout(again, name) == layout
    assert system_from(again, layout, name) == system and eos_id(again, layout) == eos_id(config, layout)


def test_siglip_2() -> None:
    """Google's smallest configuration says the vocabulary alone; NaFlex is named, and refused."""
    given = {"model_type": "siglip", "text_config": {"vocab_size": 256_000}, "vision_config": {"image_size": 512}}
    system = system_from(given, detect_layout(given, "config.json"), "config.json")
    assert (system["txt"]["vocab"], system["txt"]["length"], system["embed_dim"]) == (256_000, 64, 768)
    assert (system["img"]["image_size"], system["img"]["patch"], system["txt"]["act"]) == (512, 16, "gelu_tanh")
    with pytest.raises(UserError, match=r"model_type 'siglip2' is SigLIP 2's NaFlex .* not supported"):
        detect_layout({"model_type": "siglip2", "text_config": {}, "vision_config": {}}, "config.json")


def test_sizes_of_a_published_configuration() -> None:
    system = system_from({"model_type": "clip"}, "hf", "config.json")  # the library's defaults: ViT-B/32
    assert system["img"] == {
        "image_size": 224, "patch": 32, "width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072, "act": "quick_gelu",
        "eps": 1e-5,
    }  # fmt: skip
    assert system["txt"]["vocab"] == 49408 and system["txt"]["length"] == 77 and system["embed_dim"] == 512


def test_open_clip_uses_the_error_function_unless_told() -> None:
    system = system_from(OPEN_CLIP, "open_clip", "config.json")
    assert system["img"]["act"] == system["txt"]["act"] == "gelu" and system["img"]["heads"] == 3
    quick = system_from(OPEN_CLIP | {"quick_gelu": True}, "open_clip", "config.json")
    assert quick["img"]["act"] == "quick_gelu"
    tanh = copy.deepcopy(OPEN_CLIP)
    tanh["vision_cfg"] |= {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}}
    system = system_from(tanh, "open_clip", "config.json")
    assert (system["img"]["act"], system["img"]["eps"], system["txt"]["act"]) == ("gelu_tanh", 1e-6, "gelu")


def test_open_clip_options_and_back() -> None:
    config = copy.deepcopy(OPEN_CLIP) | {"init_logit_bias": -10.0, "init_logit_scale": 2.0}
    config["vision_cfg"] |= {"no_ln_pre": True, "ls_init_value": 0.1, "pool_type": "avg", "patch_dropout": 0.5}
    config["text_cfg"] |= {"pool_type": "eos", "eos_id": 7, "mlp_ratio": 2.5}
    system = system_from(config, "open_clip", "config.json")
    assert system["loss"] == "sigmoid" and system["txt"]["mlp_dim"] == 60
    assert system["img"]["norm_pre"] is False and system["img"]["norm_post"] == "all"
    again = config_from(system, "open_clip", eos_id=7)
    assert system_from(again, "open_clip", "again") == system and eos_id(again, "open_clip") == 7
    wrapped = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    system = system_from(wrapped, "open_clip", "open_clip_config.json")
    assert system["mean"] == [0.5] * 3
    assert config_from(system, "open_clip", eos_id=7)["preprocess_cfg"] == wrapped["preprocess_cfg"]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vision_cfg", {"timm_model_name": "convnext_base"}, "vision_cfg.*timm_model_name = 'convnext_base'"),
        ("vision_cfg", {"attentional_pool": True}, "attentional_pool = True"),
        ("vision_cfg", {"qk_norm": True}, "qk_norm = True"),
        ("vision_cfg", {"shiny": 1}, "does not know: shiny"),
        ("vision_cfg", {"image_size": [32, 48]}, "only square images"),
        ("vision_cfg", {"norm_kwargs": {"bias": False}}, "norm_kwargs.*does not know: bias"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "hf_model_name = 'roberta-base'"),
        ("text_cfg", {"pool_type": "first", "embed_cls": True}, "embed_cls = True.*pool_type = 'first'"),
        ("text_cfg", {"use_pad_mask": True}, "use_pad_mask = True"),
    ],
)
def test_what_open_clip_can_and_mmjax_cannot(section: str, change: dict, message: str) -> None:
    config = copy.deepcopy(OPEN_CLIP)
    config[section] |= change
    with pytest.raises(UserError, match=message):
        system_from(config, "open_clip", "config.json")


def test_hf_errors_name_the_key(golden: pathlib.Path) -> None:
    config = fixture(golden, "hf_a")
    config["text_config"]["hidden_act"] = "mish"
    with pytest.raises(UserError, match="text_config: not supported: hidden_act = 'mish'"):
        system_from(config, "hf", "config.json")
    config = fixture(golden, "hf_a")
    config["vision_config"]["num_channels"] = 4
    with pytest.raises(UserError, match="num_channels = 4"):
        system_from(config, "hf", "config.json")


def test_hf_legacy_sections_win(golden: pathlib.Path) -> None:
    config = {"model_type": "clip", "text_config": {"hidden_size": 32}, "text_config_dict": {"hidden_size": 48}}
    assert system_from(config, "hf", "config.json")["txt"]["width"] == 48


def test_end_of_text(golden: pathlib.Path) -> None:
    config = fixture(golden, "hf_a")
    assert eos_id(config, "hf") == 98
    config["text_config"]["eos_token_id"] = 2  # the library's old default: at the largest id
    assert eos_id(config, "hf") is None and eos_id({}, "openai") is None


def test_training_settings_are_named(golden: pathlib.Path) -> None:
    config = fixture(golden, "hf_a")
    assert clip_config.unused(config, "hf") == ()
    config["vision_config"]["attention_dropout"] = 0.1
    assert clip_config.unused(config, "hf")[0].startswith("not taken over: vision_config.attention_dropout = 0.1")


def test_unknown_layouts() -> None:
    with pytest.raises(UserError, match="model_type 'bert'"):
        detect_layout({"model_type": "bert"}, "config.json")
    with pytest.raises(UserError, match="the key 'embed_dim' is missing"):
        system_from(
            {"vision_layers": 1, "vision_width": 64, "vision_patch_size": 8, "transformer_width": 64},
            "openai",
            "config.json",
        )
    with pytest.raises(UserError, match="unknown layout 'keras'"):
        config_from({}, "keras")


def test_what_a_layout_cannot_say(golden: pathlib.Path) -> None:
    system = system_from(fixture(golden, "hf_a"), "hf", "hf_a")
    with pytest.raises(UserError, match=r"'openai' cannot hold.*txt\.mlp_dim is 64.*img\.heads is 4"):
        config_from(system, "openai")
    resnet = system_from(fixture(golden, "openai_rn_a"), "openai", "rn")
    with pytest.raises(UserError, match=r"'hf' cannot hold.*img\.kind is 'resnet'"):
        config_from(resnet, "hf")
    with pytest.raises(UserError, match="logit_bias"):
        config_from(system | {"loss": "sigmoid"}, "hf")
    vit = system_from(fixture(golden, "openai_vit_a"), "openai", "vit")
    with pytest.raises(UserError, match="texts end in 5"):
        config_from(vit, "openai", eos_id=5)
    with pytest.raises(UserError, match="one tower with quick_gelu and one without"):
        config_from(vit | {"txt": vit["txt"] | {"act": "gelu"}}, "open_clip")


def test_openai_sizes_from_shapes(golden: pathlib.Path) -> None:
    from mmjax.weights import files

    for name in ("openai_vit_a", "openai_rn_a"):
        tensors = files.open_tensors(golden / "clip" / name)
        shapes = {key: tensors.shape(key) for key in tensors.keys()}  # noqa: SIM118 (no mapping)
        assert clip_config.infer_openai(shapes) == fixture(golden, name)
    with pytest.raises(UserError, match=r"text_projection.* is missing"):
        clip_config.infer_openai({key: shape for key, shape in shapes.items() if key != "text_projection"})
