"""BLIP's published configurations, and what its tensors tell where there is none."""

from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights.config_checks import HEAD, require
from mmjax.weights.files import Tensors

TASK_OF_CLASS = {
    "BlipForConditionalGeneration": "caption",
    "BlipForImageTextRetrieval": "retrieval",
    "BlipForQuestionAnswering": "vqa",
}
ACTS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu",
        "relu": "relu", "silu": "silu", "swish": "silu"}  # fmt: skip
# Defaults of transformers' classes: its files leave out what equals them.
_HF_TEXT = {"vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 8, "max_position_embeddings": 512, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
            "bos_token_id": 30522, "pad_token_id": 0, "sep_token_id": 102, "label_smoothing": 0.0,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
_HF_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
              "image_size": 384, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-5}  # fmt: skip
# What the original's code has besides: med_config.json, and the sizes of its two ViTs.
_MED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
SEP = 102


def task_of(keys: set[str]) -> str | None:
    """The form that a checkpoint of the original layout is, by its tensors."""
    has = {part: any(key.startswith(f"{part}.") for key in keys) for part in
           ("visual_encoder", "text_encoder", "text_decoder", "vision_proj", "itm_head", "cls_head")}  # fmt: skip
    if not has["visual_encoder"]:
        return None
    if has["text_decoder"] and has["text_encoder"]:
        return "pretrain" if has["vision_proj"] else "vqa"
    if has["text_decoder"]:
        return "caption"
    if has["text_encoder"] and has["cls_head"]:
        return "nlvr2" if any(".crossattention.self0." in key for key in keys) else None
    return "retrieval" if has["text_encoder"] and has["itm_head"] and has["vision_proj"] else None


def from_original(config: Mapping[str, Any] | None, tensors: Tensors, where: str) -> dict[str, Any]:
    """The system mapping of a checkpoint of the original layout.

    Sizes are those of the tensors. What they do not tell (heads, activation, special tokens) is read from the
    configuration; without one it is what all published models have: heads of 64, erf-GELU, [DEC] and [ENC] behind
    BERT's vocabulary.

    Raises:
      UserError: tensors of another model.
    """
    config, keys = config or {}, set(tensors.keys())
    task = task_of(keys)
    if task is None:
        raise UserError(f"{where}: the tensors are those of no task of BLIP")
    med, vit, words = ({**config.get(name, {})} for name in ("med_config", "vit", "tokenizer"))
    med = {**_MED, **med}
    img = _original_vit(vit, tensors)
    encoder = "text_encoder" if task != "caption" else "text_decoder.bert"
    txt = _original_text(med, tensors, encoder)
    vocab = txt["vocab"]
    system: dict[str, Any] = {"name": "blip", "task": task, "img": img, "txt": txt}
    system["enc_id"] = words.get("enc_token_id", vocab - 1)
    if task in ("pretrain", "caption", "vqa"):
        system |= {"dec_id": words.get("bos_token_id", vocab - 2), "end_ids": (words.get("sep_token_id", SEP),)}
    if task == "caption":
        del system["enc_id"]
    if task == "vqa":
        system["dec"] = _original_text(med, tensors, "text_decoder.bert")
    if task in ("pretrain", "retrieval"):
        system |= {"embed_dim": tensors.shape("vision_proj.weight")[0], "learn_temperature": "temp" in keys}
        system["queue"] = tensors.shape("image_queue")[1] if "image_queue" in keys else 0
        system["alpha"] = config.get("alpha", 0.4)
    return system


