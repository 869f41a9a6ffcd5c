"""The vocabulary in a GGUF file as the SentencePiece model that it was made from.

Only the kind that llama.cpp calls "llama": SentencePiece's pairs merged by their scores, with bytes for what no piece
covers (LLaMA 1 and 2, Vicuna, Mistral 7B, Yi in part). The merges of Llama 3 and others ("gpt2") are not read. Sources:
llama.cpp `convert_hf_to_gguf.py` (_set_vocab_sentencepiece); SentencePiece `sentencepiece_model.proto`.
"""

import struct
from collections.abc import Mapping
from typing import Any

_KEY = "tokenizer.ggml."
_UNKNOWN, _BYTE = 2, 6  # types of pieces, the same in both
_BPE = 2  # of SentencePiece's models
_MARKS = {"unknown": (40, 45), "bos": (41, 46), "eos": (42, 47), "padding": (43, 48)}  # fields: id, piece


def why_not(facts: Mapping[str, Any]) -> str:
    """Why `sentence_piece` cannot make the vocabulary, in words; "" where it can."""
    kind = facts.get(f"{_KEY}model")
    if kind != "llama":
        return f"it is of the kind {kind!r}, and readable is 'llama'" if kind else "the file has none"
    lists = [facts.get(f"{_KEY}{name}") for name in ("tokens", "scores", "token_type")]
    if not all(isinstance(each, list) and each for each in lists) or len({len(each or ()) for each in lists}) != 1:
        return "tokens, scores and token_type are not three lists of one length"
    if lists[2].count(_UNKNOWN) != 1:  # type: ignore[union-attr]
        return f"it has {lists[2].count(_UNKNOWN)} unknown tokens, not one"  # type: ignore[union-attr]
    eos = facts.get(f"{_KEY}eos_token_id")
    if not isinstance(eos, int) or not 0 <= eos < len(lists[0] or ()):
        return f"its end token has the id {eos!r}"
    return ""


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
