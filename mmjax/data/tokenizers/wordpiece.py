"""BERT's tokenizer, WordPiece on uncased texts (Devlin et al. 2019), with the begin tokens that BLIP adds to it."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32
from tokenizers import decoders, models, normalizers, pre_tokenizers

from mmjax.core.errors import UserError
from mmjax.data import clean
from mmjax.data.choices import choose
from mmjax.data.tokenizers import base
from mmjax.data.tokenizers.pair_merges import merge_pairs

VOCAB, FILE = "vocab.txt", "tokenizer.json"
PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIALS = (PAD, UNK, CLS, SEP, MASK)
DEC, ENC = "[DEC]", "[ENC]"
"""What BLIP puts in the place of [CLS] where the text model decodes, and where it sees the image."""
MARK = "##"  # begins a piece that continues a word
_LONGEST_WORD = 100
CLEANS = ("none", "albef", "blip")


def clean_caption(text: str, style: str, most_words: int | None = None) -> str:
    """A caption as the published models were trained on it.

    Args:
      text: any.
      style: "albef": lower case, without `,.'!?"()*#:;~`, hyphens and slashes as spaces, `<person>` as a word;
        "blip": lower case, `.!"()*#:;~` as spaces; "none": as it is.
      most_words: words that are kept, counted at spaces; None: all.

    Example:
      >>> clean_caption("A man -- <person>, it's said -- rides!", "albef")
      'a man person its said rides'

    Source: the `pre_caption` of both releases.
    """
    choose("cleaning of captions", style, CLEANS)
    words = sys.maxsize if most_words is None else most_words
    return clean.first_words(text, words) if style == "none" else clean.CLEANERS[style](text, words)


class WordPiece:
    """Longest pieces first, word by word; texts are lower case and without accents, as in BERT uncased.

    A row is [CLS] … [SEP]; where a model wants another begin token, it puts it in the place of [CLS] (BLIP).

    Args:
      vocab: the tokens, in the order of their ids.
      lower: whether texts lose case and accents.
      added: more tokens that no text gives, behind the vocabulary unless they stand in it: BLIP's [DEC] and [ENC]
        become 30522 and 30523.
      clean, most_words: what is done with a text first, see `clean_caption`.

    Raises:
      UserError: a special token is missing, or a token stands twice.

    Example:
      >>> words = WordPiece([*SPECIALS, "a", "cat", "##s"], added=("[DEC]", "[ENC]"))
      >>> words.encode("A cats"), words.special("[DEC]"), words.vocab_size
      ([5, 6, 7], 8, 10)
    """

    kind = "wordpiece"

    def __init__(
        self,
        vocab: Sequence[str],
        *,
        lower: bool = True,
        added: Sequence[str] = (),
        clean: str = "none",
        most_words: int | None = None,
    ) -> None:
        self._vocab, self._added = tuple(vocab), tuple(added)
        self._lower, self._clean = lower, choose("cleaning of captions", clean, CLEANS)
        self._most_words = most_words
        tokens = [*self._vocab, *(token for token in self._added if token not in set(self._vocab))]
        self._ids = {token: number for number, token in enumerate(tokens)}
        if missing := [token for token in SPECIALS if token not in self._ids]:
            raise UserError(f"WordPiece vocabulary of {len(tokens)} tokens: {', '.join(missing)} is missing")
        if len(self._ids) != len(tokens):
            twice = next(token for token, count in Counter(tokens).items() if count > 1)
            raise UserError(f"WordPiece vocabulary: {twice!r} stands twice")
        self.vocab_size = len(tokens)
        self.bos_id, self.eos_id = self._ids[CLS], self._ids[SEP]
        self.pad_id, self.unk_id, self.mask_id = self._ids[PAD], self._ids[UNK], self._ids[MASK]
        vocab_ids = {token: number for number, token in enumerate(self._vocab)}
        model = models.WordPiece(vocab_ids, unk_token=UNK, max_input_chars_per_word=_LONGEST_WORD)
        self._backend = tokenizers.Tokenizer(model)
        self._backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
        self._backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._decoder = decoders.WordPiece(prefix=MARK, cleanup=True)
        self.digest = base.digest_of(self.kind, self._options(), self._vocab_text())

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, lower: bool = True, added: Sequence[str] = (), **options: Any
    ) -> "WordPiece":
        """A vocabulary from texts, the same for the same texts and arguments: characters, then the most frequent pairs.

        Special and added tokens come first, so that their ids do not depend on the texts: [DEC] and [ENC] are 5 and 6.

        Args:
          texts: one sentence each.
          vocab_size: most ids in all, special and added tokens included; fewer where the words are fewer.
          lower, added, **options: as of the class.

        Raises:
          UserError: no text, or fewer ids than characters.

        Example:
          >>> words = WordPiece.train(["a red circle", "a blue square"], 80)
          >>> words.decode(words.encode("A red square"))
          'a red square'
        """
        plain = cls([*SPECIALS], lower=lower, added=added, **options)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(plain.words(text))
        if not counts:
            raise UserError("WordPiece.train: no text to train on")
        room = vocab_size - len(SPECIALS) - len(added)
        pieces = merge_pairs(counts, room, MARK)
        return cls([*SPECIALS, *added, *pieces], lower=lower, added=added, **options)

    def words(self, text: str) -> list[str]:
        """The words and marks of a text, before they are cut into pieces."""
        text = self._backend.normalizer.normalize_str(clean_caption(text, self._clean, self._most_words))
        return [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]

    def begins_word(self) -> Bool[np.ndarray, "V"]:
        """Of every id, whether its piece begins a word."""
        return np.array([not token.startswith(MARK) for token in (*self.tokens, *self.added)])

    def special(self, token: str) -> int:
        """The id of a token by its spelling, such as "[ENC]".

        Raises:
          UserError: there is none.
        """
        if token not in self._ids:
            raise UserError(f"the tokenizer of {self.vocab_size} ids has no token {token!r}; added: {self._added}")
        return self._ids[token]

    def encode(self, text: str) -> list[int]:
        """Ids of a text without begin and end; spellings of special tokens in it are plain text."""
        text = clean_caption(text, self._clean, self._most_words)
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: base.Ids) -> str:
        """Text of ids, words joined by spaces; special and added tokens vanish.

        Raises:
          UserError: an id outside the vocabulary.
        """
        hidden = {self._ids[token] for token in (*SPECIALS, *self._added) if token != UNK}
        kept = [self._vocab[n] for n in base.checked_ids(ids, self.vocab_size) if n not in hidden]
        return self._decoder.decode(kept)

    def batch(self, texts: Sequence[str], length: int) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """(ids, valid) as in `base.Tokenizer.batch`."""
        return base.pad_rows([self.encode(text) for text in texts], length, self.bos_id, self.eos_id, self.pad_id)

    def _options(self) -> dict[str, Any]:
        options = {"lower": self._lower, "added": list(self._added), "clean": self._clean}
        return {**options, "most_words": self._most_words}

    def _vocab_text(self) -> bytes:
        return "".join(f"{token}\n" for token in self._vocab).encode("utf-8")

    def __reduce__(self) -> tuple:
        return _again, (self._vocab, self._options())

    @property
    def tokens(self) -> tuple[str, ...]:
        """The vocabulary's tokens in the order of their ids, without added ones behind it."""
        return self._vocab

    @property
    def added(self) -> tuple[str, ...]:
        """More tokens that no text gives."""
        return self._added

    @property
    def lower(self) -> bool:
        """Whether texts lose case and accents."""
        return self._lower

    def save(self, directory: Path) -> None:
        """Writes the vocabulary and the description."""
        base.write(self, directory, {VOCAB: self._vocab_text()}, self._options())

    @classmethod
    def load(cls, directory: Path, options: dict[str, Any]) -> "WordPiece":
        """Reads what `save` wrote."""
        return cls(_lines(Path(directory) / VOCAB), **options)

    @classmethod
    def open(cls, arg: str | None, **options: Any) -> "WordPiece":
        """From a spec: `wordpiece:FOLDER` or `wordpiece:FILE`, a published `vocab.txt` or `tokenizer.json`.

        Raises:
          UserError: no such file, or one of another form.
        """
        path = Path(arg) if arg else None
        if path is not None and path.is_dir():
            path = next((path / name for name in (VOCAB, FILE) if (path / name).is_file()), None)
        if path is None or not path.is_file():
            raise UserError(f"tokenizer {cls.kind}:FOLDER needs a folder that holds {VOCAB} or {FILE}, got {arg!r}")
        return cls.read(path, **options)

    @classmethod
    def read(cls, path: Path, **options: Any) -> "WordPiece":
        """From a published file, `vocab.txt` or `tokenizer.json`; tokens that the latter adds are added ones.

        `do_lower_case` of a `tokenizer_config.json` beside it holds, where there is one.

        Raises:
          UserError: a file of another form.
        """
        config = path.parent / base.CONFIG
        said = base.parsed_json(config.read_bytes(), str(config)).get("do_lower_case") if config.is_file() else None
        options = {**({} if said is None else {"lower": bool(said)}), **options}
        if path.suffix != ".json":
            return cls(_lines(path), **options)
        whole = base.parsed_json(path.read_bytes(), str(path))
        model, normalizer = whole.get("model") or {}, whole.get("normalizer") or {}
        wanted = {"continuing_subword_prefix": MARK, "unk_token": UNK, "max_input_chars_per_word": _LONGEST_WORD}
        given = {key: model.get(key, value) for key, value in wanted.items()}
        if (
            model.get("type", "WordPiece") != "WordPiece"
            or given != wanted
            or normalizer.get("type") != "BertNormalizer"
        ):
            raise UserError(f"{path} is not BERT's: {model.get('type')}, {given}, {normalizer.get('type')}")
        ids = {token: int(number) for token, number in model.get("vocab", {}).items()}
        extra = {item["content"]: item["id"] for item in whole.get("added_tokens") or () if item["content"] not in ids}
        tokens, added = (sorted(names, key=names.__getitem__) for names in (ids, extra))
        numbers = [*(ids[token] for token in tokens), *(extra[token] for token in added)]
        if numbers != list(range(len(numbers))):
            raise UserError(f"{path}: the ids of the vocabulary have gaps")
        lower = bool(normalizer.get("lowercase", True))
        return cls(tokens, **{"lower": lower, "added": tuple(added), **options})


def published_file(folder: Path) -> Path | None:
    """A published folder's file of BERT's form: `vocab.txt`, or a `tokenizer.json` with a WordPiece vocabulary."""
    if (folder / VOCAB).is_file():
        return folder / VOCAB
    path = folder / FILE
    if not path.is_file():
        return None
    model = base.parsed_json(path.read_bytes(), str(path)).get("model") or {}
    return path if model.get("type") == "WordPiece" else None


def _again(vocab: tuple[str, ...], options: dict[str, Any]) -> WordPiece:
    return WordPiece(vocab, **options)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a vocabulary: {error}") from None
