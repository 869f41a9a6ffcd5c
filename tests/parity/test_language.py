"""Decoders and LLaVA against transformers, at sizes and with options that no fixture has, there and back.

Logits, losses, every gradient and generated ids of models that transformers wrote; then the folders that mmjax writes,
loaded by transformers' ordinary call.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mmjax import cli
from mmjax.data.chat_templates import template
from mmjax.data.tokenizers import SentencePiece
from mmjax.train import checkpoint
from tests.parity.peers import arrays, numbers, randomise, tensors, verify

pytestmark = pytest.mark.parity

WIDE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8}  # fmt: skip
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
                        "num_key_value_heads": 2, "head_dim": 10, "vocab_size": 90, "rms_norm_eps": 1e-5,
                        "hidden_act": "gelu_pytorch_tanh", "attention_bias": True, "mlp_bias": True}),
    "llama 3": ("Llama", {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
                          "num_key_value_heads": 1, "vocab_size": 130, "rope_parameters": WIDE,
                          "tie_word_embeddings": True}),
    "linear": ("Llama", {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
                         "vocab_size": 70, "hidden_act": "gelu",
                         "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20_000.0}}),
    "mistral": ("Mistral", {"hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "head_dim": 12,
                            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 95, "sliding_window": 4}),
    "no window": ("Mistral", {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 80,
                              "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": None,
                              "tie_word_embeddings": True, "hidden_act": "relu"}),
}  # fmt: skip
IMAGE, GRIDS, PATCH = 60, [[16, 32], [32, 16], [32, 32], [16, 48]], 4
VISION = {"image_size": 16, "patch_size": PATCH, "projection_dim": 8}
LLAVAS: dict[str, dict[str, Any]] = {
    "llava": {"vision_config": {**VISION, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
                                "num_attention_heads": 2, "hidden_act": "gelu"},
              "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "projector_hidden_act": "gelu",
              "multimodal_projector_bias": False, "text_config": "mistral"},
    "several layers": {"vision_config": {**VISION, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
                                         "num_attention_heads": 8, "layer_norm_eps": 1e-6},
                       "vision_feature_layer": [-2, 1], "text_config": "llama 3"},
    "next": {"vision_config": {**VISION, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                               "num_attention_heads": 2}, "image_grid_pinpoints": GRIDS, "text_config": "mistral"},
}  # fmt: skip
GENERATED = {
    "greedy": {"num_beams": 1, "repetition_penalty": 1.3},
    "beam": {"num_beams": 3, "length_penalty": 0.5, "early_stopping": False},
}


def rows(rng: np.random.Generator, vocab: int, lengths: tuple[int, ...], left: bool) -> dict[str, np.ndarray]:
    """Random texts padded on a side, with the positions that transformers gives them when it generates."""
    width = max(lengths)
    ids = rng.integers(3, min(vocab, IMAGE), (len(lengths), width))
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    mask = mask[:, ::-1] if left else mask
    position = np.where(mask, np.cumsum(mask, axis=1) - 1, 1)
    return {"input_ids": np.where(mask, ids, 0), "attention_mask": mask.astype(np.int64), "position_ids": position}


def learned(given: Mapping[str, np.ndarray]) -> np.ndarray:
    """Labels: the second half of each row, no picture."""
    ids, mask = given["input_ids"], given["attention_mask"] > 0
    half = np.arange(ids.shape[1])[None] >= mask.sum(1, keepdims=True) // 2
    return np.where(mask & half & (ids != IMAGE), ids, -100)


def stored(name: str) -> str:
    """How files call a parameter of LLaVA."""
    inner = name.removeprefix("model.").replace("language_model.", "language_model.model.")
    return f"language_model.{name}" if name.startswith("lm_head.") else inner


def tasks_of(model: Any, right: dict, left: dict, more: Mapping[str, np.ndarray], name: Any = str) -> dict:
    """Inputs and outputs of a model for rows padded on the right (logits, loss, gradients) and on the left.

    Args:
      more: pictures.
      name: what files call a parameter.
    """
    import torch

    new = 9

    def seen(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = model(**tensors({**given, **more}))
        return arrays(logits=out.logits * torch.from_numpy(given["attention_mask"].copy())[:, :, None])

    labelled = {**{key: right[key] for key in ("input_ids", "attention_mask")}, "labels": learned(right), **more}
    model.zero_grad()
    loss = model(**tensors(labelled)).loss
    loss.backward()
    slopes = {f"grad/{name(key)}": value.grad for key, value in model.named_parameters() if value.grad is not None}
    tasks = {"right": ({**right, **more}, seen(right), {}), "left": ({**left, **more}, seen(left), {}),
             "loss": (labelled, arrays(loss=loss, **slopes), {})}  # fmt: skip
    prompt = {key: left[key] for key in ("input_ids", "attention_mask")}
    for way, how in GENERATED.items():
        asked = {"max_new_tokens": new, "eos_token_id": 2, "pad_token_id": 0, **how}
        with torch.no_grad():
            made = model.generate(**tensors({**prompt, **more}), do_sample=False, **asked)
        ids = np.zeros((len(made), new), np.int64)
        ids[:, : made.shape[1] - prompt["input_ids"].shape[1]] = made[:, prompt["input_ids"].shape[1] :].numpy()
        if how["num_beams"] > 1:  # it pads with the end token then
            ids = np.where(np.cumsum(np.cumsum(ids == 2, axis=1), axis=1) > 0, 2, ids)
        tasks[way] = ({**prompt, **more}, {"new_ids": ids}, {"generation": asked})
    return tasks


def decoder_config(name: str, **more: Any) -> Any:
    import transformers

    kind, settings = DECODERS[name]
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return getattr(transformers, f"{kind}Config")(**settings, **ends, attn_implementation="eager", **more)


def come_back(folder: pathlib.Path, tmp_path: pathlib.Path, model: Any, given: Mapping[str, np.ndarray]) -> None:
    """Through mmjax's own layout to a folder that transformers loads by the same call, and computes the same with."""
    for source, layout in ((folder, "mmjax"), (tmp_path / "mmjax", "hf")):
        command = ["convert", "--input", str(source), "--output", str(tmp_path / layout), "--layout", layout]
        assert cli.main(command) == 0
    again, info = type(model).from_pretrained(tmp_path / "hf", output_loading_info=True, attn_implementation="eager")
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    outputs = [m(**tensors(given)).logits.detach().numpy() for m in (model, again.eval())]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, tmp_path: pathlib.Path) -> None:
    import torch
    import transformers

    torch.manual_seed(len(name))
    kind, settings = DECODERS[name]
    model = randomise(getattr(transformers, f"{kind}ForCausalLM")(decoder_config(name)), 0.3)
    model.save_pretrained(tmp_path / "theirs")
    rng = np.random.default_rng(1)
    right, left = (rows(rng, settings["vocab_size"], (11, 7, 4), side) for side in (False, True))
    come_back(tmp_path / "theirs", tmp_path, model, right)
    verify(tmp_path / "theirs", kind.lower(), tasks_of(model, right, left, {}))


