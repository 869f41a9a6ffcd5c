"""LLaVA's published configurations as a system mapping, and back."""

import re
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights.clip_config import HF_ACTS, vision_from
from mmjax.weights.config_checks import refuse, require
from mmjax.weights.llama_config import config_from as decoder_config
from mmjax.weights.llama_config import decoder_from

HF_MODELS = ("llava", "llava_next")
# The released models name their vision tower instead of describing it.
TOWERS = {
    f"openai/clip-vit-large-patch14{suffix}": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                                               "num_attention_heads": 16, "image_size": size, "patch_size": 14}
    for suffix, size in (("", 224), ("-336", 336))
}  # fmt: skip
_ORIGINAL = frozenset({
    "vision_config", "mm_vision_tower", "mm_hidden_size", "mm_vision_select_layer", "mm_vision_select_feature",
    "mm_use_im_patch_token", "mm_use_im_start_end", "mm_projector_type", "mm_patch_merge_type", "image_aspect_ratio",
    "image_grid_pinpoints", "image_crop_resolution", "image_split_resolution", "mm_projector_lr",
    "mm_vision_tower_lr", "mm_resampler_type", "mm_tunable_parts", "tokenizer_padding_side",
    "tokenizer_model_max_length", "tune_mm_mlp_adapter", "freeze_mm_mlp_adapter", "unfreeze_mm_vision_tower",
    "use_mm_proj", "pretrain_mm_mlp_adapter",
})  # fmt: skip


def layout_of(config: Mapping[str, Any]) -> str | None:
    """The layout that a configuration is of, or None."""
    if config.get("model_type") in HF_MODELS and "text_config" in config:
        return "hf"
    return "llava" if "mm_projector_type" in config or "mm_vision_tower" in config else None


def system_from(config: Mapping[str, Any], layout: str, where: str) -> dict[str, Any]:
    """The mapping for `systems.build`, every size spelled out.

    Raises:
      UserError: a key that is missing, or a value that would change the model and is not supported.
    """
    try:
        return _from_hf(config, where) if layout == "hf" else _from_original(config, where)
    except KeyError as error:
        raise UserError(f"{where}: the key {error} is missing") from error


