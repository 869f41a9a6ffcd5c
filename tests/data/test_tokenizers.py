import json
import pickle
import random

import ftfy
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.data import emoji, tokenizers
from mmjax.data.tokenizers import ClipBPE, SentencePiece, clip_bpe, load_tokenizer, open_tokenizer


@pytest.fixture(scope="module")
def clip() -> ClipBPE:
    return ClipBPE()


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return [text for concept in emoji.concepts() for text in emoji.texts_of(concept, ("en", "zh"))]


@pytest.fixture(scope="module")
def pieces(corpus) -> SentencePiece:
    return SentencePiece.train(corpus, 3000)


def test_clip_equals_the_reference(clip, golden):
    folder = golden / "clip" / "tokenizer"
    config = json.loads((folder / "meta.json").read_text())["config"]
    assert (clip.vocab_size, clip.bos_id, clip.eos_id) == (config["vocab_size"], config["sot"], config["eot"])
    cases = json.loads((folder / "io.json").read_text())
    assert len(cases) == 60
    for case in cases:
        assert clip.encode(case["text"]) == case["encode"], case["text"]
        assert clip.decode(case["encode"]) == case["decode"], case["text"]
        for length, key in ((77, "ids"), (32, "ids_context_32")):
            ids, valid = clip.batch([case["text"]], length)
            assert ids[0].tolist() == case[key], case["text"]
            assert valid.sum() == min(len(case["encode"]) + 2, length)
            assert ids[0, valid.sum() - 1] == config["eot"]


def test_clip_valid_tells_padding_from_the_token_with_id_0(clip):
    ids, valid = clip.batch(["a!b", "a !! b"], 8)
    assert ids.dtype == np.int32 and valid.dtype == bool
    np.testing.assert_array_equal(valid[:, :-1] | ~valid[:, 1:], True)  # padding only on the right
    assert (ids[~valid] == clip.pad_id).all()


def test_clip_skips_the_repair_only_where_it_changes_nothing():
    draw = random.Random(0)
    printable = [chr(code) for code in range(32, 127)]
    for _ in range(2000):
        text = "".join(draw.choice(printable) for _ in range(draw.randrange(30))).replace("&", "")
        assert clip_bpe.clean(text) == " ".join(ftfy.fix_text(text).split()).lower()


def test_clip_cleaning():
    assert clip_bpe.clean("Caf\u00c3\u00a9\n&amp;amp;  TEA") == "café & tea"


def test_clip_cache_is_bounded_and_not_pickled(monkeypatch):
    monkeypatch.setattr(clip_bpe, "_CACHED_WORDS", 3)
    tokenizer = ClipBPE()
    first = [tokenizer.encode(word) for word in ["one", "two", "three", "four", "five", "one"]]
    assert first[0] == first[-1]
    assert len(tokenizer._cache) <= 3
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy._cache == {}
    assert copy.encode("one") == first[0]


def test_clip_other_spelling_of_specials(clip):
    openai = ClipBPE(specials=("<|startoftext|>", "<|endoftext|>"))
    assert openai.encode("<|startoftext|>a cat<|endoftext|>") == [49406, 320, 2368, 49407]
    assert 49406 not in openai.encode("<start_of_text>")
    assert openai.digest != clip.digest


def test_clip_own_merges(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text("#version: 0.2\na b\nab c</w>\n")
    tokenizer = ClipBPE(path)
    assert tokenizer.vocab_size == 512 + 2 + 2
    assert tokenizer.encode("abc") == [513]
    assert tokenizer.decode(tokenizer.encode("abc abd")) == "abc abd "
    assert open_tokenizer(f"clip_bpe:{path}").digest == tokenizer.digest
    path.write_text("#version: 0.2\na b c\n")
    with pytest.raises(UserError, match="line 2"):
        ClipBPE(path)
    with pytest.raises(UserError, match="no such merges file"):
        ClipBPE(tmp_path / "none")


def test_ids_outside_the_vocabulary(clip, pieces):
    for tokenizer in (clip, pieces):
        for number in (-1, tokenizer.vocab_size):
            with pytest.raises(UserError, match="outside the vocabulary"):
                tokenizer.decode([number])


def test_length_without_room(clip, pieces):
    for tokenizer in (clip, pieces):
        with pytest.raises(UserError, match="at least 2"):
            tokenizer.batch(["a"], 1)
        assert tokenizer.batch(["a b c"], 2)[0].tolist() == [[tokenizer.bos_id, tokenizer.eos_id]]


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a cat", "火箭 and 一只猫", "👩‍🚀 🇫🇷 👍🏽", "  two  spaces ", "tab\tand\nline", "Ünïcödé ﬁ ①",
        "<s> </s> <pad>", "ABC abc", "",
    ],
)  # fmt: skip
def test_sentencepiece_loses_nothing(pieces, text):
    assert pieces.decode(pieces.encode(text)) == text


