"""Exported folders, loaded by transformers' and open_clip's ordinary calls: the same ids, the same logits."""

import pathlib
from typing import Any

import numpy as np
import pytest

from mmjax.commands import models
from mmjax.core import trees
from mmjax.data.tokenizers import ClipBPE, Gemma, SentencePiece, SigLIP
from mmjax.weights import preprocessors, siglip_config
from tests.data import gemma_files
from tests.parity.peers import EMBED, LENGTH, PATCH, SIZE, VOCAB, numbers, our_logits, randomise

pytestmark = pytest.mark.parity

TEXTS = [
    "a photo of a cat",
    "Two dogs, running!",
    "it's 2024: émoji 🟥 naïve",
    "x",
    "a " * 60,
    "A red circle on a square",
]
WORDS = [*TEXTS, "a blue square on the left of a red circle", "two green triangles and a photo of a dog"]


def model_of(system: dict[str, Any], folder: pathlib.Path, tokenizer: Any) -> models.Model:
    """A model whose tokenizer is saved in a folder."""
    tokenizer.save(folder)
    return models.Model(system, numbers(system), "mmjax", None, folder, None, "made for a test")


def clip_system(tokenizer: Any, **img: Any) -> dict[str, Any]:
    return {
        "name": "clip",
        "embed_dim": EMBED,
        "img": {"image_size": SIZE, "patch": PATCH, "width": 40, "depth": 2, "heads": 5, **img},
        "txt": {"vocab": tokenizer.vocab_size, "length": LENGTH, "width": 24, "depth": 2, "heads": 2},
    }


def siglip_system(tokenizer: Any) -> dict[str, Any]:
    tower = {"depth": 2, "heads": 4, "act": "gelu_tanh", "eps": 1e-6, "mlp_dim": 64}
    img = {**siglip_config.image_side(SIZE, PATCH), **siglip_config.IMG, **tower, "width": 32}
    txt = {"vocab": tokenizer.vocab_size, "length": LENGTH, **siglip_config.TXT, **tower, "width": 24}
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return {"name": "clip", "embed_dim": 32, "img": img, "txt": txt, **siglip_config.SYSTEM, **half}


@pytest.fixture(scope="module")
def words() -> SentencePiece:
    return SentencePiece.train(WORDS, 300)


def pixels(system: dict[str, Any]) -> np.ndarray:
    size = system["img"]["image_size"]
    return np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)


def same_rows(theirs: np.ndarray, ours: tuple[np.ndarray, np.ndarray]) -> None:
    """Equal up to the end token; what follows differs in CLIP, which does not look at it."""
    ids, valid = ours
    assert (theirs[valid] == ids[valid]).all()


