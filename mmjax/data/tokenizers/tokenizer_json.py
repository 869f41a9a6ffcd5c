"""Any published `tokenizer.json`: the vocabulary of LLaMA 3, Mistral, Qwen, SmolLM and others, as it is.

The file holds everything that decides the ids: normalisation, how a text is cut into words, merges or scores, and what
begins and ends a row. The library `tokenizers`, which writes such files, reads them.
"""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32

from mmjax.core.errors import UserError
from mmjax.data.tokenizers import base

FILE, MAP = "tokenizer.json", "special_tokens_map.json"
NAMES = ("bos", "eos", "pad")


class TokenizerJson:
    """The vocabulary of a `tokenizer.json`, with the interfaces of `base.Tokenizer` and of chats.

    Rows of `batch` begin with `bos_id`, if there is one, and end with `eos_id`. Spellings of special tokens in a text
    are text; `special` has their ids.
    """

    kind = "tokenizer_json"

    def __init__(self, content: bytes, *, eos: str, bos: str | None = None, pad: str | None = None) -> None:
        """Takes the content of the file, and how special tokens are spelled.

        Args:
          content: of the file.
          eos: ends a row.
          bos: begins a row; None: nothing does.
          pad: fills a row; None: `eos`.

        Raises:
          UserError: it is no such file, or a token is not in its vocabulary.
        """
        whole = base.parsed_json(content, FILE)
        whole |= {"padding": None, "truncation": None}  # `batch` does these
        self._backend, self._more = _backend(whole), _backend(_unprefixed(whole))
        self._content, self._names = content, {"bos": bos, "eos": eos, "pad": pad}
        ids = self._backend.get_vocab()
        missing = [
            f"{token!r} ({name})" for name, token in self._names.items() if token is not None and token not in ids
        ]
        if missing:
            raise UserError(f"{FILE}: the special tokens {', '.join(missing)} are not in the vocabulary")
        self._ids = ids
        self.vocab_size: int = max(ids.values()) + 1
        self.bos_id: int | None = None if bos is None else ids[bos]
        self.eos_id: int = ids[eos]
        self.pad_id: int = ids[eos if pad is None else pad]
        self.digest = base.digest_of(self.kind, self._names, content)

    @property
    def content(self) -> bytes:
        """The content of the file."""
        return self._content

    @property
    def names(self) -> dict[str, str | None]:
        """How the special tokens are spelled: `bos`, `eos`, `pad`."""
        return dict(self._names)

    def __reduce__(self) -> tuple[Callable[..., "TokenizerJson"], tuple[bytes, dict[str, Any]]]:
        return _made, (self._content, self._names)

    def encode(self, text: str) -> list[int]:
        """Ids of a text without begin and end; spellings of special tokens in it are plain text."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that continues another one: without the blank that some vocabularies put before a text."""
        return self._more.encode(text, add_special_tokens=False).ids

    def special(self, token: str) -> int:
        """The id of a token by its spelling, such as "<|im_end|>".

        Raises:
          UserError: there is none.
        """
        if token not in self._ids:
            raise UserError(f"the {FILE} of {self.vocab_size} ids has no token {token!r}")
        return self._ids[token]

    def decode(self, ids: base.Ids) -> str:
        """Text of ids; special tokens vanish.

        Raises:
          UserError: an id outside the vocabulary.
        """
        return self._backend.decode(base.checked_ids(ids, self.vocab_size), skip_special_tokens=True)

    def batch(self, texts: Sequence[str], length: int) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """(ids, valid) as in `base.Tokenizer.batch`."""
        return base.pad_rows([self.encode(text) for text in texts], length, self.bos_id, self.eos_id, self.pad_id)

    def save(self, directory: Path) -> None:
        """Writes the file and the description."""
        base.write(self, directory, {FILE: self._content}, self._names)

    @classmethod
    def load(cls, directory: Path, options: dict[str, Any]) -> "TokenizerJson":
        """Reads what `save` wrote."""
        return cls((Path(directory) / FILE).read_bytes(), **options)

    @classmethod
    def open(cls, arg: str | None) -> "TokenizerJson":
        """From a spec: `tokenizer_json:FOLDER`, which holds a published `tokenizer.json`.

        Raises:
          UserError: no such folder, or a file that is none.
        """
        if not arg or not (Path(arg) / FILE).is_file():
            raise UserError(f"tokenizer {cls.kind}:FOLDER needs a folder that holds {FILE}, got {arg!r}")
        return cls.read(Path(arg))

    @classmethod
    def read(cls, folder: Path, end_id: int | None = None) -> "TokenizerJson":
        """From a published folder: `tokenizer.json`, and what the files beside it say of special tokens.

        Args:
          folder: of a checkpoint.
          end_id: the id that ends a text, for a folder whose files do not say it.

        Raises:
          UserError: a file of another form, or nothing says what ends a text.
        """
        content, said = (folder / FILE).read_bytes(), _special_tokens(folder)
        try:
            backend = _backend(base.parsed_json(content, FILE))
            named = said["eos"] or (None if end_id is None else backend.id_to_token(end_id))
            if named is None:
                raise UserError(f"neither {base.CONFIG} nor {MAP} names the eos_token, which ends a text")
            begin = said["bos"]
            if begin is not None:  # a token may have a name without standing in a row
                first = backend.encode("", add_special_tokens=True).tokens[:1]
                begin = begin if said["add_bos"] or (said["add_bos"] is None and first == [begin]) else None
            return cls(content, eos=named, bos=begin, pad=said["pad"])
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None


def _made(content: bytes, names: dict[str, Any]) -> TokenizerJson:
    return TokenizerJson(content, **names)


def _backend(whole: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        made = tokenizers.Tokenizer.from_str(json.dumps(whole))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{FILE} is not a tokenizer: {error}") from None
    made.encode_special_tokens = True  # spellings of special tokens in a text are text
    return made


def _unprefixed(whole: dict[str, Any]) -> dict[str, Any]:
    """The same without a blank before a text, in the three ways in which files ask for one."""
    changed = copy.deepcopy(whole)

    def steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
        return [] if part is None else part[inner] if part.get("type") == "Sequence" else [part]

    kept = [step for step in steps(changed.get("normalizer"), "normalizers") if step.get("type") != "Prepend"]
    changed["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    for step in steps(changed.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
            step.pop("add_prefix_space", None)
        elif step.get("type") == "ByteLevel":
            step["add_prefix_space"] = False
    return changed


def _special_tokens(folder: Path) -> dict[str, Any]:
    """What the files beside `tokenizer.json` say: spellings of `bos`, `eos` and `pad`, and `add_bos`."""
    said: dict[str, Any] = {}
    for name in (MAP, base.CONFIG):  # the latter is read by newer versions, and holds
        path = folder / name
        said |= base.parsed_json(path.read_bytes(), name) if path.is_file() else {}
    spelled = {name: said.get(f"{name}_token") for name in NAMES}
    tokens = {name: token["content"] if isinstance(token, dict) else token for name, token in spelled.items()}
    return {**tokens, "add_bos": said.get("add_bos_token")}
