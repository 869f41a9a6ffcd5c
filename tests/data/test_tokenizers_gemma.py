"""SigLIP 2's tokenizer: its rows by hand, what the published files may say, saving, and other libraries' files."""

import json
import pathlib
import pickle
from typing import Any

import pytest

from mmjax.core.errors import UserError
from mmjax.data.tokenizers import Gemma, load_tokenizer, open_tokenizer
from mmjax.data.tokenizers.gemma import is_published, padding_side
from mmjax.data.tokenizers.published import publish
from mmjax.data.tokenizers.siglip import canonical
from tests.data import gemma_files

TEXTS = ["a red circle", "a blue square on the left", "two green triangles", "a photo of a cat and a dog"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return gemma_files.write(tmp_path_factory.mktemp("gemma"), TEXTS)


@pytest.fixture(scope="module")
def words(folder: pathlib.Path) -> Gemma:
    return Gemma.read(folder)


def pieces(words: Gemma, text: str) -> list[str]:
    return [words.token(number) for number in words.encode(text)]


def test_rows(words: Gemma) -> None:
    assert (words.pad_id, words.eos_id, words.bos_id) == (0, 1, None) and words.vocab_size == 330
    ids, valid = words.batch(["A red circle", ""])
    red = words.encode("a red circle")
    assert ids.shape == (2, 64) and ids[0].tolist() == [*red, 1] + [0] * (63 - len(red))
    assert valid.sum(1).tolist() == [len(red) + 1, 1] and ids[1].tolist() == [1] + [0] * 63
    long, valid = words.batch(["a red circle " * 40], 12)
    assert valid.all() and long[0].tolist() == [*words.encode("a red circle " * 40)[:11], 1]


def test_spaces_bytes_and_spellings_of_specials(words: Gemma) -> None:
    """No space is put before a text; characters without a piece are their bytes; specials in a text are text."""
    assert "".join(pieces(words, "a red  circle")) == "a▁red▁▁circle"
    assert pieces(words, "é") == ["<0xC3>", "<0xA9>"]
    assert words.eos_id not in words.encode("a <eos> b") and words.decode(words.encode("a <eos> b")) == "a <eos> b"
    text = "  a red cat\n🟥 naïve, isn't it?  "
    assert words.decode([2, *words.encode(text), 1, 0, 0]) == text
    with pytest.raises(UserError, match="330 is outside the vocabulary of 330 ids"):
        words.decode([330])


def test_what_is_done_with_texts(folder: pathlib.Path, words: Gemma, tmp_path: pathlib.Path) -> None:
    assert words.clean == "lower" and words.encode("A RED Circle") == words.encode("a red circle")
    cased = gemma_files.write(tmp_path / "cased", TEXTS, do_lower_case=False)
    assert Gemma.read(cased).clean == "none" and "<0x52>" in pieces(Gemma.read(cased), "A Red")
    unsaid = gemma_files.write(tmp_path / "unsaid", TEXTS, do_lower_case=None)
    assert Gemma.read(unsaid).clean == "lower" and Gemma.read(unsaid, unsaid="none").clean == "none"
    strict = Gemma.read(folder, asked="canonical")
    for text in ("  A red_circle:\tTom's\n cat!  ", "".join(map(chr, range(33, 127))), "Ünï—cödé  [x]\\^-]"):
        assert strict.encode(text) == words.encode(canonical(text))


def test_saving(folder: pathlib.Path, words: Gemma, tmp_path: pathlib.Path) -> None:
    words.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, Gemma) and again.digest == words.digest and again.clean == "lower"
    assert pickle.loads(pickle.dumps(words)).batch(TEXTS)[0].tolist() == again.batch(TEXTS)[0].tolist()
    opened = open_tokenizer(f"gemma:{folder}")
    assert opened.digest == words.digest != Gemma.read(folder, asked="canonical").digest
    with pytest.raises(UserError, match="gemma:FOLDER needs a folder that holds"):
        open_tokenizer("gemma:nowhere")


