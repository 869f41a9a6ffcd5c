"""CLIP's and SigLIP's published configurations as system mappings, and back.

A key that changes the model and that is not understood is an error that names it: a checkpoint is either computed as
its publisher computes it or refused. Sources: transformers `CLIPConfig`, the arguments of openai/CLIP's `CLIP`,
open_clip's `model_configs/*.json`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import siglip_config
from mmjax.weights.config_checks import HEAD, act, causal_only, known, mlp, refuse, require, softmax_only, vit_only
from mmjax.weights.open_clip_config import from_open_clip, open_clip_eos_id, to_open_clip

HF_ACTS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_HF_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_HF_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def detect_layout(config: Mapping[str, Any], where: str) -> str:
    """The layout that a configuration belongs to: "hf", "openai" or "open_clip".

    Raises:
      UserError: none of them.
    """
    if config.get("model_type") in ("clip", "siglip"):
        return "hf"
    if config.get("model_type") == "siglip2":
        raise UserError(
            f"{where}: model_type 'siglip2' is SigLIP 2's NaFlex (images of any aspect ratio as padded patches), which "
            f"is not supported; SigLIP 2's models of one image size are: their model_type is 'siglip'"
        )
    if {"vision_cfg", "text_cfg"} <= set(config.get("model_cfg", config)):
        return "open_clip"
    if {"vision_layers", "transformer_width"} <= set(config):
        return "openai"
    kind = f" (model_type {config['model_type']!r})" if "model_type" in config else ""
    raise UserError(
        f"{where}: not a configuration of a known layout{kind}; known: Hugging Face's (model_type 'clip' or 'siglip'), "
        f"OpenAI's (embed_dim, vision_layers, transformer_width, …), open_clip's (embed_dim, vision_cfg, text_cfg); "
        f"found the keys {', '.join(sorted(config)) or 'none'}"
    )


def system_from(config: Mapping[str, Any], layout: str, where: str) -> dict[str, Any]:
    """The mapping for `systems.build`, every size spelled out.

    Args:
      config: the published configuration.
      layout: as `detect_layout` gives it.
      where: the configuration's name for messages.

    Raises:
      UserError: a value that would change the model and is not supported, by its key.
    """
    readers = {"hf": _from_hf, "openai": _from_openai, "open_clip": from_open_clip}
    try:
        return readers[layout](config, where)
    except KeyError as error:
        raise UserError(f"{where}: the key {error} is missing") from error


def eos_id(config: Mapping[str, Any], layout: str) -> int | None:
    """The id whose first position is the end of a text, or None where the first largest id of the text is."""
    if layout == "hf" and config.get("model_type") == "siglip":
        return None  # texts are read at their last position, whatever stands there
    if layout == "hf":
        eos = _hf_section(config, "text_config", _HF_TEXT)["eos_token_id"]
        return None if eos == 2 else eos  # the library reads its old default, 2, as "the largest"
    return open_clip_eos_id(config) if layout == "open_clip" else None


def unused(config: Mapping[str, Any], layout: str) -> tuple[str, ...]:
    """Settings that concern training alone and that a system mapping does not take over, in words."""
    towers = ("text_config", "vision_config") if layout == "hf" else ()
    found = {f"{tower}.attention_dropout": _hf_section(config, tower, {}).get("attention_dropout") for tower in towers}
    return tuple(f"not taken over: {key} = {value}, which only training uses" for key, value in found.items() if value)


def config_from(system: Mapping[str, Any], layout: str, **extras: Any) -> dict[str, Any]:
    """The published configuration of a system.

    Args:
      system: a mapping with every size spelled out.
      layout: "hf", "openai" or "open_clip".
      **extras: what a system does not say: `eos_id`, and for open_clip `custom_text` and `one_value`.

    Raises:
      UserError: the layout cannot say what the system is; the message lists every reason.
    """
    writers = {"hf": _to_hf, "openai": _to_openai, "open_clip": to_open_clip}
    if layout not in writers:
        raise UserError(f"unknown layout {layout!r} of clip; there are {', '.join(writers)}")
    return writers[layout](system, **extras)


# ------------------------------------------------------------------------------------------------- Hugging Face


def _hf_section(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's settings: its own over the library's defaults; the legacy `…_dict` form wins, as in the library."""
    section = {**defaults, **(config.get(name) or {})}
    legacy = config.get(f"{name}_dict")
    return {**section, **defaults, **legacy} if legacy else section


