"""BERT's tokenizer: rows by hand, cleaning, training, saving, published files."""

import json
import pathlib
import pickle

import pytest

from mmjax import inputs
from mmjax.core.errors import UserError
from mmjax.data.tokenizers import WordPiece, load_tokenizer, open_tokenizer
from mmjax.data.tokenizers.pair_merges import merge_pairs
from mmjax.data.tokenizers.wordpiece import DEC, ENC, SPECIALS, clean_caption

VOCAB = [*SPECIALS, "a", "cat", "##s", "##d", "un", "##cat", ",", "cafe", "'"]


@pytest.fixture
def words() -> WordPiece:
    return WordPiece(VOCAB, added=(DEC, ENC))


def pieces(words: WordPiece, text: str) -> list[str]:
    return [words.tokens[number] for number in words.encode(text)]


def test_longest_pieces_first_word_by_word(words: WordPiece) -> None:
    assert pieces(words, "A  Cats, UNCATS\ta") == ["a", "cat", "##s", ",", "un", "##cat", "##s", "a"]
    assert pieces(words, "Café a,a") == ["cafe", "a", ",", "a"]
    assert pieces(words, "catx dog") == ["[UNK]", "[UNK]"]
    assert pieces(words, "[SEP]") == ["[UNK]"] * 3, "a special token's spelling is text"


def test_rows_and_specials(words: WordPiece) -> None:
    assert (words.pad_id, words.bos_id, words.eos_id, words.mask_id) == (0, 2, 3, 4)
    assert (words.special(DEC), words.special(ENC), words.vocab_size) == (14, 15, 16)
    ids, valid = words.batch(["cats a", "a cat a cat a"], 5)
    assert ids.tolist() == [[2, 6, 7, 5, 3], [2, 5, 6, 5, 3]] and valid.all()
    assert words.decode([14, 6, 7, 11, 5, 3, 0, 0]) == "cats, a"
    with pytest.raises(UserError, match=r"has no token '\[BOX\]'"):
        words.special("[BOX]")
    with pytest.raises(UserError, match="16 is outside the vocabulary of 16"):
        words.decode([16])
    with pytest.raises(UserError, match=r"\[CLS\], \[SEP\], \[MASK\] is missing"):
        WordPiece(["[PAD]", "[UNK]"])
    with pytest.raises(UserError, match="'a' stands twice"):
        WordPiece([*VOCAB, "a"])


def test_cleaning_of_captions() -> None:
    text = 'It\'s a "black-and-white" Dog; <person> and/or cat?  Yes.\n'
    assert clean_caption(text, "albef") == "its a black and white dog person and or cat yes"
    assert clean_caption(text, "blip") == "it's a black-and-white dog <person> and/or cat? yes"
    assert clean_caption(text, "none") == text and clean_caption(text, "albef", 3) == "its a black"
    assert WordPiece(VOCAB, clean="albef", most_words=2).encode("cats'! a a") == [6, 7, 5]
    with pytest.raises(UserError, match="cleaning of captions: 'bert'"):
        WordPiece(VOCAB, clean="bert")


def test_saving_and_published_files(words: WordPiece, tmp_path: pathlib.Path) -> None:
    words.save(tmp_path / "own")
    again = load_tokenizer(tmp_path / "own")
    assert again.digest == words.digest and again.encode("cats") == words.encode("cats") and again.vocab_size == 16
    assert pickle.loads(pickle.dumps(words)).digest == words.digest
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    assert open_tokenizer(f"wordpiece:{tmp_path / 'bert'}", added=(DEC, ENC)).digest == words.digest
    words._backend.save(str(tmp_path / "bert" / "tokenizer.json"))
    assert open_tokenizer(f"wordpiece:{tmp_path}/bert/tokenizer.json", added=(DEC, ENC)).digest == words.digest
    (tmp_path / "bert" / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert not open_tokenizer(f"wordpiece:{tmp_path / 'bert'}").lower
    with pytest.raises(UserError, match="clip_bpe' takes no options, got clean"):
        open_tokenizer("clip_bpe", clean="blip")
    with pytest.raises(UserError, match="wordpiece:FOLDER needs"):
        open_tokenizer("wordpiece:nowhere")


def test_pairs_are_merged_by_frequency() -> None:
    counts = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}  # the example of Hugging Face's course on BPE
    letters = ["##g", "##n", "##s", "##u", "b", "h", "p"]
    assert merge_pairs(counts, 10, "##") == [*letters, "##ug", "##un", "hug"]
    assert merge_pairs(counts, 99, "##")[10:] == ["pun", "hugs", "pug", "bun"]
    with pytest.raises(UserError, match="room for 6 pieces; the texts have 7 characters"):
        merge_pairs(counts, 6, "##")


def test_training_is_repeatable_and_covers_its_texts() -> None:
    texts = ["This picture shows a Panda.", "two pandas, one bear", "a bear's café"] * 3
    words = WordPiece.train(texts, 90, added=(DEC, ENC), clean="blip")
    assert WordPiece.train(reversed(texts), 90, added=(DEC, ENC), clean="blip").digest == words.digest
    assert words.unk_id not in words.encode(" ".join(texts))
    assert words.decode(words.encode("Two bears.")) == "two bears" and (words.special(DEC), words.special(ENC)) == (
        5,
        6,
    )


def test_the_config_trains_one() -> None:
    config = {"kind": "wordpiece", "train_on": "emoji_scenes:train?length=50&parts=captions", "vocab_size": 400}
    words = inputs.make_tokenizer({**config, "added": (DEC, ENC)}, None)
    assert isinstance(words, WordPiece) and words.special(DEC) == 5 and words.vocab_size <= 400
    assert words.decode(words.encode("a picture of two cats")) == "a picture of two cats"
    with pytest.raises(UserError, match=r"of the kind wordpiece.*model_type"):
        inputs.make_tokenizer({**config, "model_type": "bpe"}, None)
    with pytest.raises(UserError, match="did you mean 'wordpiece'"):
        inputs.make_tokenizer({**config, "kind": "wordpeace"}, None)
