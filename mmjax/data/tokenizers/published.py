"""A tokenizer's files as transformers and open_clip read them.

CLIP's merges become `vocab.json`, `merges.txt` and `tokenizer.json` (transformers' `CLIPTokenizer`), SigLIP's
vocabulary `spiece.model` (`SiglipTokenizer`), SigLIP 2's its `tokenizer.json` with the lower case in it, one's own
SentencePiece vocabulary `spiece.model` and, where the format of the library can say it, `tokenizer.json` (both:
`PreTrainedTokenizerFast`, which takes the file as it is).
"""

import json
from pathlib import Path
from typing import Any

import regex

from mmjax.core.errors import UserError
from mmjax.data.tokenizers import gemma, wordpiece
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.tokenizers.clip_bpe import END_OF_WORD, ClipBPE
from mmjax.data.tokenizers.sentence_piece import SentencePiece
from mmjax.data.tokenizers.siglip import SigLIP
from mmjax.data.tokenizers.tokenizer_json import TokenizerJson
from mmjax.data.tokenizers.wordpiece import WordPiece

SPIECE = "spiece.model"
LLAMA_SPIECE = "tokenizer.model"  # of decoders
_SPACE = "▁"


def publish(
    tokenizer: Tokenizer,
    directory: Path,
    length: int,
    *,
    end: tuple[str, int] | None = None,
    decoder: bool = False,
    image_id: int | None = None,
) -> str:
    """Writes the files; returns a line that says what other libraries can and cannot do with them.

    Args:
      tokenizer: one of mmjax's.
      directory: the folder of the exported checkpoint.
      length: tokens of a text.
      end: spelling and id of an end token beyond a SentencePiece vocabulary, instead of its own.
      decoder: whether what it tokenizes is gone on with: no end token is put behind it, and a SentencePiece vocabulary
        is named as LLaMA's.
      image_id: of a decoder: the id beyond the vocabulary that holds the place of a picture, `<image>`.

    Raises:
      UserError: an end token beyond another vocabulary.
    """
    if isinstance(tokenizer, ClipBPE):
        _clip(tokenizer, directory, length)
        return "transformers' CLIPTokenizer gives the same ids, but for texts that ftfy repairs or with HTML entities"
    if isinstance(tokenizer, gemma.Gemma):
        if end is not None:
            raise UserError(
                f"transformers reads the end token {tokenizer.eos_id} as another id: gemma's has to be another"
            )
        return _gemma(tokenizer, directory, length)
    if isinstance(tokenizer, TokenizerJson):
        content = json.loads(tokenizer.content)
        content["added_tokens"] = [*(content.get("added_tokens") or ()), *_image(tokenizer.vocab_size, image_id)]
        _write(directory, gemma.FILE, content)
        tokens = {f"{name}_token": token for name, token in tokenizer.names.items() if token is not None}
        _describe(directory, "PreTrainedTokenizerFast", length, tokens)
        return "transformers' AutoTokenizer gives the same ids, but for texts that spell a special token"
    if isinstance(tokenizer, WordPiece):
        return _word_piece(tokenizer, directory, length)
    assert isinstance(tokenizer, SentencePiece)
    spiece = LLAMA_SPIECE if decoder else SPIECE
    (directory / spiece).write_bytes(tokenizer.model)
    if isinstance(tokenizer, SigLIP):
        _siglip(tokenizer, directory, length)
        return "transformers' SiglipTokenizer gives the same ids, but for underscores, which it drops"
    return _sentence_piece(tokenizer, directory, length, end, spiece, image_id)


def _write(directory: Path, name: str, content: Any) -> None:
    (directory / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _describe(directory: Path, kind: str, length: int, tokens: dict[str, str], **options: Any) -> None:
    _write(directory, "special_tokens_map.json", tokens)
    _write(directory, "tokenizer_config.json",
           {"tokenizer_class": kind, "model_max_length": length, **tokens, **options})  # fmt: skip


def _added(number: int, token: str) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": token, **plain}


def _image(vocab_size: int, image_id: int | None) -> list[dict[str, Any]]:
    """The token for pictures behind a vocabulary; ids have no gaps, so that those between get names."""
    if image_id is None:
        return []
    between = [_added(number, f"<unused_{number}>") for number in range(vocab_size, image_id)]
    return [*between, _added(image_id, "<image>")]


def _rows(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> dict[str, Any]:
    """Begin (if there is one), text, end (if there is one)."""
    begin, end = ([] if one is None else [{"SpecialToken": {"id": one[0], "type_id": 0}}] for one in (bos, eos))
    single = [*begin, {"Sequence": {"id": "A", "type_id": 0}}, *end]
    second = [{"Sequence": {"id": "B", "type_id": 0}}, *end]
    both = [one for one in (bos, eos) if one is not None]
    special = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in both}
    return {"type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": special}


def _clip(tokenizer: ClipBPE, directory: Path, length: int) -> None:
    vocab = {token: number for number, token in enumerate(tokenizer.tokens)}
    merges, (bos, eos) = [f"{a} {b}" for a, b in tokenizer.merges], tokenizer.specials
    _write(directory, "vocab.json", vocab)
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    words = "|".join(regex.escape(token) for token in (bos, eos))
    split = rf"{words}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(tokenizer.bos_id, bos), _added(tokenizer.eos_id, eos)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Removed", "invert": True},
                level,
            ],
        },
        "post_processor": _rows((bos, tokenizer.bos_id), (eos, tokenizer.eos_id)),
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": eos,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": END_OF_WORD,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    _write(directory, "tokenizer.json", content)
    # Padding follows the end, where no causal model looks: the end token again, as in the published checkpoints.
    tokens = {"bos_token": bos, "eos_token": eos, "unk_token": eos, "pad_token": eos}
    _describe(directory, "CLIPTokenizer", length, tokens, do_lower_case=True)


