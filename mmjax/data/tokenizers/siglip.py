"""SigLIP's tokenizer: a SentencePiece vocabulary of T5's, texts without case and punctuation, padded with the end."""

import string
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32

from mmjax.data.tokenizers import base
from mmjax.data.tokenizers.sentence_piece import SentencePiece

_DROP = str.maketrans("", "", string.punctuation)


def canonical(text: str) -> str:
    """Lower case, underscores as spaces, without ASCII punctuation, single spaces.

    Example:
      >>> canonical("A  photo_of: Tom's cat!")
      'a photo of toms cat'
    """
    return " ".join(text.replace("_", " ").translate(_DROP).lower().split())


class SigLIP(SentencePiece):
    """Rows are the text's ids and the end token, repeated up to the length; `valid` ends with the first one.

    Source: Zhai et al. 2023; the vocabulary of the English models is T5's `cc_en.32000`.
    """

    kind = "siglip"

    def __init__(self, model: bytes) -> None:
        """Takes the content of a `.model` file.

        Raises:
          UserError: it is none, or the model has no end token.
        """
        super().__init__(model)
        self.bos_id, self.pad_id = None, self.eos_id

    def encode(self, text: str) -> list[int]:
        """Ids of the canonical form of a text."""
        return super().encode(canonical(text))

    def batch(self, texts: Sequence[str], length: int = 64) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """(ids, valid) as in `base.Tokenizer.batch`; SigLIP's own length is 64."""
        return base.pad_rows([self.encode(text) for text in texts], length, None, self.eos_id, self.pad_id)
