"""Tokenizers: one interface (`Tokenizer`), one table, and saving beside a checkpoint."""

import json
from pathlib import Path
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.tokenizers.base import CONFIG, Tokenizer
from mmjax.data.tokenizers.byte_bpe import ByteBPE
from mmjax.data.tokenizers.clip_bpe import ClipBPE
from mmjax.data.tokenizers.gemma import Gemma
from mmjax.data.tokenizers.sentence_piece import SentencePiece
from mmjax.data.tokenizers.siglip import SigLIP
from mmjax.data.tokenizers.wordpiece import WordPiece

__all__ = [
    "TOKENIZERS",
    "ByteBPE",
    "ClipBPE",
    "Gemma",
    "SentencePiece",
    "SigLIP",
    "Tokenizer",
    "WordPiece",
    "load_tokenizer",
    "open_tokenizer",
]

TOKENIZERS: dict[str, type[ByteBPE] | type[ClipBPE] | type[Gemma] | type[SentencePiece] | type[WordPiece]] = {
    ByteBPE.kind: ByteBPE,
    ClipBPE.kind: ClipBPE,
    SentencePiece.kind: SentencePiece,
    SigLIP.kind: SigLIP,
    Gemma.kind: Gemma,
    WordPiece.kind: WordPiece,
}
TRAINABLE: dict[str, type[SentencePiece] | type[WordPiece]] = {
    SentencePiece.kind: SentencePiece,
    WordPiece.kind: WordPiece,
}
"""Kinds with a `train(texts, vocab_size, **options)`."""


def open_tokenizer(spec: str, **options: Any) -> Tokenizer:
    """From a config's spec: `clip_bpe[:MERGES]`, `sentencepiece:MODEL`, `siglip:MODEL`, `gemma:FOLDER`,
    `byte_bpe:FOLDER`, `wordpiece:FOLDER`, or a folder of `save`.

    Args:
      spec: see above.
      **options: of a WordPiece tokenizer: lower, added, clean, most_words.

    Raises:
      UserError: an unknown name, a file that is missing or of another kind, or options that it does not take.

    Example:
      >>> open_tokenizer("clip_bpe").vocab_size
      49408
    """
    name, _, arg = spec.partition(":")
    if options and (Path(spec).is_dir() or name != WordPiece.kind):
        raise UserError(f"tokenizer {spec!r} takes no options, got {', '.join(sorted(options))}; {WordPiece.kind} does")
    if Path(spec).is_dir():
        return load_tokenizer(Path(spec))
    return TOKENIZERS[choose("tokenizer", name, TOKENIZERS)].open(arg or None, **options)


def load_tokenizer(directory: Path | str) -> Tokenizer:
    """Reads the tokenizer that `save` wrote into a directory.

    Raises:
      UserError: there is none, a file is missing, or the files give other ids than the description promises.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise UserError(f"{directory} holds no tokenizer: {CONFIG} is missing")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        kind, options, files, digest = (description[key] for key in ("kind", "options", "files", "digest"))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a tokenizer's description: {error!r}") from None
    missing = [name for name in files if not (path.parent / name).is_file()]
    if missing:
        raise UserError(f"{directory}: the tokenizer's files {missing} are missing")
    tokenizer = TOKENIZERS[choose(f"tokenizer kind in {path}", kind, TOKENIZERS)].load(path.parent, options)
    if tokenizer.digest != digest:
        raise UserError(
            f"{directory}: the tokenizer's files were changed: digest {tokenizer.digest}, expected {digest}"
        )
    return tokenizer