def _siglip(tokenizer: SigLIP, directory: Path, length: int) -> None:
    pieces = tokenizer.pieces()
    eos, unk = pieces[tokenizer.eos_id][0], pieces[tokenizer.unk_id][0]
    tokens = {"eos_token": eos, "unk_token": unk, "pad_token": eos}
    _describe(directory, "SiglipTokenizer", length, tokens, do_lower_case=True, sp_model_kwargs={},
              padding_side="right", model_input_names=["input_ids"])  # fmt: skip


def _gemma(tokenizer: gemma.Gemma, directory: Path, length: int) -> str:
    (directory / gemma.FILE).write_bytes(tokenizer.content)
    named = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    tokens = {name: tokenizer.token(number) for name, number in named.items() if number is not None}
    # The model is to see the padding, so that no mask may go with the ids; the class's own name would drop lower case.
    _describe(directory, "PreTrainedTokenizerFast", length, tokens, do_lower_case=tokenizer.clean != "none",
              padding_side="right", model_input_names=["input_ids"])  # fmt: skip
    return (
        "transformers' AutoTokenizer gives the same ids, but for texts that spell a special token; open_clip's too, "
        "but it repairs texts and takes extra spaces out of them first"
    )


def _word_piece(tokenizer: WordPiece, directory: Path, length: int) -> str:
    (directory / wordpiece.VOCAB).write_text("".join(f"{token}\n" for token in tokenizer.tokens), encoding="utf-8")
    tokens = {"unk_token": wordpiece.UNK, "sep_token": wordpiece.SEP, "pad_token": wordpiece.PAD}
    tokens |= {"cls_token": wordpiece.CLS, "mask_token": wordpiece.MASK}
    behind = [token for token in tokenizer.added if token not in tokenizer.tokens]
    more = {"additional_special_tokens": behind} if behind else {}
    _describe(directory, "BertTokenizer", length, tokens, do_lower_case=tokenizer.lower, **more)
    return "transformers' BertTokenizer gives the same ids, but for texts that spell specials; it cleans no captions"


def _sentence_piece(
    tokenizer: SentencePiece,
    directory: Path,
    length: int,
    end: tuple[str, int] | None,
    spiece: str,
    image_id: int | None,
) -> str:
    """`tokenizer.json` of a unigram vocabulary whose texts are taken as they are."""
    trainer, normalizer = (_message(tokenizer.model, field) for field in (2, 3))
    if trainer.get(3, 1) != 1 or normalizer.get(2) or normalizer.get(4, 1):
        return f"{spiece} is written alone: tokenizer.json cannot say this model type or normalization"
    pieces = tokenizer.pieces()
    bos = None if tokenizer.bos_id is None else (pieces[tokenizer.bos_id][0], tokenizer.bos_id)
    eos, unk = end or (pieces[tokenizer.eos_id][0], tokenizer.eos_id), pieces[tokenizer.unk_id][0]
    added = [_added(number, piece) for number, (piece, _, control) in enumerate(pieces) if control]
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    back = [{"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}, {"type": "ByteFallback"}]
    back += [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [*added, *([_added(end[1], end[0])] if end else []), *_image(tokenizer.vocab_size, image_id)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, *steps]},
        "pre_tokenizer": None,
        "post_processor": _rows(bos, None if spiece == LLAMA_SPIECE else eos),
        "decoder": {"type": "Sequence", "decoders": back},
        "model": {
            "type": "Unigram",
            "unk_id": tokenizer.unk_id,
            "vocab": [[piece, score] for piece, score, _ in pieces],
            "byte_fallback": any(piece == "<0x00>" for piece, _, _ in pieces),
        },
    }
    _write(directory, "tokenizer.json", content)
    pad = pieces[tokenizer.pad_id][0]
    tokens = {"eos_token": eos[0], "unk_token": unk, "pad_token": pad, **({"bos_token": bos[0]} if bos else {})}
    _describe(directory, "PreTrainedTokenizerFast", length, tokens)
    return "transformers' AutoTokenizer gives the same ids, but for texts that spell a special token"


def _message(data: bytes, field: int) -> dict[int, Any]:
    """The fields of the message that is `field` of a serialised one: numbers, or bytes.

    SentencePiece's Python interface does not tell the model type and the normalization; its file does, in the format of
    protocol buffers (fields 2, trainer: 3 model type; 3, normalizer: 2 rules, 4 whether extra spaces go).
    """
    return _fields(next((value for number, value in _each(data) if number == field), b""))


def _fields(data: bytes) -> dict[int, Any]:
    return dict(_each(data))


def _each(data: bytes):
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            yield number, varint()
        else:
            size = {1: 8, 5: 4}.get(kind) or varint()
            yield number, data[at : at + size]
            at += size
