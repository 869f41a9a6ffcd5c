"""GPT-2's tokenizer in the files of later models (SmolLM2, Llama 3, Qwen): byte pairs that keep every character."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32

from mmjax.core.errors import UserError
from mmjax.data.tokenizers import base

FILE = "tokenizer.json"


class ByteBPE:
    """Byte pairs of a `tokenizer.json`, with the interface of `base.Tokenizer` and what chats need.

    A space belongs to the word behind it, and nothing is put before a text, so that a text is cut alike wherever it
    stands. Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, §2.2.

    Attributes:
      bos_id, eos_id, pad_id: of the tokens that are called so; without a `begin`, rows begin with their first word.
    """

    kind = "byte_bpe"

    def __init__(self, content: bytes, end: str, begin: str | None = None, pad: str | None = None) -> None:
        """Takes the content of the file, and which special tokens end and begin a row and fill it up (default `end`).

        Raises:
          UserError: the file is no tokenizer of byte pairs, or has no such tokens.
        """
        try:
            whole = json.loads(content)
            kind, steps = whole["model"]["type"], json.dumps([whole.get("pre_tokenizer"), whole.get("normalizer")])
            self._backend = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{FILE} is not a tokenizer: {error}") from None
        if kind != "BPE" or '"ByteLevel"' not in steps or '"add_prefix_space": true' in steps:
            raise UserError(f"{FILE} is of the kind {kind} with other steps than bytes without a space in front")
        self._backend.encode_special_tokens = True  # spellings of special tokens in a text are text
        self._content = content
        self._options = {"end": end, "begin": begin, "pad": pad}
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        self.bos_id: int | None = None if begin is None else self.special(begin)
        self.eos_id: int = self.special(end)
        self.pad_id: int = self.special(pad or end)
        self.digest = base.digest_of(self.kind, self._options, content)

    def __reduce__(self) -> tuple:
        return type(self), (self._content, *(self._options[key] for key in ("end", "begin", "pad")))

    def special(self, token: str) -> int:
        """The id of a token by its spelling, such as "<|im_end|>".

        Raises:
          UserError: there is none.
        """
        number = self._backend.token_to_id(token)
        if number is None:
            raise UserError(f"{FILE} has no token {token!r} among its {self._backend.get_vocab_size()}")
        return number

    def encode(self, text: str) -> list[int]:
        """Ids of a text without begin and end; spellings of special tokens in it are plain text."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that continues another one: the same, for nothing is put before a text."""
        return self.encode(text)

    def decode(self, ids: base.Ids) -> str:
        """Text of ids; special tokens vanish, bytes that are no UTF-8 are U+FFFD.

        Raises:
          UserError: an id outside the vocabulary.
        """
        numbers = [int(number) for number in ids]
        wrong = [number for number in numbers if not 0 <= number < self.vocab_size]
        if wrong:
            raise UserError(f"token id {wrong[0]} is outside the vocabulary of {self.vocab_size} ids")
        return self._backend.decode(numbers, skip_special_tokens=True)

    def batch(self, texts: Sequence[str], length: int) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """(ids, valid) as in `base.Tokenizer.batch`."""
        return base.pad_rows([self.encode(text) for text in texts], length, self.bos_id, self.eos_id, self.pad_id)

    def save(self, directory: Path) -> None:
        """Writes the file and the description."""
        base.write(self, directory, {FILE: self._content}, self._options)

    @classmethod
    def load(cls, directory: Path, options: dict[str, Any]) -> "ByteBPE":
        """Reads what `save` wrote."""
        return cls((Path(directory) / FILE).read_bytes(), **options)

    @classmethod
    def open(cls, arg: str | None) -> "ByteBPE":
        """From a spec: `byte_bpe:FOLDER`, a published folder with `tokenizer.json` and `tokenizer_config.json`.

        Rows begin with the `bos_token` if the file's own rows do.

        Raises:
          UserError: no such folder, or files of another form.
        """
        folder = Path(arg or "")
        if not arg or not all((folder / name).is_file() for name in (FILE, base.CONFIG)):
            raise UserError(f"tokenizer {cls.kind}:FOLDER needs a folder with {FILE} and {base.CONFIG}, got {arg!r}")
        try:
            content, config = (folder / FILE).read_bytes(), json.loads((folder / base.CONFIG).read_text("utf-8"))
            end, begin, pad = (_spelled(config.get(f"{name}_token")) for name in ("eos", "bos", "pad"))
            rows = json.dumps(json.loads(content).get("post_processor"))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{folder}: {FILE} or {base.CONFIG} is damaged: {error}") from None
        if end is None:
            raise UserError(f"{folder}: {base.CONFIG} names no eos_token")
        try:
            return cls(content, end, begin if begin is not None and json.dumps(begin) in rows else None, pad)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None


def _spelled(token: Any) -> str | None:
    return token["content"] if isinstance(token, Mapping) else token


def written(
    tokens: Sequence[str], merges: Sequence[str], specials: Sequence[int], *, digits: bool = False
) -> bytes:  # fmt: skip
    """The content of a `tokenizer.json` with these tokens.

    Args:
      tokens: by id, bytes as `clip_bpe.byte_symbols` writes them.
      merges: "a b", in the order in which pairs are merged.
      specials: ids of the special tokens.
      digits: whether every digit is a word of its own (SmolLM2).
    """
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    before = [{"type": "Digits", "individual_digits": True}] if digits else []
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    whole = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": tokens[number], **plain} for number in specials],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, words]},
        "post_processor": None,
        "decoder": words,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": list(merges),
        },
    }
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
