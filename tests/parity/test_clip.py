"""Random models of transformers' CLIPModel against ours, in both directions: same weights and inputs, same outputs."""

import pathlib

import numpy as np
import pytest

from mmjax.commands import golden, models
from mmjax.core import trees
from tests.parity.peers import EMBED, LENGTH, PATCH, SIZE, VOCAB, our_logits, randomise, write_fixture

pytestmark = pytest.mark.parity

# The widths, heads, depths and activations of the two towers, and what ends a text.
CONFIGS: dict[str, dict] = {
    "quick_gelu": {"img": (48, 4, 96, 3, "quick_gelu"), "txt": (32, 4, 64, 2, "quick_gelu"), "eos": 98, "eps": 1e-5},
    "gelu_wide_head": {"img": (32, 1, 64, 2, "gelu"), "txt": (40, 5, 200, 1, "gelu"), "eos": 50, "eps": 1e-6},
    "legacy_end": {
        "img": (24, 3, 50, 1, "gelu_new"),
        "txt": (48, 2, 96, 3, "gelu_pytorch_tanh"),
        "eos": 2,
        "eps": 1e-5,
    },
    "mixed": {"img": (32, 2, 128, 2, "relu"), "txt": (32, 8, 64, 2, "silu"), "eos": 98, "eps": 1e-3},
}


def peer(name: str):
    """A CLIPModel with every parameter random, in evaluation mode."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    made = CONFIGS[name]

    def tower(width, heads, mlp, depth, act):
        sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": mlp}
        return {**sizes, "num_hidden_layers": depth, "hidden_act": act, "layer_norm_eps": made["eps"]}

    text = {
        "vocab_size": VOCAB,
        "max_position_embeddings": LENGTH,
        "eos_token_id": made["eos"],
        "bos_token_id": 97,
        "pad_token_id": 0,
    }
    vision = {"image_size": SIZE, "patch_size": PATCH}
    config = CLIPConfig(
        text_config=tower(*made["txt"]) | text, vision_config=tower(*made["img"]) | vision, projection_dim=EMBED
    )
    torch.manual_seed(0)
    return randomise(CLIPModel(config))


def inputs(eos: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 49, (4, LENGTH))
    mask = np.zeros((4, LENGTH), np.int64)
    for row, end in enumerate((3, 5, 8, LENGTH - 1)):
        ids[row, end] = VOCAB - 1 if eos == 2 else eos
        ids[row, end + 1 :] = 0
        mask[row, : end + 1] = 1
    pixels = rng.normal(size=(4, 3, SIZE, SIZE)).astype(np.float32)
    return {"pixel_values": pixels, "input_ids": ids.astype(np.int64), "attention_mask": mask}


def outputs(model, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What CLIPModel computes, under the names that fixtures use, gradients of every parameter included."""
    import torch

    given = {key: torch.from_numpy(value) for key, value in given.items()}
    model.zero_grad()
    out = model(**given, return_loss=True)
    out.loss.backward()
    names = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text", "loss")
    found = {name: getattr(out, name) for name in names}
    vision, text = model.vision_model(given["pixel_values"]), model.text_model(given["input_ids"])
    found |= {"vision_last_hidden_state": vision.last_hidden_state, "vision_pooled": vision.pooler_output}
    found |= {"text_last_hidden_state": text.last_hidden_state, "text_pooled": text.pooler_output}
    found |= {"image_features": model.visual_projection(vision.pooler_output)}
    found |= {"text_features": model.text_projection(text.pooler_output)}
    found |= {f"grad.{key}": value.grad for key, value in model.named_parameters()}
    return {key: value.detach().numpy().copy() for key, value in found.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_their_model_in_ours(name: str, tmp_path: pathlib.Path) -> None:
    model, given = peer(name), inputs(CONFIGS[name]["eos"])
    model.save_pretrained(tmp_path)
    made = outputs(model, given)
    write_fixture(tmp_path, given, made)
    results = golden.run_fixture(tmp_path)
    assert len(results) == len(made)
    assert [result.line() for result in results if not result.passed] == []


@pytest.mark.parametrize(
    ("act", "width", "heads", "depth", "text_width", "text_heads"),
    [("quick_gelu", 40, 5, 2, 24, 2), ("gelu", 48, 3, 1, 32, 4), ("gelu_tanh", 32, 1, 3, 16, 1),
     ("quick_gelu", 64, 8, 2, 48, 6)],
)  # fmt: skip
def test_our_model_in_theirs(
    act: str, width: int, heads: int, depth: int, text_width: int, text_heads: int, tmp_path: pathlib.Path
) -> None:
    from transformers import CLIPModel

    system = {
        "name": "clip",
        "embed_dim": EMBED,
        "img": {"image_size": SIZE, "patch": PATCH, "width": width, "depth": depth, "heads": heads, "act": act},
        "txt": {"vocab": VOCAB, "length": LENGTH, "width": text_width, "depth": depth, "heads": text_heads, "act": act,
                "eps": 1e-6},
    }  # fmt: skip
    rng = np.random.default_rng(1)
    flat = {path: 0.2 * rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    variables = trees.unflatten(flat)
    ours = models.Model(system, variables, "mmjax", None, None, None, "")
    models.save(ours, "hf", tmp_path)
    model, given = CLIPModel.from_pretrained(tmp_path).eval(), inputs(2)
    made = outputs(model, given)
    ids = given["input_ids"]
    logits = our_logits(system, variables, given["pixel_values"], ids, ids.argmax(axis=1))
    np.testing.assert_allclose(logits, made["logits_per_image"], atol=1e-4)