def with_pictures(given: dict[str, np.ndarray], counts: list[list[int]], left: bool) -> dict[str, np.ndarray]:
    """The rows with the places of pictures in front of their last token; `counts`: of each picture of each row."""
    texts = [ids[mask > 0] for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True)]
    made = [np.concatenate([text[:1], *([IMAGE] * n + [5] for n in several), text[1:]])
            for text, several in zip(texts, counts, strict=True)]  # fmt: skip
    width = max(map(len, made))
    ids, mask = np.zeros((len(made), width), np.int64), np.zeros((len(made), width), np.int64)
    for row, text in enumerate(made):
        place = slice(width - len(text), width) if left else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    position = np.where(mask > 0, np.cumsum(mask, axis=1) - 1, 1)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": position}


@pytest.mark.parametrize("name", LLAVAS)
def test_llava(name: str, tmp_path: pathlib.Path) -> None:
    import torch
    import transformers

    torch.manual_seed(len(name))
    settings, following = dict(LLAVAS[name]), name == "next"
    vision = transformers.CLIPVisionConfig(**settings.pop("vision_config"), attn_implementation="eager")
    text = decoder_config(settings.pop("text_config"))
    kind = "LlavaNext" if following else "Llava"
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, text_config=text, image_token_index=IMAGE, attn_implementation="eager",
        tie_word_embeddings=text.tie_word_embeddings, **settings,
    )  # fmt: skip
    model = randomise(getattr(transformers, f"{kind}ForConditionalGeneration")(config), 0.3)
    model.save_pretrained(tmp_path / "theirs")
    rng = np.random.default_rng(2)
    more: dict[str, np.ndarray] = {"pixel_values": rng.normal(size=(3, 3, 16, 16)).astype(np.float32)}
    counts = [16 + (config.vision_feature_select_strategy == "full")] * 3
    if following:
        sizes = np.array([[20, 44], [50, 13], [16, 16]])
        more = {"pixel_values": rng.normal(size=(3, 5, 3, 16, 16)).astype(np.float32), "image_sizes": sizes}
        out = model.get_image_features(**tensors(more))
        counts = [len(one) for one in getattr(out, "pooler_output", out)]
    shown = [[counts[0]], counts[1:], []]
    vocab = text.vocab_size
    right, left = (with_pictures(rows(rng, vocab, (9, 6, 7), False), shown, side) for side in (False, True))
    come_back(tmp_path / "theirs", tmp_path, model, {**right, **more})
    verify(tmp_path / "theirs", "llava_next" if following else "llava15", tasks_of(model, right, left, more, stored))


