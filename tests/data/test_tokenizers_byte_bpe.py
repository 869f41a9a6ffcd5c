"""Byte pairs of GPT-2's kind: cut by hand, there and back, specials, files."""

import json
import pathlib
import pickle

import pytest

from mmjax.core.errors import UserError
from mmjax.data.chat import ChatTokenizer, Conversation, chat_row
from mmjax.data.chat_templates import template
from mmjax.data.tokenizers import ByteBPE, load_tokenizer, open_tokenizer
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.tokenizers.byte_bpe import written
from mmjax.data.tokenizers.clip_bpe import byte_symbols

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["a t", "Ġ c", "Ġc at", "1 2"]  # "at", " c", " cat", "12"
TOKENS = [*SPECIALS, *byte_symbols(), *("".join(pair.split()) for pair in MERGES)]


def make(begin: str | None = None, **options) -> ByteBPE:
    return ByteBPE(written(TOKENS, MERGES, [0, 1, 2], **options), "<|im_end|>", begin)


def spelled(tokenizer: ByteBPE, text: str) -> list[str]:
    return [TOKENS[number] for number in tokenizer.encode(text)]


def test_words_are_cut_as_by_hand() -> None:
    plain, single = make(), make(digits=True)
    assert spelled(plain, "at cat") == ["at", "Ġcat"] and spelled(plain, "12 cat12") == ["12", "Ġcat", "12"]
    assert spelled(single, "12") == ["1", "2"]  # every digit is a word
    assert spelled(plain, "<|im_end|>")[:2] == ["<", "|"]  # what a user writes is text
    assert plain.encode_more(" cat") == plain.encode(" cat")
    assert isinstance(plain, Tokenizer) and isinstance(plain, ChatTokenizer)


@pytest.mark.parametrize("text", ["a cat", "  two  spaces\n\n", "déjà 猫 🐱", "x\t12,345", ""])
def test_there_and_back(text: str) -> None:
    for tokenizer in (make(), make(digits=True)):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_rows_and_chats() -> None:
    tokenizer = make()
    ids, valid = tokenizer.batch(["cat", "a"], 3)
    assert ids.tolist()[1][1:] == [2, 2] and valid.tolist() == [[True, True, True], [True, True, False]]
    assert tokenizer.bos_id is None and make("<|im_start|>").batch(["a"], 4)[0][0, 0] == 1
    row = chat_row(Conversation("a", [("Hi", "a cat")]), template("chatml"), tokenizer)
    said = row.ids[row.mask_loss].tolist()
    assert said[-2] == 2 and tokenizer.decode(said) == "a cat\n" and row.ids[0] == 1
    assert tokenizer.decode(row.ids).count("assistant") == 2  # "a helpful assistant", and who speaks


def test_it_is_saved_and_travels(tmp_path: pathlib.Path) -> None:
    tokenizer = make("<|im_start|>", digits=True)
    tokenizer.save(tmp_path / "own")
    for other in (load_tokenizer(tmp_path / "own"), pickle.loads(pickle.dumps(tokenizer))):
        assert other.digest == tokenizer.digest and other.encode("12 cat") == tokenizer.encode("12 cat")
    assert make().digest != tokenizer.digest


def test_published_folders(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(written(TOKENS, MERGES, [0, 1, 2]))
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = open_tokenizer(f"byte_bpe:{tmp_path}")
    assert (found.bos_id, found.eos_id, found.pad_id) == (None, 2, 0)  # its rows do not begin with bos_token
    with pytest.raises(UserError, match=r"needs a folder with tokenizer\.json and tokenizer_config\.json, got 'no'"):
        open_tokenizer("byte_bpe:no")
    for change, said in (({"eos_token": None}, "names no eos_token"), ({"eos_token": "</s>"}, "has no token '</s>'")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=said):
            open_tokenizer(f"byte_bpe:{tmp_path}")
    with pytest.raises(UserError, match="is not a tokenizer"):
        ByteBPE(b"{}", "x")
    spaced = written(TOKENS, MERGES, [0]).replace(b'"add_prefix_space":false', b'"add_prefix_space":true')
    with pytest.raises(UserError, match="other steps than bytes without a space"):
        ByteBPE(spaced, "<|im_end|>")
    with pytest.raises(UserError, match="id 999 is outside the vocabulary"):
        found.decode([999])
