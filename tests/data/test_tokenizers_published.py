"""Tokenizer files that other libraries read, SigLIP's rules, and vocabularies trained here."""

import json
import pathlib

import pytest

from mmjax.core.errors import UserError
from mmjax.data.tokenizers import ClipBPE, SentencePiece, SigLIP, load_tokenizer, open_tokenizer
from mmjax.data.tokenizers.published import LLAMA_SPIECE, SPIECE, publish
from mmjax.data.tokenizers.siglip import canonical

TEXTS = ["a red circle", "a blue square on the left", "two green triangles", "a photo of a cat and a dog"]


@pytest.fixture(scope="module")
def trained() -> SentencePiece:
    return SentencePiece.train(TEXTS, 280)


def test_canonical_form() -> None:
    assert canonical("  A  photo_of: Tom's\n cat! ") == "a photo of toms cat"


def test_siglip_pads_with_the_end_and_drops_case_and_punctuation(
    trained: SentencePiece, tmp_path: pathlib.Path
) -> None:
    tokenizer = SigLIP(trained.model)
    ids, valid = tokenizer.batch(["A red, circle!", "a blue square"], 40)
    assert ids[0, valid[0]].tolist() == [*trained.encode("a red circle"), trained.eos_id]
    assert (ids[~valid] == trained.eos_id).all() and ids.shape == (2, 40)
    long, valid = tokenizer.batch(["a red circle " * 20], 12)
    assert valid.all() and long[0, -1] == trained.eos_id
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert isinstance(again, SigLIP) and again.digest == tokenizer.digest != trained.digest
    (tmp_path / "x.model").write_bytes(trained.model)
    assert isinstance(open_tokenizer(f"siglip:{tmp_path / 'x.model'}"), SigLIP)
    with pytest.raises(UserError, match="siglip:FILE needs"):
        open_tokenizer("siglip")


def test_clips_files(tmp_path: pathlib.Path) -> None:
    tokenizer = ClipBPE()
    publish(tokenizer, tmp_path, 77)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    assert len(vocab) == 49408 and vocab["<end_of_text>"] == 49407 and vocab["cat</w>"] == 2368
    assert len((tmp_path / "merges.txt").read_text().splitlines()) == 48_895
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    assert whole["post_processor"]["special_tokens"]["<start_of_text>"]["ids"] == [49406]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "CLIPTokenizer" and config["model_max_length"] == 77


def test_sentence_pieces_files(trained: SentencePiece, tmp_path: pathlib.Path) -> None:
    said = publish(trained, tmp_path, 16)
    assert (tmp_path / SPIECE).read_bytes() == trained.model and "AutoTokenizer" in said
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    assert len(model["vocab"]) == 280 and model["byte_fallback"] and model["unk_id"] == 3
    publish(trained, tmp_path, 16, decoder=True)
    around = json.loads((tmp_path / "tokenizer.json").read_text())["post_processor"]
    assert [list(part) for part in around["single"]] == [["SpecialToken"], ["Sequence"]]  # no end: it is gone on with
    assert (tmp_path / LLAMA_SPIECE).read_bytes() == trained.model
    publish(trained, tmp_path, 16, end=("<|endoftext|>", 280))
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    assert whole["added_tokens"][-1]["id"] == 280 and whole["post_processor"]["single"][-1]["SpecialToken"]["id"] == (
        "<|endoftext|>"
    )
    other = SentencePiece.train(TEXTS, 280, model_type="bpe")
    (tmp_path / "bpe").mkdir()
    assert "cannot say" in publish(other, tmp_path / "bpe", 16)
    assert not (tmp_path / "bpe" / "tokenizer.json").exists()
    folded = SentencePiece.train(TEXTS, 280, normalization="nmt_nfkc_cf")
    assert "cannot say" in publish(folded, tmp_path / "bpe", 16)
