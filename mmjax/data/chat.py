"""Conversations as token ids, in one pass: every segment carries its own mask, and nothing is found again in a text.

Conversation -> segments (text, special token or picture; learned or not) -> Row -> with pictures expanded, cut, padded
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32

from mmjax.core.errors import BadExample, UserError
from mmjax.data.chat_templates import Template

IMAGE = "<image>"
"""Stands in a question for a picture, the conversation's next."""


@runtime_checkable
class ChatTokenizer(Protocol):
    """What a chat needs of a tokenizer."""

    @property
    def bos_id(self) -> int | None:
        """Begins a row."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins a row, or stands after a special token or a picture."""
        ...

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that continues another one: no blank is put before it."""
        ...

    def special(self, token: str) -> int:
        """The id of a special token by its spelling."""
        ...


class Conversation(NamedTuple):
    """Questions and answers about pictures.

    Attributes:
      key: its name, for messages.
      turns: (question, answer); the last answer may be None: it is to be generated.
      system: the system text; None: the template's.
    """

    key: str
    turns: Sequence[tuple[str, str | None]]
    system: str | None = None

    @property
    def pictures(self) -> int:
        """How many pictures its questions name."""
        return sum(question.count(IMAGE) for question, _ in self.turns)


class Segment(NamedTuple):
    """A piece of a row: `kind` "text", "special" or "image"."""

    kind: str
    text: str
    learned: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """A row before padding, or with it.

    Attributes:
      ids: int32[T]; 0 where a picture stands.
      mask_loss: bool[T], True = this token is to be predicted.
      image: int32[T]: number of the picture whose place this is, counted in the conversation; -1: a token.
    """

    ids: Int32[np.ndarray, "T"]
    mask_loss: Bool[np.ndarray, "T"]
    image: Int32[np.ndarray, "T"]

    def __len__(self) -> int:
        return len(self.ids)


# ---------------------------------------------------------------- segments


def segments(conversation: Conversation, template: Template) -> list[Segment]:
    """The pieces of a conversation in a template's words.

    Raises:
      BadExample: no turn, an empty answer, or an answer that is missing before the last.
    """
    key, turns = conversation.key, conversation.turns
    if not turns:
        raise BadExample("malformed record", "a conversation without a question and an answer", key)
    system = template.system if conversation.system is None else conversation.system
    found: list[Segment] = []
    for number, (question, answer) in enumerate(turns):
        asked = _image_first(question, template)
        found += _fill(template.then if number else template.first, template, system, asked)
        found += _fill(template.cue, template, learned=template.cue_learned)
        if answer is None:
            if number + 1 < len(turns):
                raise BadExample("malformed record", f"turn {number + 1} has no answer", key)
            return _merged(found)
        if not answer.strip():
            raise BadExample("empty answer", f"turn {number + 1}", key)
        found += _fill(template.answer, template, answer=answer, learned=True)
    return _merged([*found, *_fill(template.last, template, learned=True)])


def _image_first(question: str, template: Template) -> str:
    """A picture that is alone in its question stands in front, on a line of its own; several stay where they are."""
    count = question.count(IMAGE)
    if template.only_image:
        return IMAGE * count
    if count != 1:
        return question
    return f"{IMAGE}\n{question.replace(IMAGE, '').strip()}".strip()


_FIELD = re.compile(r"\{(system|signal|question|answer)\}")


def _fill(
    text: str, template: Template, system: str = "", question: str = "", answer: str = "", learned: bool = False
) -> Iterator[Segment]:
    """A template's text with its fields filled."""
    for number, part in enumerate(_FIELD.split(text)):
        if number % 2 == 0:
            yield from _literal(part, template, learned)
        elif part == "system":
            before, _, after = template.system_form.partition("{}") if system else ("", "", "")
            yield from _literal(before, template, learned)
            yield Segment("text", system, learned)
            yield from _literal(after, template, learned)
        elif part == "signal":
            yield Segment("text", template.signal, True)
        else:  # a user's words: no special token, but pictures
            words = question if part == "question" else answer
            for place, piece in enumerate(words.split(IMAGE) if part == "question" else [words]):
                if place:
                    yield Segment("image", IMAGE, False)
                yield Segment("text", piece, learned)