OURS = {
    "llava": {"img": {"image_size": 16, "patch": 4, "width": 16, "depth": 2, "heads": 2, "taps": [-2]},
              "llm": {"vocab": 288, "width": 24, "depth": 2, "heads": 2, "mlp_dim": 32}},
    "next": {"img": {"image_size": 16, "patch": 4, "width": 16, "depth": 2, "heads": 2, "taps": [-1]}, "newline": True,
             "llm": {"vocab": 293, "width": 24, "depth": 1, "heads": 4, "kv_heads": 2, "mlp_dim": 32, "window": 9}},
}  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_our_model_talks_in_theirs(name: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    """A LLaVA of one's own, written for transformers, and read again: what all three answer about two pictures."""
    import torch
    import transformers
    from PIL import Image

    words = SentencePiece.train(["a red circle left of a blue square", "USER: what is it? ASSISTANT:"] * 3, 288,
                                normalization="identity")  # fmt: skip
    system = {"name": "llava", **OURS[name]}
    ours = tmp_path / "ours"
    checkpoint.save_model(ours, system, numbers(system), tokenizer=words)
    assert cli.main(["convert", "--input", str(ours), "--output", str(tmp_path / "hf"), "--layout", "hf"]) == 0
    files = []
    for number, shape in enumerate(((16, 16, 3), (16, 40, 3) if name == "next" else (16, 16, 3))):
        picture = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(picture).save(files[-1])
    asked = ["--image", *files, "--prompt", "what is it?", "--max-new", "7", "--json"]
    capsys.readouterr()
    answers = []
    for folder in (ours, tmp_path / "hf"):
        more = ["--template", "vicuna_v1"]
        assert cli.main(["generate", "--checkpoint", str(folder), *asked, *more]) == 0
        answers.append([json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()])
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "hf").eval()
    known = template("vicuna_v1")
    theirs = []
    for file in files:
        text = f"<s>{known.system} USER: <image>\nwhat is it? ASSISTANT:"
        given = processor(images=Image.open(file), text=text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            made = model.generate(**given, max_new_tokens=7, do_sample=False)
        new = made[0, given["input_ids"].shape[1] :]
        theirs.append(words.decode(new.tolist()))  # theirs spells a run of bytes that is no text in another way
    assert answers[0] == theirs, (answers, theirs)
    assert answers[1] == theirs
