"""The vocabulary in a GGUF file as the file that it was made from: a SentencePiece model, or a `tokenizer.json`.

llama.cpp calls SentencePiece's pairs, merged by their scores, "llama" (LLaMA 1 and 2, Vicuna, Mistral 7B, Yi in part),
and byte pairs "gpt2" (Llama 3, SmolLM, Qwen), whose file names the way in which a text is cut into words. Sources:
llama.cpp `convert_hf_to_gguf.py` (_set_vocab_sentencepiece, _set_vocab_gpt2, get_vocab_base_pre); SentencePiece
`sentencepiece_model.proto`; the published `tokenizer.json` of these models.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

_KEY = "tokenizer.ggml."
_UNKNOWN, _BYTE = 2, 6  # types of pieces, the same in both
_BPE = 2  # of SentencePiece's models
_MARKS = {"unknown": (40, 45), "bos": (41, 46), "eos": (42, 47), "padding": (43, 48)}  # fields: id, piece


_CONTROL, _USER = 3, 4  # types of tokens that texts do not spell, and that are cut out of texts whole
_LLAMA_3 = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)


def _bytes(words: bool) -> dict[str, Any]:
    """Characters as bytes; `words`: GPT-2's way to cut a text."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words}


def _cut(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, _bytes(words=False)]


# llama.cpp's name for how a text is cut -> the steps of `tokenizer.json`
CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_bytes(words=True)],
    "smollm": [{"type": "Digits", "individual_digits": True}, _bytes(words=True)],
    "llama-bpe": _cut(_LLAMA_3),
    "qwen2": _cut(_LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")),
}


def kind_of(facts: Mapping[str, Any]) -> str:
    """ "llama" (SentencePiece), "gpt2" (byte pairs), another kind, or "" where the file has no vocabulary."""
    return str(facts.get(f"{_KEY}model", ""))


def why_not(facts: Mapping[str, Any]) -> str:
    """Why neither `sentence_piece` nor `tokenizer_json` can make the vocabulary, in words; "" where one can."""
    kind, cut = kind_of(facts), facts.get(f"{_KEY}pre")
    if kind not in ("llama", "gpt2"):
        return f"it is of the kind {kind!r}, and readable are 'llama' and 'gpt2'" if kind else "the file has none"
    names = ("tokens", "token_type", "scores" if kind == "llama" else "merges")
    lists = [facts.get(f"{_KEY}{name}") for name in names]
    same = lists if kind == "llama" else lists[:2]
    if not all(isinstance(each, list) and each for each in lists) or len({len(each or ()) for each in same}) != 1:
        return f"{', '.join(names[:-1])} and {names[-1]} are not lists, those for each token of one length"
    if kind == "gpt2" and cut not in CUTS:
        return f"it cuts texts in the way {cut!r}, and known are {', '.join(CUTS)}"
    if kind == "llama" and lists[1].count(_UNKNOWN) != 1:  # type: ignore[union-attr]
        return f"it has {lists[1].count(_UNKNOWN)} unknown tokens, not one"  # type: ignore[union-attr]
    eos = facts.get(f"{_KEY}eos_token_id")
    if not isinstance(eos, int) or not 0 <= eos < len(lists[0] or ()):
        return f"its end token has the id {eos!r}"
    return ""


def tokenizer_json(facts: Mapping[str, Any]) -> tuple[bytes, dict[str, str | None]]:
    """(content of a `tokenizer.json`, spellings of `eos`, `bos` and `pad`), where `why_not` finds nothing.

    A token that begins texts is named only if the file says that texts begin with it.
    """
    tokens, kinds, merges = (facts[f"{_KEY}{name}"] for name in ("tokens", "token_type", "merges"))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": number, "content": token, **plain, "special": kind == _CONTROL}
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER)
    ]
    cut = facts[f"{_KEY}pre"]
    model = {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges,
             "ignore_merges": cut == "llama-bpe"}  # fmt: skip
    whole = {"version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None,
             "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[cut]}, "decoder": _bytes(words=True),
             "model": model}  # fmt: skip
    marks = {"eos": "eos", "bos": "bos", "pad": "padding"}
    ids = {name: facts.get(f"{_KEY}{theirs}_token_id") for name, theirs in marks.items()}
    if not facts.get(f"{_KEY}add_bos_token", cut == "llama-bpe"):  # as llama.cpp takes it where nothing is said
        ids["bos"] = None
    known = range(len(tokens))
    names = {name: tokens[number] if number in known else None for name, number in ids.items()}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode("utf-8"), names


def sentence_piece(facts: Mapping[str, Any]) -> bytes:
    """The content of a SentencePiece `.model` file, where `why_not` finds nothing.

    Text is taken as it is, with a space put before it unless the file says otherwise.
    """
    tokens, scores, kinds = (facts[f"{_KEY}{name}"] for name in ("tokens", "scores", "token_type"))
    pieces = b"".join(
        _message(1, _text(1, token) + _tag(2, 5) + struct.pack("<f", score) + _number(3, kind))
        for token, score, kind in zip(tokens, scores, kinds, strict=True)
    )
    trainer = _number(3, _BPE) + _number(4, len(tokens)) + _number(35, int(_BYTE in kinds))
    marks = {name: facts.get(f"{_KEY}{name}_token_id") for name in _MARKS}
    marks["unknown"] = kinds.index(_UNKNOWN)
    for name, (number, piece) in _MARKS.items():
        at = marks[name]
        if isinstance(at, int) and 0 <= at < len(tokens):
            trainer += _number(number, at) + _text(piece, tokens[at])
        else:
            trainer += _number(number, -1)
    prefix = bool(facts.get(f"{_KEY}add_space_prefix", True))
    extra = bool(facts.get(f"{_KEY}remove_extra_whitespaces", False))
    normalizer = _text(1, "identity") + _number(3, int(prefix)) + _number(4, int(extra)) + _number(5, 1)
    return pieces + _message(2, trainer) + _message(3, normalizer)


# ---------------------------------------------------------------- protocol buffers


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers, as the format has them
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _tag(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _number(field: int, value: int) -> bytes:
    return _tag(field, 0) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(content)) + content


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode("utf-8", "surrogateescape"))
