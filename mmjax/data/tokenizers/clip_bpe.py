"""CLIP's tokenizer: lower-cased byte-level BPE with 49,408 ids (Radford et al. 2021, §2.4)."""

import gzip
import html
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import regex
from jaxtyping import Bool, Int32

from mmjax.core.errors import UserError
from mmjax.data.tokenizers import base

MERGES = Path(__file__).parent.parent / "packs" / "clip_bpe" / "merges.txt.gz"
USED_MERGES = 48_894  # the published list is longer; CLIP uses this many lines after the header
END_OF_WORD = "</w>"
SPECIALS = ("<start_of_text>", "<end_of_text>")
_CACHED_WORDS = 2**16


def byte_symbols() -> list[str]:
    """One printable character for each byte: itself where it prints in Latin-1, else the next from U+0100 on."""
    prints = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = {byte: chr(byte) for byte in prints}
    for byte in range(256):
        symbols.setdefault(byte, chr(256 + len(symbols) - len(prints)))
    return [symbols[byte] for byte in range(256)]


def clean(text: str) -> str:
    """Repairs mojibake, unescapes HTML twice, collapses white space and lower-cases.

    Example:
      >>> clean("Tom &amp;amp; Jerry  ")
      'tom & jerry'
    """
    # ftfy costs more than the rest together and changes nothing in printable ASCII without entities.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class ClipBPE:
    """Ids as CLIP's published models expect them.

    Ids: 256 byte symbols, the same with the end-of-word mark, one per merge, begin, end. `pad_id` is 0, which is also
    the symbol "!" inside a word: only `valid` tells them apart.

    Example:
      >>> ClipBPE().encode("a photo of a cat")
      [320, 1125, 539, 320, 2368]
    """

    kind = "clip_bpe"

    def __init__(self, merges: Path | None = None, specials: Sequence[str] = SPECIALS) -> None:
        """Reads the merges.

        Args:
          merges: a merges file, plain or gzip, first line a header; the packaged one unless told.
          specials: how the begin and end tokens are spelled in texts. CLIP's own code writes `<|startoftext|>`.

        Raises:
          UserError: the file is missing or is no list of merges.
        """
        path = Path(merges) if merges is not None else MERGES
        self._merges = _read_merges(path)
        self._specials = (specials[0], specials[1])
        # The order of the byte symbols among the ids is that of the printable bytes first, then the others.
        symbols = sorted(byte_symbols(), key=ord)
        self._tokens = symbols + [symbol + END_OF_WORD for symbol in symbols]
        self._tokens += ["".join(pair) for pair in self._merges] + list(self._specials)
        self._ids = {token: number for number, token in enumerate(self._tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}
        self._encode_byte = byte_symbols()
        self._decode_byte = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        special = "|".join(regex.escape(s) for s in self._specials)
        self._words = regex.compile(
            rf"{special}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
        )
        self._cache: dict[str, list[int]] = {}
        self.vocab_size = len(self._tokens)
        self.bos_id, self.eos_id, self.pad_id = self.vocab_size - 2, self.vocab_size - 1, 0
        self.digest = base.digest_of(self.kind, self._options(), self._merges_text())

    @property
    def tokens(self) -> list[str]:
        """Every token by id, bytes as `byte_symbols` writes them."""
        return list(self._tokens)

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs in the order in which they are merged."""
        return list(self._merges)

    @property
    def specials(self) -> tuple[str, str]:
        """The spelling of the begin and end tokens."""
        return self._specials

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}

    def encode(self, text: str) -> list[int]:
        """Ids of a text without begin and end; a special token's spelling in the text gives its id."""
        ids: list[int] = []
        for word in self._words.findall(clean(text)):
            found = self._cache.get(word)
            if found is None:
                found = self._encode_word(word)
                if len(self._cache) >= _CACHED_WORDS:
                    self._cache.clear()
                self._cache[word] = found
            ids += found
        return ids

    def decode(self, ids: base.Ids) -> str:
        """Text of ids: a space after each word, U+FFFD for bytes that are no UTF-8.

        Raises:
          UserError: an id outside the vocabulary.
        """
        tokens = []
        for number in ids:
            if not 0 <= number < self.vocab_size:
                raise UserError(f"token id {number} is outside the vocabulary of {self.vocab_size} ids")
            tokens.append(self._tokens[number])
        content = bytes(self._decode_byte[symbol] for symbol in "".join(tokens))
        return content.decode("utf-8", errors="replace").replace(END_OF_WORD, " ")

    def batch(self, texts: Sequence[str], length: int = 77) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """(ids, valid) as in `base.Tokenizer.batch`; CLIP's own length is 77."""
        return base.pad_rows([self.encode(text) for text in texts], length, self.bos_id, self.eos_id, self.pad_id)

    def save(self, directory: Path) -> None:
        """Writes the merges and the description."""
        out = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as file:
            file.write(self._merges_text())
        base.write(self, directory, {"merges.txt.gz": out.getvalue()}, self._options())

    @classmethod
    def load(cls, directory: Path, options: dict[str, Any]) -> "ClipBPE":
        """Reads what `save` wrote."""
        return cls(Path(directory) / "merges.txt.gz", **options)

    @classmethod
    def open(cls, arg: str | None) -> "ClipBPE":
        """From a spec: `clip_bpe`, or `clip_bpe:FILE` with merges of one's own."""
        return cls(Path(arg) if arg else None)

    def _encode_word(self, word: str) -> list[int]:
        """Ids of one word: its bytes, merged pair by pair, the pair that comes first in the list first."""
        if word in self._specials:
            return [self._ids[word]]
        symbols = [self._encode_byte[byte] for byte in word.encode()]
        symbols[-1] += END_OF_WORD
        none = len(self._ranks)
        while len(symbols) > 1:
            best = min(itertools.pairwise(symbols), key=lambda pair: self._ranks.get(pair, none))
            if best not in self._ranks:
                break
            symbols = _merge(symbols, best)
        return [self._ids[symbol] for symbol in symbols]

    def _merges_text(self) -> bytes:
        return ("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in self._merges)).encode()

    def _options(self) -> dict[str, Any]:
        return {"specials": list(self._specials)}


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Joins every occurrence of a pair, from the left."""
    out: list[str] = []
    position = 0
    while position < len(symbols):
        if position + 1 < len(symbols) and (symbols[position], symbols[position + 1]) == pair:
            out.append(symbols[position] + symbols[position + 1])
            position += 2
        else:
            out.append(symbols[position])
            position += 1
    return out


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs that CLIP uses: at most the first 48,894 after the header."""
    if not path.is_file():
        raise UserError(f"{path}: no such merges file")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a merges file, plain or gzip: {error}") from None
    merges = []
    for number, line in enumerate(text.rstrip("\n").split("\n")[1 : USED_MERGES + 1], start=2):
        pair = line.split()
        if len(pair) != 2:
            raise UserError(f"{path}, line {number}: expected two symbols, got {line!r}")
        merges.append((pair[0], pair[1]))
    return merges