def _literal(text: str, template: Template, learned: bool) -> Iterator[Segment]:
    if not template.specials:
        yield Segment("text", text, learned)
        return
    for number, part in enumerate(re.split("(" + "|".join(map(re.escape, template.specials)) + ")", text)):
        yield Segment("special" if number % 2 else "text", part, learned)


def _merged(found: Sequence[Segment]) -> list[Segment]:
    """Texts side by side that are learned alike are one text; empty ones are none."""
    out: list[Segment] = []
    for segment in found:
        if segment.kind == "text" and not segment.text:
            continue
        last = out[-1] if out else None
        if last and last.kind == segment.kind == "text" and last.learned == segment.learned:
            out[-1] = last._replace(text=last.text + segment.text)
        else:
            out.append(segment)
    return out


# ---------------------------------------------------------------- rows


def encode(found: Sequence[Segment], tokenizer: ChatTokenizer, bos: bool = True) -> Row:
    """The row of segments; a picture takes one place."""
    ids, learned, image, pictures, fresh = [], [], [], 0, True
    if bos and tokenizer.bos_id is not None:
        ids, learned, image = [tokenizer.bos_id], [False], [-1]
    for kind, text, mask in found:
        if kind == "text":
            new = tokenizer.encode(text) if fresh else tokenizer.encode_more(text)
        else:
            new = [tokenizer.special(text)] if kind == "special" else [0]
        ids += new
        learned += [mask] * len(new)
        image += [pictures if kind == "image" else -1] * len(new)
        pictures, fresh = pictures + (kind == "image"), kind != "text"
    return Row(np.array(ids, np.int32), np.array(learned, bool), np.array(image, np.int32))


def chat_row(conversation: Conversation, template: Template, tokenizer: ChatTokenizer) -> Row:
    """A conversation as a row, each picture one place wide.

    Example:
      >>> from mmjax.data.chat_templates import template
      >>> [segment.text for segment in segments(Conversation("a", [("Hi.", None)]), template("mistral_instruct"))]
      ['[INST] Hi. [/INST]']
    """
    return encode(segments(conversation, template), tokenizer, template.bos)


def expand(row: Row, counts: Sequence[int]) -> Row:
    """The row with as many places for each picture as it has features.

    Args:
      row: with one place for each picture.
      counts: features of each picture.

    Raises:
      UserError: another number of pictures than of places.
    """
    places = int((row.image >= 0).sum())
    if places != len(counts):
        raise UserError(f"the conversation has {places} places for pictures and {len(counts)} pictures")
    repeats = np.where(row.image < 0, 1, np.array([*counts, 1])[row.image])
    return Row(*(np.repeat(part, repeats) for part in (row.ids, row.mask_loss, row.image)))


def fit(row: Row, length: int, key: str) -> Row:
    """The first `length` tokens of an expanded row.

    Raises:
      BadExample: nothing of it is to be learned, because of the cut or at all.
    """
    if row.mask_loss[:length].any():
        return Row(row.ids[:length], row.mask_loss[:length], row.image[:length])
    why = f"of its {len(row)} tokens the {int(row.mask_loss.sum())} to be learned are beyond {length}"
    raise BadExample("nothing to learn", why if row.mask_loss.any() else "no answer has a token", key)


def readable(found: Sequence[Segment]) -> str:
    """The segments as one text: what a model without tokens would read."""
    return "".join(segment.text for segment in found)


def learned(found: Sequence[Segment]) -> list[str]:
    """What is learned of each turn, as texts."""
    out: list[str] = []
    joined = False
    for segment in found:
        if segment.learned:
            out[-1:] = [out[-1] + segment.text] if joined else [*out[-1:], segment.text]
        joined = segment.learned
    return out
