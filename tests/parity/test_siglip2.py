"""SigLIP 2 of one image size: folders as Google publishes them, against transformers, in both directions."""

import pathlib

import numpy as np
import pytest

from mmjax.commands import models
from mmjax.data.image import Preprocess
from mmjax.data.tokenizers import Gemma
from tests.data import gemma_files
from tests.parity.peers import PATCH, SIZE, our_logits, randomise

pytestmark = pytest.mark.parity

LENGTH, VOCAB = 64, 330
TEXTS = [
    "A photo of a Cat",
    "two  dogs, RUNNING!",
    " It's 2024: Émoji 🟥 naïve\n\nx ",
    "",
    "a Red circle " * 40,
    "東京 ÇA ΑΒΓ",
]
WORDS = [*TEXTS, "a blue square on the left of a red circle", "two green triangles and a photo of a dog"] * 3
# As the largest of them, whose towers differ: width, heads, MLP width, depth.
TOWERS = {"text_config": (24, 2, 50, 2), "vision_config": (32, 4, 64, 1)}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    folder = tmp_path_factory.mktemp("siglip2")
    names = ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    towers = {tower: dict(zip(names, sizes, strict=True)) for tower, sizes in TOWERS.items()}
    towers["text_config"] |= {"vocab_size": VOCAB, "projection_size": 32}
    towers["vision_config"] |= {"image_size": SIZE, "patch_size": PATCH}
    torch.manual_seed(0)
    randomise(SiglipModel(SiglipConfig(**towers))).save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, resample=2).save_pretrained(folder)
    return gemma_files.write(folder, WORDS, VOCAB)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)


def test_their_folder_in_ours(published: pathlib.Path) -> None:
    """Equal rows, padding included, which the model sees; theirs are given lower-case texts: it leaves that out."""
    import torch
    from transformers import AutoModel, GemmaTokenizerFast, Siglip2Tokenizer

    ours = models.load(published)
    words = models.tokenizer_of(ours)
    assert isinstance(words, Gemma)
    ids, _ = words.batch(TEXTS, LENGTH)
    how = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
    rows = GemmaTokenizerFast.from_pretrained(published)([text.lower() for text in TEXTS], **how).input_ids
    np.testing.assert_array_equal(ids, rows.numpy())
    lower = Siglip2Tokenizer.from_pretrained(published)  # which does it by itself
    np.testing.assert_array_equal(ids, lower(TEXTS, **how).input_ids.numpy())
    model = AutoModel.from_pretrained(published).eval()
    with torch.no_grad():
        theirs = model(pixel_values=torch.from_numpy(pixels()), input_ids=rows).logits_per_image.numpy()
    np.testing.assert_allclose(our_logits(ours.system, ours.variables, pixels(), ids), theirs, atol=1e-4)


def test_their_pictures_in_ours(published: pathlib.Path) -> None:
    """Bilinear, to a square; the library's processor that computes with Pillow is the one to be equal with."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    picture = np.random.default_rng(1).integers(0, 256, (50, 41, 3), np.uint8)
    theirs = SiglipImageProcessorPil.from_pretrained(published)(picture, return_tensors="np")["pixel_values"][0]
    prepared = Preprocess(**models.eval_image(models.load(published)), size=SIZE)(picture)
    np.testing.assert_allclose(prepared.transpose(2, 0, 1) / 127.5 - 1, theirs, atol=1e-6)
    assert (prepared != Preprocess(mode="square", size=SIZE)(picture)).any()


@pytest.mark.parametrize("way", ["straight", "through mmjax's layout"])
def test_our_folder_in_theirs(way: str, published: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Texts as they are: the exported file holds the lower case, and the processor gives the model no mask."""
    import torch
    from transformers import AutoModel, AutoProcessor, AutoTokenizer

    ours = models.load(published)
    if way != "straight":
        models.save(ours, "mmjax", tmp_path / "between")
        ours = models.load(tmp_path / "between")
    models.save(ours, "hf", tmp_path / "made")
    words = models.tokenizer_of(ours)
    assert words is not None
    ids, _ = words.batch(TEXTS, LENGTH)
    how = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    np.testing.assert_array_equal(AutoTokenizer.from_pretrained(tmp_path / "made")(TEXTS, **how).input_ids.numpy(), ids)
    given = AutoProcessor.from_pretrained(tmp_path / "made")(text=TEXTS, **how)
    assert set(given) == {"input_ids"}
    model = AutoModel.from_pretrained(tmp_path / "made").eval()
    with torch.no_grad():
        theirs = model(pixel_values=torch.from_numpy(pixels()), **given).logits_per_image.numpy()
    np.testing.assert_allclose(our_logits(ours.system, ours.variables, pixels(), ids), theirs, atol=1e-4)
    again = models.load(tmp_path / "made")
    assert models.eval_image(again) == models.eval_image(ours) == {"mode": "square", "resample": "bilinear"}
    words_again = models.tokenizer_of(again)
    assert isinstance(words_again, Gemma) and words_again.digest == words.digest