@pytest.mark.parametrize("kind", ["clip", "sentencepiece", "siglip"])
def test_transformers(kind: str, words: SentencePiece, tmp_path: pathlib.Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = {"clip": ClipBPE(), "sentencepiece": words, "siglip": SigLIP(words.model)}[kind]
    system = siglip_system(tokenizer) if kind == "siglip" else clip_system(tokenizer)
    made = model_of(system, tmp_path / "words", tokenizer)
    models.save(made, "hf", tmp_path / "hf")
    theirs, model = AutoTokenizer.from_pretrained(tmp_path / "hf"), AutoModel.from_pretrained(tmp_path / "hf").eval()
    rows = theirs(TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    ids, valid = tokenizer.batch(TEXTS, LENGTH)
    if kind == "sentencepiece":  # its end token, 2, has another id there
        assert tokenizer.eos_id == 2 and theirs.eos_token_id == tokenizer.vocab_size
        same_rows(np.where(rows.numpy() == theirs.eos_token_id, 2, rows.numpy()), (ids, valid))
    else:
        same_rows(rows.numpy(), (ids, valid))
    with torch.no_grad():
        logits = model(pixel_values=torch.from_numpy(pixels(system)), input_ids=rows).logits_per_image.numpy()
    np.testing.assert_allclose(
        our_logits(system, made.variables, pixels(system), ids, valid.sum(1) - 1), logits, atol=1e-4
    )


def open_clip_of(folder: pathlib.Path) -> tuple[Any, Any, Any]:
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{folder}"), preprocess


TINY = "vit_base_patch16_siglip_224"  # timm's smallest one, made tiny


@pytest.fixture
def tiny_timm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """timm's SigLIP tower under its own name, but tiny, for both libraries."""
    from timm.models import vision_transformer

    tower = {**siglip_config.TIMM[TINY], "image_size": SIZE, "patch": PATCH, "width": 32, "depth": 2, "heads": 4}
    tower |= {"mlp_dim": 128}
    monkeypatch.setitem(siglip_config.TIMM, TINY, tower)
    whole = vision_transformer._create_vision_transformer

    def small(variant: str, pretrained: bool = False, **options: Any) -> Any:
        sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 32, "depth": 2, "num_heads": 4}
        return whole(variant, pretrained=pretrained, **{**options, **sizes})

    monkeypatch.setattr(vision_transformer, "_create_vision_transformer", small)
    return tower


CASES = ["quick", "gelu", "resnet", "sentencepiece", "siglip", "siglip2", "siglip2 canonical"]


def open_clip_case(name: str, words: SentencePiece, request: pytest.FixtureRequest) -> tuple[dict[str, Any], Any]:
    if name.startswith("siglip"):
        tokenizer: Any = SigLIP(words.model)
        if name != "siglip":  # open_clip's configurations of SigLIP 2 drop punctuation too
            folder = gemma_files.write(request.getfixturevalue("tmp_path") / "gemma", WORDS * 3)
            tokenizer = Gemma.read(folder, asked="canonical" if name.endswith("canonical") else "none")
        system = siglip_system(tokenizer)
        return {**system, "img": dict(request.getfixturevalue("tiny_timm"))}, tokenizer
    tokenizer = words if name == "sentencepiece" else ClipBPE()
    if name == "resnet":
        system = clip_system(tokenizer)
        img = {"kind": "resnet", "image_size": 32, "layers": [1, 2, 1, 1], "width": 8, "heads": 4}
        return {**system, "img": img}, tokenizer
    system = clip_system(tokenizer, **({} if name == "quick" else {"act": "gelu"}))
    system["txt"] |= {} if name == "quick" else {"act": "gelu"}
    return system, tokenizer


@pytest.mark.parametrize("name", CASES)
def test_our_model_in_open_clip(
    name: str, words: SentencePiece, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    import torch

    system, tokenizer = open_clip_case(name, words, request)
    made = model_of(system, tmp_path / "words", tokenizer)
    models.save(made, "open_clip", tmp_path / "made")
    model, theirs, preprocess = open_clip_of(tmp_path / "made")
    rows = theirs(TEXTS)
    # open_clip strips texts, and a space at the end is a piece, or part of one, of Gemma's.
    texts = [text.strip() for text in TEXTS] if name == "siglip2" else TEXTS
    same_rows(rows.numpy(), tokenizer.batch(texts, LENGTH))
    ids, valid = tokenizer.batch(texts, LENGTH)
    with torch.no_grad():
        logits = model.get_logits(torch.from_numpy(pixels(system)), rows)[0].numpy()
    np.testing.assert_allclose(
        our_logits(system, made.variables, pixels(system), ids, valid.sum(1) - 1), logits, atol=1e-4
    )
    normalise = preprocess.transforms[-1]
    np.testing.assert_allclose(normalise.mean, system.get("mean", preprocessors.MEAN))


@pytest.mark.parametrize("name", CASES)
def test_open_clips_model_in_ours(
    name: str, words: SentencePiece, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    import torch

    system, tokenizer = open_clip_case(name, words, request)
    models.save(model_of(system, tmp_path / "words", tokenizer), "open_clip", tmp_path / "sizes")
    model = randomise(open_clip_of(tmp_path / "sizes")[0])
    torch.save(model.state_dict(), tmp_path / "sizes" / "model.pt")
    (tmp_path / "sizes" / "model.safetensors").unlink()
    ours = models.load(tmp_path / "sizes")
    if name.startswith("siglip2"):
        assert models.tokenizer_of(ours).digest == tokenizer.digest
    ids, valid = tokenizer.batch(TEXTS, LENGTH)
    with torch.no_grad():
        logits = model.get_logits(torch.from_numpy(pixels(system)), torch.from_numpy(ids).long())[0].numpy()
    given = pixels(system)
    np.testing.assert_allclose(our_logits(ours.system, ours.variables, given, ids, valid.sum(1) - 1), logits, atol=1e-4)


def test_sharded_archives_of_transformers(tmp_path: pathlib.Path) -> None:
    """Half precision in several torch archives with their index, as older versions of the library wrote them."""
    import json

    import torch
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2}
    text = {**tower, "vocab_size": VOCAB, "max_position_embeddings": LENGTH, "eos_token_id": 98, "bos_token_id": 97}
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": SIZE, "patch_size": PATCH},
                        projection_dim=EMBED)  # fmt: skip
    model = randomise(CLIPModel(config))
    model.save_pretrained(tmp_path / "whole")
    for dtype in (torch.float16, torch.bfloat16):
        folder = tmp_path / str(dtype)
        folder.mkdir()
        state = {key: value.to(dtype) for key, value in model.state_dict().items()}
        keys, weight_map = sorted(state), {}
        for number in range(3):
            name = f"pytorch_model-{number}.bin"
            torch.save({key: state[key] for key in keys[number::3]}, folder / name)
            weight_map |= dict.fromkeys(keys[number::3], name)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (folder / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
        expected, found = (trees.flatten(models.load(path).variables) for path in (tmp_path / "whole", folder))
        for path, array in found.items():
            np.testing.assert_array_equal(array, torch.from_numpy(expected[path].copy()).to(dtype).float().numpy())