def _from_hf(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    layers = config.get("vision_feature_layer", -2)
    select = config.get("vision_feature_select_strategy", "default")
    act = config.get("projector_hidden_act", "gelu")
    require(where, {"vision_feature_select_strategy": select}, {"vision_feature_select_strategy": ("default", "full")})
    require(where, {"projector_hidden_act": act}, {"projector_hidden_act": tuple(HF_ACTS)})
    vision = dict(config.get("vision_config") or {})
    require(f"{where}: vision_config", vision, {"model_type": ("clip_vision_model",)})
    text = {"tie_word_embeddings": config.get("tie_word_embeddings", False), **config["text_config"]}
    ends = text.get("eos_token_id", 2)
    return {
        "name": "llava",
        "img": {**vision_from(vision, f"{where}: vision_config"), "taps": _taps(layers)},
        "llm": decoder_from(text, f"{where}: text_config"),
        "keep_cls": select == "full",
        "layers": 2,
        "act": HF_ACTS[act],
        "bias": bool(config.get("multimodal_projector_bias", True)),
        "newline": config["model_type"] == "llava_next",
        "end_ids": _ids(ends),
    }


def _from_original(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = config.get("mm_projector_type", "linear")
    found = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    select = config.get("mm_vision_select_feature", "patch")
    merge = config.get("mm_patch_merge_type", "flat")
    require(where, {"mm_projector_type": kind, "mm_vision_select_feature": select, "mm_patch_merge_type": merge},
            {"mm_projector_type": (kind,) if found else ("linear", "mlp2x_gelu"),
             "mm_vision_select_feature": ("patch", "cls_patch"),
             "mm_patch_merge_type": ("flat", "spatial", "spatial_unpad")})  # fmt: skip
    vision = config.get("vision_config")
    if vision is None:
        tower = config.get("mm_vision_tower")
        require(where, {"mm_vision_tower": tower}, {"mm_vision_tower": tuple(TOWERS)})
        vision = TOWERS[str(tower)]
    decoder = {key: value for key, value in config.items() if key not in _ORIGINAL}
    named = decoder.get("model_type", "llama")
    decoder["model_type"] = "llama" if named == "llava" else named.replace("llava_", "")
    taps = _taps(config.get("mm_vision_select_layer", -1))
    return {
        "name": "llava",
        "img": {**vision_from(vision, f"{where}: vision_config"), "taps": taps},
        "llm": decoder_from(decoder, where),
        "keep_cls": select == "cls_patch",
        "layers": int(found[1]) if found else 1,
        "act": "gelu",
        "bias": True,
        "newline": "unpad" in merge,
        "end_ids": _ids(config.get("eos_token_id", 2)),
    }


def _taps(layers: Any) -> tuple[int, ...]:
    return tuple(int(layer) for layer in layers) if isinstance(layers, list | tuple) else (int(layers),)


def _ids(ends: Any) -> tuple[int, ...]:
    return tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (int(ends),)


def config_from(system: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """The configuration of a system in a layout, so that reading it gives the same mapping.

    Raises:
      UserError: the layout cannot say what the system is.
    """
    img, taps = system["img"], tuple(system["img"].get("taps", (-2,)))
    layers, act, newline = system.get("layers", 2), system.get("act", "gelu"), bool(system.get("newline"))
    llm, ends = decoder_config(system["llm"]), list(system.get("end_ids", (2,)))
    llm["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    acts = {ours: theirs for theirs, ours in reversed(HF_ACTS.items())}
    vision = {
        "model_type": "clip_vision_model",
        "image_size": img["image_size"],
        "patch_size": img["patch"],
        "hidden_size": img["width"],
        "num_hidden_layers": img["depth"],
        "num_attention_heads": img["heads"],
        "intermediate_size": img.get("mlp_dim") or 4 * img["width"],
        "hidden_act": acts[img.get("act", "quick_gelu")],
        "layer_norm_eps": img.get("eps", 1e-5),
    }
    if layout == "hf":
        refuse("hf", [f"its projector has {layers} layers"] if layers != 2 else [])
        return {
            "architectures": [f"Llava{'Next' if newline else ''}ForConditionalGeneration"],
            "model_type": "llava_next" if newline else "llava",
            "text_config": {key: value for key, value in llm.items() if key != "architectures"},
            "vision_config": vision,
            "image_seq_length": (img["image_size"] // img["patch"]) ** 2 + int(bool(system.get("keep_cls"))),
            "vision_feature_layer": taps[0] if len(taps) == 1 else list(taps),
            "vision_feature_select_strategy": "full" if system.get("keep_cls") else "default",
            "projector_hidden_act": acts[act],
            "multimodal_projector_bias": system.get("bias", True),
            "tie_word_embeddings": llm["tie_word_embeddings"],
        }
    refuse(layout, [f"its projector has the activation {act}"] if act != "gelu" else [])
    refuse(layout, ["it taps several layers"] if len(taps) > 1 else [])
    refuse(layout, ["its projector has no bias"] if not system.get("bias", True) else [])
    kind = llm["model_type"]
    return {
        **llm,
        "architectures": [f"Llava{kind.capitalize()}ForCausalLM"],
        "model_type": f"llava_{kind}",
        "vision_config": vision,
        "mm_hidden_size": img["width"],
        "mm_vision_select_layer": taps[0],
        "mm_vision_select_feature": "cls_patch" if system.get("keep_cls") else "patch",
        "mm_projector_type": f"mlp{layers}x_gelu" if layers > 1 else "linear",
        "mm_patch_merge_type": "spatial_unpad" if newline else "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
    }
