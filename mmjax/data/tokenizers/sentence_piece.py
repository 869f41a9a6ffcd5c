"""SentencePiece vocabularies: loaded, or trained on one's own texts (Kudo and Richardson 2018)."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int32

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.tokenizers import base

MODEL = "sentencepiece.model"
MODEL_TYPES = ("unigram", "bpe", "char", "word")
NORMALIZATIONS = ("identity", "nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf")
_ERRORS_ONLY = 2  # SentencePiece's log level; below it, training prints hundreds of lines


class SentencePiece:
    """A SentencePiece model with the interface of `base.Tokenizer`.

    Models without a padding token pad with 0, models without a begin token begin rows with the text.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        """Takes the content of a `.model` file.

        Raises:
          UserError: it is none, or the model has no end token.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"not a SentencePiece model: {error}") from None
        self._model = model
        self.vocab_size: int = self._processor.get_piece_size()
        bos_id, eos_id, pad_id = self._processor.bos_id(), self._processor.eos_id(), self._processor.pad_id()
        if eos_id < 0:
            raise UserError("the SentencePiece model has no end token, which batches need")
        self.bos_id: int | None = bos_id if bos_id >= 0 else None
        self.eos_id: int = eos_id
        self.pad_id: int = max(pad_id, 0)
        self.digest = base.digest_of(self.kind, {}, model)

    @property
    def model(self) -> bytes:
        """The content of the `.model` file."""
        return self._model

    def pieces(self) -> list[tuple[str, float, bool]]:
        """(piece, score, whether it is a control symbol) by id."""
        get = self._processor
        return [(get.id_to_piece(i), get.get_score(i), get.is_control(i)) for i in range(self.vocab_size)]

    def begins_word(self) -> Bool[np.ndarray, "V"]:
        """Of every id, whether its piece begins a word: it has the mark of a space, or is a control symbol."""
        return np.array([piece.startswith("▁") or control for piece, _, control in self.pieces()])

    @property
    def unk_id(self) -> int:
        """Stands for what no piece covers."""
        return self._processor.unk_id()

    def __reduce__(self) -> tuple:
        return type(self), (self._model,)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        model_type: str = "unigram",
        seed: int = 0,
        byte_fallback: bool = True,
        character_coverage: float = 0.9995,
        normalization: str = "identity",
        symbols: Sequence[str] = (),
    ) -> "SentencePiece":
        """Trains a vocabulary, the same for the same texts and arguments.

        Args:
          texts: one sentence each.
          vocab_size: pieces in all: pad 0, bos 1, eos 2, unk 3, the 256 bytes with `byte_fallback`, then the learned.
          model_type: unigram, bpe, char or word.
          seed: for models that sample sentences.
          byte_fallback: rare characters become their UTF-8 bytes, so that nothing is lost to `unk`.
          character_coverage: share of the texts (0.98 to 1) whose characters get pieces of their own.
          normalization: identity keeps every character and space; nmt_nfkc_cf also folds case.
          symbols: pieces that are never cut, of what stands around texts, such as "[INST]".

        Raises:
          UserError: unknown names, no text, or a vocabulary size that these texts cannot fill.

        Example:
          >>> tokenizer = SentencePiece.train(["a red circle", "a blue square"], 272)
          >>> tokenizer.decode(tokenizer.encode("a red square 🟥"))
          'a red square 🟥'
        """
        choose("model_type of SentencePiece", model_type, MODEL_TYPES)
        choose("normalization of SentencePiece", normalization, NORMALIZATIONS)
        lines = [text for text in texts if text.strip()]
        if not lines:
            raise UserError("SentencePiece.train: no text to train on")
        out = io.BytesIO()
        sentencepiece.set_random_generator_seed(seed)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=out,
                vocab_size=vocab_size,
                model_type=model_type,
                byte_fallback=byte_fallback,
                character_coverage=character_coverage,
                normalization_rule_name=normalization,
                remove_extra_whitespaces=normalization != "identity",
                pad_id=0,
                bos_id=1,
                eos_id=2,
                unk_id=3,
                user_defined_symbols=list(symbols),
                num_threads=1,  # sums over threads would depend on their number
                minloglevel=_ERRORS_ONLY,
            )
        except RuntimeError as error:
            raise UserError(
                f"SentencePiece.train with vocab_size={vocab_size} on {len(lines)} texts: {error}"
            ) from None
        return cls(out.getvalue())

    def encode(self, text: str) -> list[int]:
        """Ids of a text without begin and end; spellings of special tokens in it are plain text."""
        return self._processor.encode(text)

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that continues another one: without the blank that the model puts before a text.

        Raises:
          UserError: the model's normalisation leaves nothing to tell where the text begins.
        """
        # A line break merges with nothing, so that what follows it is cut as in the middle of a text.
        begin, ids = self._processor.encode("\n"), self._processor.encode("\n" + text)
        if not begin or ids[: len(begin)] != begin:
            raise UserError("this SentencePiece model takes line breaks away, and cannot be used for chats")
        return ids[len(begin) :]

    def special(self, token: str) -> int:
        """The id of a token by its spelling, such as "</s>".

        Raises:
          UserError: there is none.
        """
        number = self._processor.piece_to_id(token)
        if self._processor.id_to_piece(number) != token:
            raise UserError(f"the SentencePiece model of {self.vocab_size} pieces has no token {token!r}")
        return number

    def decode(self, ids: base.Ids) -> str:
        """Text of ids; begin, end and padding tokens vanish.

        Raises:
          UserError: an id outside the vocabulary.
        """
        return self._processor.decode(base.checked_ids(ids, self.vocab_size))

    def batch(self, texts: Sequence[str], length: int) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """(ids, valid) as in `base.Tokenizer.batch`."""
        return base.pad_rows([self.encode(text) for text in texts], length, self.bos_id, self.eos_id, self.pad_id)

    def save(self, directory: Path) -> None:
        """Writes the model and the description."""
        base.write(self, directory, {MODEL: self._model}, {})

    @classmethod
    def load(cls, directory: Path, options: dict[str, Any]) -> "SentencePiece":
        """Reads what `save` wrote."""
        return cls((Path(directory) / MODEL).read_bytes(), **options)

    @classmethod
    def open(cls, arg: str | None) -> "SentencePiece":
        """From a spec: `sentencepiece:FILE.model`.

        Raises:
          UserError: no file is named, or it does not exist.
        """
        if not arg or not Path(arg).is_file():
            raise UserError(f"tokenizer {cls.kind}:FILE needs a SentencePiece .model file, got {arg!r}")
        return cls(Path(arg).read_bytes())