@pytest.mark.parametrize("clean", ["none", "lower", "canonical"])
def test_exported_files_are_read_back(folder: pathlib.Path, clean: str, tmp_path: pathlib.Path) -> None:
    cased = gemma_files.write(tmp_path / "cased", TEXTS, do_lower_case=False)
    words = Gemma.read(cased, asked=clean)
    assert words.clean == clean
    (tmp_path / "made").mkdir()
    publish(words, tmp_path / "made", 64)
    assert is_published(tmp_path / "made")
    assert Gemma.read(tmp_path / "made").digest == words.digest
    config = json.loads((tmp_path / "made" / "tokenizer_config.json").read_text())
    assert config["padding_side"] == "right" and config["model_input_names"] == ["input_ids"]
    assert (config["eos_token"], config["pad_token"], config["model_max_length"]) == ("<eos>", "<pad>", 64)
    with pytest.raises(UserError, match="end token 1"):
        publish(words, tmp_path / "made", 64, end=("<end>", 330))


def test_which_folders_hold_it(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert is_published(folder)
    for name, found in [("Siglip2Tokenizer", True), ("GemmaTokenizerFast", True), ("PreTrainedTokenizerFast", True),
                        (None, True), ("CLIPTokenizer", False), ("SiglipTokenizer", False)]:  # fmt: skip
        assert is_published(gemma_files.write(tmp_path, TEXTS, tokenizer_class=name)) == found
    model = {**json.loads((folder / "tokenizer.json").read_text())["model"], "byte_fallback": False}
    gemma_files.write(tmp_path, TEXTS, tokenizer_class="PreTrainedTokenizerFast")
    assert not is_published(gemma_files.change(tmp_path, model=model))
    (tmp_path / "tokenizer.json").unlink()
    assert not is_published(tmp_path)


def test_padding_side() -> None:
    assert padding_side({"tokenizer_class": "GemmaTokenizerFast"}) == "left"
    assert padding_side({"tokenizer_class": "GemmaTokenizer", "padding_side": "right"}) == "right"
    assert padding_side({"tokenizer_class": "CLIPTokenizer"}) == "right"


TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def special(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"normalizer": {"type": "NFKC"}}, r"Gemma's form \(.*\): normalizer = NFKC"),
        ({"normalizer": None}, "normalizer = None"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer = ByteLevel"),
        ({"model": {"type": "Unigram", "vocab": []}}, "model.type = 'Unigram', model.byte_fallback = None"),
        ({"post_processor": None}, "post_processor has to end texts"),
        ({"post_processor": {**TEMPLATE, "single": [special("<bos>"), TEXT]}}, "post_processor has to end texts"),
        ({"post_processor": {**TEMPLATE, "single": [special("<bos>"), TEXT, special("<eos>")]}},
         "add_bos_token = False, but the rows of tokenizer.json say otherwise"),
    ],
)  # fmt: skip
def test_other_forms_are_refused(fields: dict[str, Any], said: str, tmp_path: pathlib.Path) -> None:
    gemma_files.change(gemma_files.write(tmp_path, TEXTS), **fields)
    with pytest.raises(UserError, match=said) as error:
        Gemma.read(tmp_path)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_other_files_are_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for content in (b"something else", b"[]", "é".encode("latin-1")):
        with pytest.raises(UserError, match=r"tokenizer\.json is not"):
            Gemma(content)
    whole = json.loads((folder / "tokenizer.json").read_text())
    del whole["model"]["merges"]
    with pytest.raises(UserError, match="is not a tokenizer: "):
        Gemma(json.dumps(whole).encode())
    with pytest.raises(UserError, match="special tokens <nothing> are not in the vocabulary"):
        Gemma.read(gemma_files.write(tmp_path, TEXTS, pad_token="<nothing>"))


def test_rows_that_begin_with_a_token(tmp_path: pathlib.Path) -> None:
    gemma_files.write(tmp_path, TEXTS, add_bos_token=True)
    ends = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in [("<bos>", 2), ("<eos>", 1)]}
    single = [special("<bos>"), TEXT, special("<eos>")]
    words = Gemma.read(gemma_files.change(tmp_path, post_processor={**TEMPLATE, "single": single, "pair": single,
                                                                      "special_tokens": ends}))  # fmt: skip
    assert words.bos_id == 2 and words.batch(["a"], 4)[0].tolist() == [[2, *words.encode("a"), 1, 0]]
