"""How published systems clean captions and questions before their tokenizers see them, by name."""

import re
from collections.abc import Callable

_ALBEF = re.compile(r"[,.'!?\"()*#:;~]")
_BLIP = re.compile(r"[.!\"()*#:;~]")
_BLANKS = re.compile(r"\s{2,}")


def first_words(text: str, most: int) -> str:
    """The first words of a text, counted at blanks."""
    words = text.split(" ")
    return " ".join(words[:most]) if len(words) > most else text


def albef_caption(text: str, words: int = 30) -> str:
    """ALBEF's captions: lower case, marks removed, hyphens and slashes as blanks, "<person>" as a word, 30 words.

    Source: Li et al., ALBEF, its data code.

    Example:
      >>> albef_caption("A man's T-shirt, <person>!")
      'a mans t shirt person'
    """
    text = _ALBEF.sub("", text.lower()).replace("-", " ").replace("/", " ").replace("<person>", "person")
    return first_words(_BLANKS.sub(" ", text).rstrip("\n").strip(" "), words)


def albef_question(text: str, words: int = 50) -> str:
    """ALBEF's questions: as its captions, but runs of white space stay."""
    text = _ALBEF.sub("", text.lower()).replace("-", " ").replace("/", " ")
    return first_words(text.rstrip(" "), words)


def blip_caption(text: str, words: int = 50) -> str:
    """BLIP's and LAVIS' captions: lower case, marks as blanks but for commas, apostrophes, hyphens, question marks.

    BLIP's own training takes the first 30 words, LAVIS 50.

    Example:
      >>> blip_caption("A man, riding: a horse!!")
      'a man, riding a horse'
    """
    text = _BLANKS.sub(" ", _BLIP.sub(" ", text.lower()))
    return first_words(text.rstrip("\n").strip(" "), words)


def blip_question(text: str, words: int = 50) -> str:
    """BLIP's and LAVIS' questions: lower case, marks removed, white space kept but at the end."""
    return first_words(_BLIP.sub("", text.lower()).rstrip(" "), words)


CLEANERS: dict[str, Callable[[str, int], str]] = {
    "albef": albef_caption,
    "albef_question": albef_question,
    "blip": blip_caption,
    "blip_question": blip_question,
}
