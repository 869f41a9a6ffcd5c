"""What every tokenizer offers, and the parts that they share: padding, and files beside a checkpoint."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32

from mmjax.core.errors import UserError

Ids = Iterable[int] | np.ndarray  # a one-dimensional integer array, or any integers

CONFIG = "tokenizer_config.json"


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def kind(self) -> str:
        """Its name in TOKENIZERS."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Begins every row of `batch`; None where the model has no such token."""
        ...

    @property
    def eos_id(self) -> int:
        """Ends every row of `batch`."""
        ...

    @property
    def pad_id(self) -> int:
        """Stands where `valid` is False. It may be a real token's id too: never compare with it."""
        ...

    @property
    def digest(self) -> str:
        """Equal digests: equal ids for every text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without begin and end tokens."""
        ...

    def decode(self, ids: Ids) -> str:
        """The text of ids, as close to the encoded one as the tokenizer's cleaning allows."""
        ...

    def batch(self, texts: Sequence[str], length: int) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """(ids, valid): begin + ids + end, cut to `length` with the end token kept, padded on the right."""
        ...

    def save(self, directory: Path) -> None:
        """Writes the files that `load_tokenizer` reads."""
        ...


def pad_rows(
    rows: Sequence[Sequence[int]], length: int, bos_id: int | None, eos_id: int, pad_id: int
) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """(ids, valid) of rows without specials: begin + row + end, cut keeping the end, padded on the right.

    Raises:
      UserError: `length` has no room for the begin and end tokens.

    Example:
      >>> pad_rows([[5, 6, 7]], 4, bos_id=1, eos_id=2, pad_id=0)[0].tolist()
      [[1, 5, 6, 2]]
    """
    begin = [] if bos_id is None else [bos_id]
    room = length - len(begin) - 1
    if room < 0:
        raise UserError(f"text length {length} has no room for the begin and end tokens; at least {len(begin) + 1}")
    ids = np.full((len(rows), length), pad_id, np.int32)
    valid = np.zeros((len(rows), length), bool)
    for number, row in enumerate(rows):
        full = [*begin, *row[:room], eos_id]
        ids[number, : len(full)] = full
        valid[number, : len(full)] = True
    return ids, valid


def checked_ids(ids: Ids, vocab_size: int) -> list[int]:
    """The ids as integers.

    Raises:
      UserError: one is outside the vocabulary.
    """
    numbers = [int(number) for number in ids]
    wrong = [number for number in numbers if not 0 <= number < vocab_size]
    if wrong:
        raise UserError(f"token id {wrong[0]} is outside the vocabulary of {vocab_size} ids")
    return numbers


def parsed_json(content: bytes, name: str) -> dict[str, Any]:
    """The object in a JSON file; `name`: the file's, for messages.

    Raises:
      UserError: it holds something else.
    """
    try:
        whole = json.loads(content)
    except ValueError as error:
        raise UserError(f"{name} is not JSON: {error}") from None
    if not isinstance(whole, dict):
        raise UserError(f"{name} is not a JSON object")
    return whole


def digest_of(kind: str, options: Mapping[str, Any], content: bytes) -> str:
    """SHA-256 over everything that decides the ids."""
    head = json.dumps([kind, dict(options)], sort_keys=True).encode()
    return hashlib.sha256(head + b"\0" + content).hexdigest()


def write(tokenizer: Tokenizer, directory: Path, files: Mapping[str, bytes], options: Mapping[str, Any]) -> None:
    """Writes a tokenizer's files and their description, `tokenizer_config.json`."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    description = {
        "kind": tokenizer.kind,
        "options": dict(options),
        "files": sorted(files),
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "digest": tokenizer.digest,
    }
    (directory / CONFIG).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
