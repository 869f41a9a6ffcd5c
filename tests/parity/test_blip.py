"""BLIP against transformers' three classes, at sizes that no fixture has: logits, losses, generated ids."""

import pathlib
from typing import Any

import numpy as np
import pytest

from tests.parity.peers import arrays, randomise, tensors, verify

SIZES: list[dict[str, Any]] = [
    {"vision": {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2,
                "image_size": 24, "patch_size": 6, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
     "text": {"hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 3,
              "vocab_size": 140, "max_position_embeddings": 32, "hidden_act": "gelu", "bos_token_id": 130,
              "label_smoothing": 0.0},
     "embed": 20},
    {"vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 8,
                "image_size": 32, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
     "text": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2,
              "vocab_size": 128, "max_position_embeddings": 24, "hidden_act": "relu", "bos_token_id": 126,
              "label_smoothing": 0.1},
     "embed": 12},
]  # fmt: skip
END = 102


def live(kind: str, size: dict[str, Any], folder: pathlib.Path):
    """A random model of a class, saved; and inputs."""
    import torch
    import transformers

    torch.manual_seed(len(kind) + size["embed"])
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BlipConfig(text_config={**size["text"], **none}, vision_config=size["vision"],
                                     image_text_hidden_size=size["embed"])  # fmt: skip
    model = randomise(getattr(transformers, kind)(config), 0.25)
    model.save_pretrained(folder)
    rng = np.random.default_rng(size["embed"])
    side, vocab = size["vision"]["image_size"], size["text"]["vocab_size"]
    pixels = rng.normal(size=(3, 3, side, side)).astype(np.float32)
    ids = rng.integers(103, vocab, (3, 7))
    mask = (np.arange(7)[None] < np.array([7, 5, 3])[:, None]).astype(np.int64)
    return model, {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES)
def test_captions(size: dict, tmp_path: pathlib.Path) -> None:
    import torch

    model, given = live("BlipForConditionalGeneration", size, tmp_path)
    labels = np.where(given["attention_mask"] > 0, given["input_ids"], -100)
    labels[:, :2] = -100
    begun = {**given, "labels": labels}
    begun["input_ids"] = given["input_ids"].copy()
    begun["input_ids"][:, 0] = size["text"]["bos_token_id"]
    out = model(**tensors(begun))
    tasks = {"caption": (begun, arrays(logits=out.logits, loss=out.loss, image_embeds=out.image_embeds), {})}
    more = {"description": "max_length 15, min_length 6"}
    for name, options in {"generate_greedy": {}, "generate_beam3": {"num_beams": 3},
                          "generate_prompt_beam4": {"num_beams": 4}}.items():  # fmt: skip
        inputs = {key: given[key] for key in (("pixel_values", "input_ids") if "prompt" in name else ("pixel_values",))}
        with torch.no_grad():
            ids = model.generate(**tensors(inputs), max_length=15, min_length=6, do_sample=False, **options)
        tasks[name] = (inputs, {"ids": ids.numpy()}, more)
    verify(tmp_path, "blip", tasks)


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES)
def test_matching(size: dict, tmp_path: pathlib.Path) -> None:
    model, given = live("BlipForImageTextRetrieval", size, tmp_path)
    tensor = tensors(given)
    match, cosine = model(**tensor), model(**tensor, use_itm_head=False)
    made = arrays(itm_score=match.itm_score, cosine=cosine.itm_score, image_embeds=match.last_hidden_state)
    verify(tmp_path, "blip", {"match": (given, made, {})})


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES)
def test_answers(size: dict, tmp_path: pathlib.Path) -> None:
    import torch

    model, given = live("BlipForQuestionAnswering", size, tmp_path)
    rng = np.random.default_rng(1)
    answers = rng.integers(103, size["text"]["vocab_size"], (3, 5))
    answers[:, 0] = size["text"]["bos_token_id"]
    mask = (np.arange(5)[None] < np.array([5, 3, 4])[:, None]).astype(np.int64)
    labels = np.where(mask > 0, answers, -100)
    asked = {**given, "decoder_input_ids": answers, "decoder_attention_mask": mask, "labels": labels}
    loss = model(**tensors(asked)).loss
    tasks = {"train": (asked, arrays(loss=loss.mean()), {})}
    for name, options in {"generate_greedy": {}, "generate_beam3": {"num_beams": 3}}.items():
        with torch.no_grad():
            ids = model.generate(**tensors(given), max_length=9, min_length=3, do_sample=False, **options)
        tasks[name] = (given, {"ids": ids.numpy()}, {"description": "max_length 9, min_length 3"})
    verify(tmp_path, "blip", tasks)