def _hf_act(where: str, section: Mapping[str, Any]) -> str:
    require(where, section, {"hidden_act": tuple(HF_ACTS)})
    return HF_ACTS[section["hidden_act"]]


def vision_from(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The image tower's mapping of a `CLIPVisionModel`'s configuration, or of the `vision_config` of a larger model."""
    return _vision({**_HF_VISION, **section}, where)


def _vision(img: Mapping[str, Any], where: str) -> dict[str, Any]:
    require(where, img, {"num_channels": (3,)})
    return {
        "image_size": img["image_size"],
        "patch": img["patch_size"],
        "width": img["hidden_size"],
        "depth": img["num_hidden_layers"],
        "heads": img["num_attention_heads"],
        "mlp_dim": img["intermediate_size"],
        "act": _hf_act(where, img),
        "eps": img["layer_norm_eps"],
    }


def _from_hf(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    if config["model_type"] == "siglip":
        img = _hf_section(config, "vision_config", siglip_config.HF_VISION)
        return siglip_config.from_hf(img, _hf_section(config, "text_config", siglip_config.HF_TEXT), HF_ACTS, where)
    txt, img = _hf_section(config, "text_config", _HF_TEXT), _hf_section(config, "vision_config", _HF_VISION)
    return {
        "name": "clip",
        "embed_dim": config.get("projection_dim", 512),
        "img": _vision(img, f"{where}: vision_config"),
        "txt": {
            "vocab": txt["vocab_size"],
            "length": txt["max_position_embeddings"],
            "width": txt["hidden_size"],
            "depth": txt["num_hidden_layers"],
            "heads": txt["num_attention_heads"],
            "mlp_dim": txt["intermediate_size"],
            "act": _hf_act(f"{where}: text_config", txt),
            "eps": txt["layer_norm_eps"],
        },
    }


def _to_hf(system: Mapping[str, Any], *, eos_id: int | None = None) -> dict[str, Any]:
    names = {"gelu_tanh": "gelu_pytorch_tanh"}
    if siglip_config.is_siglip(system):
        return siglip_config.to_hf(system, names)
    img, txt = vit_only(system, "hf"), causal_only(system, "hf")
    softmax_only(system, "hf")
    common = {"attention_dropout": 0.0, "initializer_factor": 1.0, "initializer_range": 0.02}
    text = {
        **common,
        "model_type": "clip_text_model",
        "vocab_size": txt["vocab"],
        "hidden_size": txt["width"],
        "intermediate_size": mlp(txt),
        "num_hidden_layers": txt["depth"],
        "num_attention_heads": txt["heads"],
        "max_position_embeddings": txt["length"],
        "hidden_act": names.get(act(txt), act(txt)),
        "layer_norm_eps": txt.get("eps", 1e-5),
        "projection_dim": system["embed_dim"],
        # 2 is the library's sign for "the largest id", the rule of OpenAI's models.
        "eos_token_id": 2 if eos_id is None else eos_id,
    }
    vision = {
        **common,
        "model_type": "clip_vision_model",
        "hidden_size": img["width"],
        "intermediate_size": mlp(img),
        "num_hidden_layers": img["depth"],
        "num_attention_heads": img["heads"],
        "num_channels": 3,
        "image_size": img["image_size"],
        "patch_size": img["patch"],
        "hidden_act": names.get(act(img), act(img)),
        "layer_norm_eps": img.get("eps", 1e-5),
        "projection_dim": system["embed_dim"],
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": "float32",
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "projection_dim": system["embed_dim"],
        "text_config": text,
        "vision_config": vision,
    }


# ------------------------------------------------------------------------------------------------- OpenAI


def _from_openai(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = "embed_dim image_resolution vision_layers vision_width vision_patch_size context_length vocab_size"
    known(where, config, {*names.split(), "transformer_width", "transformer_heads", "transformer_layers"})
    layers, width = config["vision_layers"], config["vision_width"]
    resnet = not isinstance(layers, int)
    heads = width * 32 // HEAD if resnet else width // HEAD
    img: dict[str, Any]
    if resnet:
        img = {"kind": "resnet", "layers": list(layers), "width": width, "heads": heads}
    else:
        img = {"patch": config["vision_patch_size"], "width": width, "depth": layers, "heads": heads}
        img |= {"mlp_dim": 4 * width, "act": "quick_gelu", "eps": 1e-5}
    text_width = config["transformer_width"]
    return {
        "name": "clip",
        "embed_dim": config["embed_dim"],
        "img": {"image_size": config["image_resolution"], **img},
        "txt": {
            "vocab": config["vocab_size"],
            "length": config["context_length"],
            "width": text_width,
            "depth": config["transformer_layers"],
            "heads": config["transformer_heads"],
            "mlp_dim": 4 * text_width,
            "act": "quick_gelu",
            "eps": 1e-5,
        },
    }


def infer_openai(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The configuration that the shapes of OpenAI's tensors tell: its archives hold no other.

    Raises:
      UserError: a tensor that tells it is missing.
    """

    def count(pattern: str) -> int:
        return len({m[1] for key in shapes if (m := re.match(pattern, key))})

    try:
        resnet = "visual.proj" not in shapes
        table = "visual.attnpool.positional_embedding" if resnet else "visual.positional_embedding"
        grid, conv = math.isqrt(shapes[table][0] - 1), shapes["visual.conv1.weight"]
        patch = None if resnet else conv[-1]
        width, features = shapes["text_projection"]
        layers = [count(rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
        return {
            "embed_dim": features,
            "image_resolution": grid * (patch or 32),
            "vision_layers": layers if resnet else count(r"visual\.transformer\.resblocks\.(\d+)\."),
            "vision_width": shapes["visual.layer1.0.conv1.weight"][0] if resnet else conv[0],
            "vision_patch_size": patch,
            "context_length": shapes["positional_embedding"][0],
            "vocab_size": shapes["token_embedding.weight"][0],
            "transformer_width": width,
            "transformer_heads": width // HEAD,
            "transformer_layers": count(r"transformer\.resblocks\.(\d+)\."),
        }
    except KeyError as error:
        raise UserError(f"OpenAI's layout: the tensor {error} is missing") from error


def _to_openai(system: Mapping[str, Any], *, eos_id: int | None = None) -> dict[str, Any]:
    img, txt = system["img"], system["txt"]
    if eos_id not in (None, txt["vocab"] - 1):
        refuse("openai", [f"texts end in {eos_id}, and it reads them at their largest id, {txt['vocab'] - 1}"])
    resnet = img.get("kind", "vit") == "resnet"
    if not resnet:
        vit_only(system, "openai")
    causal_only(system, "openai")
    softmax_only(system, "openai")
    fixed = [("txt.act", act(txt), "quick_gelu"), ("txt.mlp_dim", mlp(txt), 4 * txt["width"])]
    fixed += [("txt.eps", txt.get("eps", 1e-5), 1e-5)]
    if resnet:
        wanted = img["width"] * 32 // HEAD
        fixed += [("img.heads", img.get("heads", wanted), wanted)]
    else:
        fixed += [("img.act", act(img), "quick_gelu"), ("img.mlp_dim", mlp(img), 4 * img["width"])]
        fixed += [("img.eps", img.get("eps", 1e-5), 1e-5), ("img.heads", img["heads"], img["width"] // HEAD)]
    refuse("openai", [f"{key} is {is_}, it can only say {can}" for key, is_, can in fixed if is_ != can])
    return {
        "embed_dim": system["embed_dim"],
        "image_resolution": img["image_size"],
        "vision_layers": list(img["layers"]) if resnet else img["depth"],
        "vision_width": img["width"],
        "vision_patch_size": None if resnet else img["patch"],
        "context_length": txt["length"],
        "vocab_size": txt["vocab"],
        "transformer_width": txt["width"],
        "transformer_heads": txt["heads"],
        "transformer_layers": txt["depth"],
    }
