"""Published `tokenizer.json` of several forms: ids, what continues a text, special tokens, files, mistakes."""

import json
import pathlib
import pickle
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from mmjax.core.errors import UserError
from mmjax.data.chat import ChatTokenizer
from mmjax.data.tokenizers import TokenizerJson, load_tokenizer, open_tokenizer
from mmjax.data.tokenizers.base import Tokenizer

TEXTS = [
    "a red circle",
    "a blue square is left of a red circle",
    "What is it?",
    "two dogs and 12 cats",
    "naïve 🟥 東京",
]
BEGIN, END = "<|begin|>", "<|end|>"


def byte_level(blank: bool) -> tokenizers.Tokenizer:
    """As of LLaMA 3 (no blank before a text) and of BART's family (a blank)."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=blank)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[BEGIN, END], initial_alphabet=alphabet)
    made.train_from_iterator(TEXTS * 3, trainer)
    return made


def spaced(old: bool) -> tokenizers.Tokenizer:
    """As of LLaMA 1 and 2: a blank is ▁, put before a text by the normalizer (old files) or by Metaspace."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<unk>", BEGIN, END, *octets])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(TEXTS * 3, trainer)
    whole = json.loads(made.to_str())  # a byte in the text is no special token
    whole["added_tokens"] = [token for token in whole["added_tokens"] if not token["content"].startswith("<0x")]
    made = tokenizers.Tokenizer.from_str(json.dumps(whole))
    made.pre_tokenizer = None if old else pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    if old:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    blanks = decoders.Replace("▁", " ")
    made.decoder = decoders.Sequence([blanks, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return made


FORMS = {"bytes": byte_level(False), "bytes, blank": byte_level(True), "old": spaced(True), "metaspace": spaced(False)}
SAID = {"eos_token": END, "bos_token": {"content": BEGIN, "lstrip": False}}


def write(folder: pathlib.Path, form: str, begins: bool = True, **said: Any) -> pathlib.Path:
    made = tokenizers.Tokenizer.from_str(FORMS[form].to_str())
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, made.token_to_id(BEGIN))]
        )
    made.enable_padding(length=9)
    made.enable_truncation(4)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**SAID, **said}))
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_texts_come_back_and_go_on(form: str, tmp_path: pathlib.Path) -> None:
    words = TokenizerJson.read(write(tmp_path, form))
    assert isinstance(words, Tokenizer) and isinstance(words, ChatTokenizer)
    for text in TEXTS:
        assert words.encode(text) == FORMS[form].encode(text, add_special_tokens=False).ids
        assert words.decode(words.encode(text)).strip() == text
        for cut in (text.index(" "), 1):  # after a space, and in the middle of a word
            both = words.encode(text[:cut]) + words.encode_more(text[cut:])
            assert words.decode(both).strip() == text
    assert words.encode_more(" circle") == words.encode("a circle")[len(words.encode("a")) :]
    assert (words.special(END), words.special(BEGIN)) == (words.eos_id, words.bos_id)
    assert END in words.decode(words.encode(f"a {END} b")), "a spelling in a text is text"
    assert words.eos_id not in words.encode(END) and words.decode([words.eos_id]) == ""
    ids, valid = words.batch(TEXTS[:2], 6)
    assert ids[0][0] == words.bos_id and (ids[1][-1], valid[1].all()) == (words.eos_id, True)
    with pytest.raises(UserError, match="has no token '<image>'"):
        words.special("<image>")
    with pytest.raises(UserError, match="outside the vocabulary"):
        words.decode([words.vocab_size])


def test_it_is_kept_beside_a_checkpoint(tmp_path: pathlib.Path) -> None:
    words = open_tokenizer(f"tokenizer_json:{write(tmp_path / 'published', 'bytes', pad_token=BEGIN)}")
    words.save(tmp_path / "kept")
    for other in (load_tokenizer(tmp_path / "kept"), pickle.loads(pickle.dumps(words))):
        assert other.digest == words.digest and other.encode(TEXTS[0]) == words.encode(TEXTS[0])
        assert (other.bos_id, other.eos_id, other.pad_id) == (words.bos_id, words.eos_id, words.bos_id)
    other = TokenizerJson((tmp_path / "published" / "tokenizer.json").read_bytes(), eos=BEGIN)
    assert other.digest != words.digest and other.bos_id is None and other.pad_id == other.eos_id


def test_what_begins_and_ends_a_row(tmp_path: pathlib.Path) -> None:
    """A token may have a name without standing in a row; the config may say that it stands there all the same."""
    assert TokenizerJson.read(write(tmp_path / "a", "bytes", begins=False)).bos_id is None
    assert TokenizerJson.read(write(tmp_path / "b", "bytes", begins=False, add_bos_token=True)).bos_id == 0
    assert TokenizerJson.read(write(tmp_path / "c", "bytes", add_bos_token=False)).bos_id is None
    silent = write(tmp_path / "d", "bytes", eos_token=None)
    assert TokenizerJson.read(silent, end_id=0).eos_id == 0
    with pytest.raises(UserError, match=r"d: neither tokenizer_config.json nor special_tokens_map.json names the eos"):
        TokenizerJson.read(silent)
    (silent / "tokenizer_config.json").unlink()
    (silent / "special_tokens_map.json").write_text(json.dumps({"eos_token": END}))
    assert TokenizerJson.read(silent).eos_id == 1


def test_files_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"e: tokenizer.json: the special tokens '<stop>' \(eos\) are not in the"):
        TokenizerJson.read(write(tmp_path / "e", "bytes", eos_token="<stop>"))
    for content, said in ((b"{", "is not JSON"), (b"[]", "not a JSON object"), (b"{}", "is not a tokenizer")):
        (tmp_path / "tokenizer.json").write_bytes(content)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(SAID))
        with pytest.raises(UserError, match=said):
            TokenizerJson.read(tmp_path)
    with pytest.raises(UserError, match=r"needs a folder that holds tokenizer\.json, got 'nowhere'"):
        open_tokenizer("tokenizer_json:nowhere")