def test_sentencepiece_ids(pieces):
    assert pieces.vocab_size == 3000
    assert (pieces.pad_id, pieces.bos_id, pieces.eos_id) == (0, 1, 2)
    assert not {0, 1, 2} & set(pieces.encode("<s> </s> <pad> rocket"))
    ids, valid = pieces.batch(["rocket", "a very long text about a rocket"], 6)
    row = pieces.encode("rocket")
    assert ids[0, : len(row) + 2].tolist() == [1, *row, 2]
    assert (ids[~valid] == 0).all()
    assert ids[1, -1] == 2 and valid[1].all()
    assert pieces.decode(ids[0]) == "rocket"


def test_sentencepiece_training_repeats(corpus, pieces):
    assert SentencePiece.train(corpus, 3000).digest == pieces.digest
    assert SentencePiece.train(corpus, 2800).digest != pieces.digest


def test_sentencepiece_bpe_and_case_folding():
    texts = ["A red circle", "a blue square", "a red square"]
    tokenizer = SentencePiece.train(texts, 290, model_type="bpe", normalization="nmt_nfkc_cf")
    assert tokenizer.encode("RED") == tokenizer.encode("red")


def test_sentencepiece_prints_nothing(capfd):
    SentencePiece.train(["a red circle", "a blue square"], 272)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("texts", "size", "options", "words"),
    [
        (["a b"], 280, {"model_type": "wordpiece"}, "valid: unigram"),
        (["a b"], 280, {"normalization": "lower"}, "valid: identity"),
        ([" "], 280, {}, "no text"),
        (["a b"], 5000, {}, "vocab_size=5000 on 1 texts"),
        (["a b"], 100, {}, "vocab_size=100"),
    ],
)
def test_sentencepiece_mistakes(texts, size, options, words):
    with pytest.raises(UserError, match=words):
        SentencePiece.train(texts, size, **options)


def test_sentencepiece_refuses_other_files():
    with pytest.raises(UserError, match="not a SentencePiece model"):
        SentencePiece(b"something else")


def test_save_and_load(clip, pieces, tmp_path):
    text = "A rocket 🚀, 火箭"
    for tokenizer in (clip, pieces):
        folder = tmp_path / tokenizer.kind
        tokenizer.save(folder)
        for again in (load_tokenizer(folder), open_tokenizer(str(folder)), pickle.loads(pickle.dumps(tokenizer))):
            assert type(again) is type(tokenizer)
            assert again.digest == tokenizer.digest
            assert again.encode(text) == tokenizer.encode(text)
            assert again.vocab_size == tokenizer.vocab_size
    assert clip.digest != pieces.digest


def test_load_refuses_changed_and_missing_files(pieces, corpus, tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    pieces.save(tmp_path)
    model = tmp_path / "sentencepiece.model"
    other = SentencePiece.train(corpus, 2800)
    other.save(tmp_path / "other")
    model.write_bytes((tmp_path / "other" / "sentencepiece.model").read_bytes())
    with pytest.raises(UserError, match="were changed"):
        load_tokenizer(tmp_path)
    model.unlink()
    with pytest.raises(UserError, match=r"\['sentencepiece.model'\] are missing"):
        load_tokenizer(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"kind": "clip_bep", "files": []}))
    with pytest.raises(UserError, match="did you mean 'clip_bpe'"):
        load_tokenizer(tmp_path)
    config.write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer's description"):
        load_tokenizer(tmp_path)


def test_open_tokenizer(pieces, tmp_path):
    assert open_tokenizer("clip_bpe").vocab_size == 49408
    pieces.save(tmp_path)
    assert open_tokenizer(f"sentencepiece:{tmp_path}/sentencepiece.model").digest == pieces.digest
    with pytest.raises(UserError, match="did you mean 'clip_bpe'"):
        open_tokenizer("clip-bpe")
    with pytest.raises(UserError, match="needs a SentencePiece"):
        open_tokenizer("sentencepiece")
    assert set(tokenizers.TOKENIZERS) == {"clip_bpe", "sentencepiece", "siglip", "gemma", "tokenizer_json", "wordpiece"}


def test_symbols_are_never_cut():
    texts = ["A red circle", "a blue square\nis it?", "a red square"]
    tokenizer = SentencePiece.train(texts, 280, symbols=("[INST]", "[/INST]"))
    first, last = tokenizer.special("[INST]"), tokenizer.special("[/INST]")
    ids = tokenizer.encode("[INST] a red\ncircle [/INST]")
    assert ids.count(first) == 1 and ids[-1] == last and tokenizer.decode(ids) == "[INST] a red\ncircle [/INST]"
    assert tokenizer.encode_more("[INST]") == [first]