def _original_vit(vit: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    width, _, patch, _ = tensors.shape("visual_encoder.patch_embed.proj.weight")
    side = round((tensors.shape("visual_encoder.pos_embed")[1] - 1) ** 0.5)
    depth = _count(tensors, "visual_encoder.blocks.")
    mlp_dim = tensors.shape("visual_encoder.blocks.0.mlp.fc1.weight")[0]
    sizes = {"image_size": side * patch, "patch": patch, "width": width, "depth": depth, "mlp_dim": mlp_dim}
    return {**sizes, "heads": vit.get("num_heads", max(1, width // HEAD))}


def _original_text(med: Mapping[str, Any], tensors: Tensors, name: str) -> dict[str, Any]:
    vocab, width = tensors.shape(f"{name}.embeddings.word_embeddings.weight")
    return {
        "vocab": vocab,
        "length": tensors.shape(f"{name}.embeddings.position_embeddings.weight")[0],
        "width": width,
        "depth": _count(tensors, f"{name}.encoder.layer."),
        "heads": med.get("num_attention_heads", max(1, width // HEAD)),
        "mlp_dim": tensors.shape(f"{name}.encoder.layer.0.intermediate.dense.weight")[0],
        **_kind(med, "med_config"),
        "dropout": med["hidden_dropout_prob"],
        "attn_dropout": med["attention_probs_dropout_prob"],
    }


def _kind(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    require(where, section, {"hidden_act": tuple(ACTS)})
    return {"act": ACTS[section["hidden_act"]], "eps": float(section["layer_norm_eps"])}


def _count(tensors: Tensors, prefix: str) -> int:
    return 1 + max(int(key[len(prefix) :].split(".")[0]) for key in set(tensors.keys()) if key.startswith(prefix))


def is_hf(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is Hugging Face's of BLIP."""
    return config.get("model_type") == "blip"


def from_hf(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The system mapping of a Hugging Face checkpoint.

    Its classes take the first token of a question, or of a text to match, as it is given.

    Raises:
      UserError: a class that is not one of the three.
    """
    named = (config.get("architectures") or [None])[0]
    if named not in TASK_OF_CLASS:
        raise UserError(f"{where}: architectures = {named!r}; supported: {', '.join(TASK_OF_CLASS)}")
    task, text = TASK_OF_CLASS[named], {**_HF_TEXT, **config.get("text_config", {})}
    vision = {**_HF_VISION, **config.get("vision_config", {})}
    img = {
        "image_size": vision["image_size"],
        "patch": vision["patch_size"],
        "width": vision["hidden_size"],
        "depth": vision["num_hidden_layers"],
        "heads": vision["num_attention_heads"],
        "mlp_dim": vision["intermediate_size"],
        **_kind(vision, f"{where}: vision_config"),
    }
    txt = {
        "vocab": text["vocab_size"],
        "length": text["max_position_embeddings"],
        "width": text["hidden_size"],
        "depth": text["num_hidden_layers"],
        "heads": text["num_attention_heads"],
        "mlp_dim": text["intermediate_size"],
        **_kind(text, f"{where}: text_config"),
        "dropout": text["hidden_dropout_prob"],
        "attn_dropout": text["attention_probs_dropout_prob"],
    }
    system: dict[str, Any] = {"name": "blip", "task": task, "img": img, "txt": txt}
    if task != "caption":
        system["enc_id"] = None
    if task != "retrieval":
        ids = {"dec_id": text["bos_token_id"], "end_ids": (text["sep_token_id"],)}
        return {**system, **ids, "smoothing": text["label_smoothing"], **({"dec": txt} if task == "vqa" else {})}
    return {**system, "embed_dim": config.get("image_text_hidden_size", 256), "queue": 0, "learn_temperature": False}


def to_hf(system: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's configuration of a system.

    Raises:
      UserError: its classes have no such form.
    """
    task, img, txt = system["task"], system["img"], system["txt"]
    classes = {task: name for name, task in TASK_OF_CLASS.items()}
    problems = [] if task in classes else [f"task {task!r}; it has {', '.join(classes)}"]
    if task == "retrieval":
        problems += ["it has no queue"] if system.get("queue", 57_600) else []
        problems += ["it has no temperature"] if system.get("learn_temperature", True) else []
    if task == "vqa" and dict(system["dec"]) != dict(txt):
        problems.append("a decoder of other sizes than the encoder's")
    if problems:
        raise UserError(f"the layout 'hf' cannot hold this system: {'; '.join(problems)}")
    back = {"gelu": "gelu", "gelu_tanh": "gelu_new", "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu"}
    text = {
        "model_type": "blip_text_model",
        "vocab_size": txt["vocab"],
        "hidden_size": txt["width"],
        "encoder_hidden_size": img["width"],
        "intermediate_size": txt.get("mlp_dim") or 4 * txt["width"],
        "num_hidden_layers": txt["depth"],
        "num_attention_heads": txt["heads"],
        "max_position_embeddings": txt["length"],
        "hidden_act": back[txt.get("act", "gelu")],
        "layer_norm_eps": txt.get("eps", 1e-12),
        "bos_token_id": system.get("dec_id", 30522),
        "sep_token_id": system.get("end_ids", (SEP,))[0],
        "label_smoothing": system.get("smoothing", 0.1),
        "hidden_dropout_prob": txt.get("dropout", 0.0),
        "attention_probs_dropout_prob": txt.get("attn_dropout", 0.0),
    }
    vision = {
        "model_type": "blip_vision_model",
        "image_size": img["image_size"],
        "patch_size": img["patch"],
        "hidden_size": img["width"],
        "intermediate_size": img.get("mlp_dim") or 4 * img["width"],
        "num_hidden_layers": img["depth"],
        "num_attention_heads": img["heads"],
        "hidden_act": back[img.get("act", "gelu")],
        "layer_norm_eps": img.get("eps", 1e-6),
    }
    top = {"architectures": [classes[task]], "model_type": "blip", "dtype": "float32"}
    return {**top, "image_text_hidden_size": system.get("embed_dim", 256), "text_config": text, "vision_config": vision}


def to_original(system: Mapping[str, Any]) -> dict[str, Any]:
    """The original's sizes as a configuration, so that nothing has to be guessed."""
    img, txt = system["img"], system["txt"]
    back = {"gelu": "gelu", "gelu_tanh": "gelu_new", "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu"}
    med = {
        "model_type": "bert",
        "vocab_size": txt["vocab"],
        "hidden_size": txt["width"],
        "num_hidden_layers": txt["depth"],
        "num_attention_heads": txt["heads"],
        "intermediate_size": txt.get("mlp_dim") or 4 * txt["width"],
        "max_position_embeddings": txt["length"],
        "hidden_act": back[txt.get("act", "gelu")],
        "layer_norm_eps": txt.get("eps", 1e-12),
        "hidden_dropout_prob": txt.get("dropout", 0.0),
        "attention_probs_dropout_prob": txt.get("attn_dropout", 0.0),
        "encoder_width": img["width"],
        "add_cross_attention": True,
    }
    vit = {
        "patch_size": img["patch"],
        "embed_dim": img["width"],
        "depth": img["depth"],
        "num_heads": img["heads"],
        "mlp_ratio": (img.get("mlp_dim") or 4 * img["width"]) / img["width"],
    }
    words = {"vocab_size": txt["vocab"], "bos_token_id": system.get("dec_id", txt["vocab"] - 2)}
    words |= {"enc_token_id": system.get("enc_id", txt["vocab"] - 1), "sep_token_id": system.get("end_ids", (SEP,))[0]}
    top = {"image_size": img["image_size"], "vit": vit, "tokenizer": words, "med_config": med}
    if system["task"] in ("pretrain", "retrieval"):
        top |= {"embed_dim": system.get("embed_dim", 256), "queue_size": system.get("queue", 57_600)}
        top |= {"alpha": system.get("alpha", 0.4)}
    return top
