"""Random models of transformers' SiglipModel against ours, in both directions."""

import pathlib

import numpy as np
import pytest

from mmjax.commands import golden, models
from mmjax.core import trees
from mmjax.weights import surgery
from tests.parity.peers import LENGTH, PATCH, SIZE, VOCAB, our_logits, randomise, siglip_outputs, write_fixture

pytestmark = pytest.mark.parity

# width, heads, MLP width, depth, activation of both towers; image size and whether padding is masked.
CONFIGS: dict[str, tuple] = {
    "small": ((48, 4, 96, 2, "gelu_pytorch_tanh"), (48, 3, 80, 1, "gelu_pytorch_tanh"), SIZE, False),
    "deep": ((32, 2, 64, 3, "gelu_pytorch_tanh"), (32, 4, 128, 3, "gelu_pytorch_tanh"), SIZE, True),
    "exact": ((40, 5, 120, 1, "gelu"), (24, 2, 96, 2, "gelu"), 4 * PATCH, False),
    "edge": ((24, 1, 50, 2, "gelu_pytorch_tanh"), (24, 8, 64, 2, "quick_gelu"), SIZE + 3, True),
}


def peer(name: str):
    import torch
    from transformers import SiglipConfig, SiglipModel

    img, txt, size, _ = CONFIGS[name]

    def tower(width, heads, mlp, depth, act):
        sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": mlp}
        return {**sizes, "num_hidden_layers": depth, "hidden_act": act}

    text = {"vocab_size": VOCAB, "max_position_embeddings": LENGTH, "projection_size": img[0]}
    text |= {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    vision = {"image_size": size, "patch_size": PATCH}
    torch.manual_seed(0)
    return randomise(SiglipModel(SiglipConfig(text_config=tower(*txt) | text, vision_config=tower(*img) | vision)))


def inputs(size: int, mask_padding: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ids, ends = rng.integers(3, VOCAB, (4, LENGTH)), np.array((3, 5, 8, LENGTH - 1))
    ids[np.arange(LENGTH)[None] >= ends[:, None]] = 1
    mask = (np.arange(LENGTH)[None] <= ends[:, None]).astype(np.int64)
    pixels = rng.normal(size=(4, 3, size, size)).astype(np.float32)
    return {"pixel_values": pixels, "input_ids": ids, **({"attention_mask": mask} if mask_padding else {})}


@pytest.mark.parametrize("name", CONFIGS)
def test_their_model_in_ours(name: str, tmp_path: pathlib.Path) -> None:
    model, given = peer(name), inputs(*CONFIGS[name][2:])
    model.save_pretrained(tmp_path)
    made = siglip_outputs(model, given)
    write_fixture(tmp_path, given, made, "siglip")
    results = golden.run_fixture(tmp_path)
    assert len(results) == len(made)
    assert [result.line() for result in results if not result.passed] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_our_model_in_theirs(name: str, tmp_path: pathlib.Path) -> None:
    from transformers import AutoModel, SiglipModel

    peer(name).save_pretrained(tmp_path / "sizes")  # for its sizes alone
    system = surgery.load(tmp_path / "sizes", models.shapes).system
    rng = np.random.default_rng(1)
    flat = {path: 0.2 * rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    ours = models.Model(system, trees.unflatten(flat), "mmjax", None, None, None, "")
    models.save(ours, "hf", tmp_path / "made")
    model = AutoModel.from_pretrained(tmp_path / "made").eval()
    assert isinstance(model, SiglipModel)
    given = inputs(CONFIGS[name][2], False)
    made = siglip_outputs(model, given)
    logits = our_logits(system, ours.variables, given["pixel_values"], given["input_ids"])
    np.testing.assert_allclose(logits, made["logits_per_image"], atol=1e-4)


def test_positions_are_resized_as_theirs(tmp_path: pathlib.Path) -> None:
    import torch

    model, larger = peer("small"), SIZE + 2 * PATCH
    model.save_pretrained(tmp_path)
    given = inputs(larger, False)
    with torch.no_grad():
        pixels, ids = torch.from_numpy(given["pixel_values"]), torch.from_numpy(given["input_ids"])
        theirs = model(pixel_values=pixels, input_ids=ids, interpolate_pos_encoding=True).logits_per_image
    ours = models.load(tmp_path, image_size=larger)
    logits = our_logits(ours.system, ours.variables, given["pixel_values"], given["input_ids"])
    np.testing.assert_allclose(logits, theirs.numpy(), atol=1e-4)
