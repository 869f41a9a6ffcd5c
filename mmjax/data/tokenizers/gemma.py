"""SigLIP 2's tokenizer: Gemma's byte pairs (a space is ▁, rare characters are bytes) on lower-case texts."""

import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32

from mmjax.core.errors import UserError
from mmjax.data.tokenizers import base

FILE = "tokenizer.json"
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_LOWER = {"type": "Lowercase"}
# As steps of the library's normalizer, so that an exported file holds them: what is done with a text first.
CLEAN: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "lower": [_LOWER],
    "canonical": [  # `siglip.canonical`
        {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
        {"type": "Replace", "pattern": {"Regex": f"[{re.escape(string.punctuation)}]"}, "content": ""},
        _LOWER,
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
}
_DECODER = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_MODEL = {"type": "BPE", "byte_fallback": True, "dropout": None, "ignore_merges": None,
          "continuing_subword_prefix": None, "end_of_word_suffix": None}  # fmt: skip
_CLASSES = ("GemmaTokenizer", "Siglip2Tokenizer")
_ANY_CLASS = (None, "PreTrainedTokenizer", "TokenizersBackend")  # which say nothing of the form


class Gemma:
    """Byte pairs of a `tokenizer.json` of Gemma's form, with the interface of `base.Tokenizer`.

    The file says which tokens begin and end a row: SigLIP 2's has none at the beginning. Texts are lower case, as in
    SigLIP 2's training (Tschannen et al. 2025; `lower` in the preprocessing of big_vision's demonstration), and rows
    are padded with a token of its own, 0.
    """

    kind = "gemma"

    def __init__(self, content: bytes, pad: str = "<pad>") -> None:
        """Takes the content of the file, and which token is the padding.

        Raises:
          UserError: it is none, or of another form.
        """
        whole = base.parsed_json(content, FILE)
        begin, end = _ends(whole)
        self.clean = _clean_of(whole)
        try:
            self._backend = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{FILE} is not a tokenizer: {error}") from None
        self._backend.encode_special_tokens = True  # spellings of special tokens in a text are text
        self._content, self._pad = content, pad
        ids = self._backend.get_vocab()
        missing = [token for token in (begin, end, pad) if token is not None and token not in ids]
        if missing:
            raise UserError(f"{FILE}: the special tokens {', '.join(missing)} are not in the vocabulary")
        self.vocab_size: int = max(ids.values()) + 1
        self.bos_id: int | None = None if begin is None else ids[begin]
        self.eos_id: int = ids[end]
        self.pad_id: int = ids[pad]
        self.digest = base.digest_of(self.kind, {"pad": pad}, content)

    @property
    def content(self) -> bytes:
        """The content of the file."""
        return self._content

    def token(self, number: int) -> str:
        """How a token is spelled.

        Raises:
          UserError: an id outside the vocabulary.
        """
        found = self._backend.id_to_token(number)
        if found is None:
            raise UserError(f"token id {number} is outside the vocabulary of {self.vocab_size} ids")
        return found

    def __reduce__(self) -> tuple:
        return type(self), (self._content, self._pad)

    def encode(self, text: str) -> list[int]:
        """Ids of a text without begin and end; spellings of special tokens in it are plain text."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: base.Ids) -> str:
        """Text of ids; special tokens vanish.

        Raises:
          UserError: an id outside the vocabulary.
        """
        return self._backend.decode(base.checked_ids(ids, self.vocab_size), skip_special_tokens=True)

    def batch(self, texts: Sequence[str], length: int = 64) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """(ids, valid) as in `base.Tokenizer.batch`; SigLIP 2's own length is 64."""
        return base.pad_rows([self.encode(text) for text in texts], length, self.bos_id, self.eos_id, self.pad_id)

    def save(self, directory: Path) -> None:
        """Writes the file and the description."""
        base.write(self, directory, {FILE: self._content}, {"pad": self._pad})

    @classmethod
    def load(cls, directory: Path, options: dict[str, Any]) -> "Gemma":
        """Reads what `save` wrote."""
        return cls((Path(directory) / FILE).read_bytes(), **options)

    @classmethod
    def open(cls, arg: str | None) -> "Gemma":
        """From a spec: `gemma:FOLDER`, which holds a published `tokenizer.json`.

        Raises:
          UserError: no such folder, or a file of another form.
        """
        if not arg or not (Path(arg) / FILE).is_file():
            raise UserError(f"tokenizer {cls.kind}:FOLDER needs a folder that holds {FILE}, got {arg!r}")
        return cls.read(Path(arg))

    @classmethod
    def read(cls, folder: Path, *, unsaid: str = "lower", asked: str = "none") -> "Gemma":
        """From a published folder: `tokenizer.json`, and `tokenizer_config.json` beside it.

        Args:
          folder: of a checkpoint.
          unsaid: the member of CLEAN that holds if the folder's files do not say it with `do_lower_case`.
          asked: a member of CLEAN that something else asks for; the strictest one of all wins.

        Raises:
          UserError: files of another form, or that contradict each other.
        """
        try:
            whole, config = base.parsed_json((folder / FILE).read_bytes(), FILE), _config(folder)
            lower = config.get("do_lower_case")
            said = unsaid if lower is None else "lower" if lower else "none"
            clean = max(_clean_of(whole), said, asked, key=list(CLEAN).index)
            for key, token in zip(("add_bos_token", "add_eos_token"), _ends(whole), strict=True):
                if config.get(key, token is not None) != (token is not None):
                    raise UserError(f"{key} = {config[key]}, but the rows of {FILE} say otherwise (post_processor)")
            steps = [*CLEAN[clean], _SPACES]
            whole["normalizer"] = {"type": "Sequence", "normalizers": steps} if len(steps) > 1 else _SPACES
            whole["decoder"] = {"type": "Sequence", "decoders": _DECODER}
            whole |= {"pre_tokenizer": None, "padding": None, "truncation": None}  # `batch` does these
            pad = config.get("pad_token") or "<pad>"
            content = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
            return cls(content, pad=pad if isinstance(pad, str) else pad["content"])
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None


def is_published(folder: Path) -> bool:
    """Whether a published folder's tokenizer is of this kind: it says so, or its file is of this form."""
    if not (folder / FILE).is_file():
        return False
    named = _config(folder).get("tokenizer_class")
    name = named.removesuffix("Fast") if named else None
    if name in _ANY_CLASS:
        model = base.parsed_json((folder / FILE).read_bytes(), FILE).get("model") or {}
        return model.get("type") == "BPE" and bool(model.get("byte_fallback"))
    return name in _CLASSES


def padding_side(config: Mapping[str, Any]) -> str:
    """Of a `tokenizer_config.json`; the library's classes for Gemma pad on the left unless told."""
    left = (config.get("tokenizer_class") or "").removesuffix("Fast") in _CLASSES
    return config.get("padding_side", "left" if left else "right")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / base.CONFIG
    return base.parsed_json(path.read_bytes(), path.name) if path.is_file() else {}


def _clean_of(whole: Mapping[str, Any]) -> str:
    """The member of CLEAN that a file's normalizer is, if the file is of Gemma's form.

    Raises:
      UserError: it is of another one; the message says in what.
    """
    model = whole.get("model") or {}
    given = {key: model.get(key) or None for key in _MODEL}  # an empty affix is none
    wrong = [f"model.{key} = {given[key]!r}" for key, value in _MODEL.items() if given[key] != value]
    before = whole.get("pre_tokenizer")
    if before is not None and (before.get("type"), before.get("pattern")) != ("Split", {"String": " "}):
        wrong.append(f"pre_tokenizer = {before.get('type')}")  # splitting at spaces does nothing: there are none
    steps = _steps(whole.get("normalizer"))
    for clean, first in CLEAN.items():
        if not wrong and steps == [*first, _SPACES]:
            return clean
    wrong += [] if wrong else [f"normalizer = {', '.join(step.get('type', '?') for step in steps) or None}"]
    raise UserError(
        f"{FILE} is not of Gemma's form (BPE with byte_fallback; spaces become ▁, after lower case or not): "
        + ", ".join(wrong)
    )


def _steps(normalizer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if normalizer is None:
        return []
    if normalizer.get("type") == "Sequence":
        return [step for part in normalizer["normalizers"] for step in _steps(part)]
    return [dict(normalizer)]


def _ends(whole: Mapping[str, Any]) -> tuple[str | None, str]:
    """The tokens that begin and end a row."""
    post = whole.get("post_processor") or {}
    row = post.get("single") if post.get("type") == "TemplateProcessing" else None
    names = [part["SpecialToken"]["id"] if "SpecialToken" in part else None for part in row or ()]
    begin, *rest = names if len(names) == 3 else [None, *names]
    if len(rest) == 2 and rest[0] is None and rest[1] is not None and (len(names) == 2 or begin is not None):
        return begin, rest[1]
    raise UserError(
        f"{FILE}: post_processor has to end texts with a token (SigLIP 2: <eos>), and may begin them with one"
    )
