"""Conversations about pictures as training data: rows of tokens with the pictures' states in their places."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.core.errors import BadExample, UserError
from mmjax.data import anyres
from mmjax.data.chat import IMAGE, Conversation, chat_row, expand, fit
from mmjax.data.chat_templates import Template, template
from mmjax.data.choices import choose
from mmjax.data.conversations import of_example
from mmjax.data.image import composite
from mmjax.data.rows import Spliced, joined, spliced, stacked
from mmjax.data.rows import samples as packed_samples
from mmjax.data.task import Arrays, Make, Sample, one_picture

OF = ("conversation", "caption")


class Sight(NamedTuple):
    """What a system makes of a view of a picture.

    Attributes:
      size: of a view's side, in pixels.
      states: P, of a view.
      newline: whether a learned state stands behind those of a row's views.
      side: of a view in states, where they are a square of patches and nothing else; else 0.
    """

    size: int
    states: int
    newline: bool
    side: int


@dataclasses.dataclass(frozen=True)
class Chats:
    """A conversation and its pictures.

    A row longer than the batch is cut at its end, after its pictures have their places, as LLaVA does; one of which
    nothing is left to learn is left out (ledger.jsonl names it), where LLaVA would train on nothing.

    Attributes:
      template: its words, a key of data/chat_templates.TEMPLATES.
      images: I, pictures of a conversation at most, default 1 (0 where the system sees none). Rows with fewer have
        black ones behind, which nobody reads; 0 gives batches of texts.
      of: "conversation", or "caption": a picture and one of its texts, as the answer to `ask` (config.data.text says
        which text).
      ask: see `of`; nothing of it is said in the template "plain".
      short: said behind the first question of examples that have short answers, on a line of its own (LLaVA-1.5:
        "Answer the question using a single word or phrase.").
      grids: pairs (width, height) of pixels, for tiles besides the whole picture (LLaVA-NeXT); such pictures are
        not augmented. (): the whole picture alone, as config.data.image makes it.
      rule: of the grids, see data/anyres.py.
      pack: conversations of a row, one behind the other, which do not see each other and count their positions by
        themselves (`sample` says whose a token is). Rows have a fixed number of them, so that each is a function of its
        place alone; a row that is longer than the batch is cut at its end. `images` counts those of one conversation.
      sight: of the system; None: it reads texts alone.
    """

    template: str = "vicuna_v1"
    images: int | None = None
    of: str = "conversation"
    ask: str = ""
    short: str = ""
    grids: Sequence[Sequence[int]] = ()
    rule: str = "original"
    pack: int = 1
    sight: Sight | None = None

    def __post_init__(self) -> None:
        template(self.template)
        choose("of of the task chat", self.of, OF)
        choose("rule of the task chat", self.rule, anyres.RULES)
        most = int(self.sight is not None) if self.images is None else self.images
        object.__setattr__(self, "images", most)
        object.__setattr__(self, "grids", tuple(tuple(int(n) for n in grid) for grid in self.grids))
        if most < 0 or (most and self.sight is None):
            why = "0 or more" if most < 0 else "0, for the system sees no pictures"
            raise UserError(f"task chat: images = {most}; valid: {why}")
        if not isinstance(self.pack, int) or self.pack < 1:
            raise UserError(f"task chat: pack = {self.pack!r}; valid: 1 conversation a row, or more")
        if self.of == "caption" and not most:
            raise UserError("task chat: captions are of pictures, but images = 0")
        size = self.sight.size if self.sight else 1
        wrong = [grid for grid in self.grids if len(grid) != 2 or any(n < 1 or n % size for n in grid)]
        if wrong or (self.grids and self.sight and not self.sight.side):
            what = f"grids of whole tiles of {size} pixels" if wrong else "no grids: a view's states are no square"
            raise UserError(f"task chat: grids = {self.grids}; valid: {what}")

    @property
    def without(self) -> tuple[str, ...]:
        """Keys that the batch does not have."""
        return () if self.images else ("image", "slot")

    @property
    def most_views(self) -> int:
        """I, views of a row: as many as its pictures have at most."""
        return self.pack * self._own_views

    @property
    def _own_views(self) -> int:
        """Of a conversation."""
        return (self.images or 0) * self._each

    # ---------------------------------------------------------------- one example

    def check(self, example: Mapping[str, Any], text: Any) -> None:
        if self.of == "conversation":
            self._pictures(*of_example(example, self.short))
        elif (check := getattr(text, "check", None)) is not None:
            check(example)

    def check_length(self, example: Mapping[str, Any], tokenizer: Any, length: int) -> None:
        """Raises BadExample for a row of which nothing is left to learn; UserError where that is so of every one."""
        if self.of == "conversation":
            talk, pictures = of_example(example, self.short)
            row = chat_row(talk, self._template, tokenizer)
            fit(expand(row, [len(slots) for slots in self._slots(sizes_of(pictures))]), length, talk.key)
            return
        assert self.sight is not None
        row = chat_row(self._caption("a", str(example.get("key", ""))), self._template, tokenizer)
        wide = expand(row, [self.sight.states + self.sight.newline])
        if not wide.mask_loss[:length].any():
            raise UserError(
                f"config.data.text_length = {length} has no room for a caption: a picture and what is asked about it "
                f"take {int((~wide.mask_loss).sum())} tokens"
            )

    def sample(self, example: Mapping[str, Any], number: int, make: Make, rng: np.random.Generator) -> Sample:
        if self.of == "caption":
            picture = one_picture(example, number, lambda raw, _: raw, rng)
            talk, pictures = self._caption(make.text(example, rng), str(example.get("key", number))), [picture]
        else:
            talk, pictures = of_example(example, self.short)
        return {
            "talk": talk,
            "slots": self._slots(sizes_of(pictures)),
            "image": self.views(pictures, lambda raw: make.image(raw, rng)),
        }

    def _caption(self, text: str, key: str) -> Conversation:
        return Conversation(key, [(f"{IMAGE}\n{self.ask}", text)])

    @property
    def _template(self) -> Template:
        return template(self.template)

    # ---------------------------------------------------------------- pictures

    @property
    def _each(self) -> int:
        """Views of a picture at most."""
        size = self.sight.size if self.sight else 1
        return 1 + max((width // size * (height // size) for width, height in self.grids), default=0)

    @property
    def _states(self) -> int:
        """States of all views of a conversation; the newline is the number behind them."""
        return self._own_views * (self.sight.states if self.sight else 0)

    def _pictures(self, talk: Conversation, pictures: Sequence[Any]) -> None:
        if len(pictures) > (self.images or 0):
            detail = f"{len(pictures)} pictures; the task chat has images = {self.images}"
            raise BadExample("wrong pictures", detail, talk.key)
        if talk.pictures != len(pictures):
            detail = f"{talk.pictures} places for pictures ({IMAGE}) and {len(pictures)} pictures"
            raise BadExample("wrong pictures", detail, talk.key)

    def _slots(self, sizes: Sequence[anyres.Size]) -> list[np.ndarray]:
        """The numbers of the states that stand for each picture."""
        found, sight = [], self.sight
        for number, size in enumerate(sizes):
            assert sight is not None
            first = number * self._each
            if self.grids:
                grid, merge = anyres.select_grid(size, self.grids, self.rule), "spatial_unpad"
                found.append(anyres.slots(size, grid, first=first, newline=self._states, tile=sight.size,
                                          side=sight.side, merge=merge if sight.newline else "flat",
                                          rule=self.rule))  # fmt: skip
                continue
            base = np.arange(first * sight.states, (first + 1) * sight.states, dtype=np.int32)
            found.append(np.append(base, np.int32(self._states)) if sight.newline else base)
        return found

    def views(self, pictures: Sequence[np.ndarray], image: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """uint8[I / pack, S, S, 3]: the views of a conversation's pictures, black where there are none."""
        size = self.sight.size if self.sight else 0
        out = np.zeros((self._own_views, size, size, 3), np.uint8)
        for number, picture in enumerate(pictures):
            if self.grids:
                grid = anyres.select_grid(sizes_of([picture])[0], self.grids, self.rule)
                seen = anyres.views(composite(picture), grid, size)
            else:
                seen = image(picture)[None]
            out[number * self._each : number * self._each + len(seen)] = seen
        return out

    # ---------------------------------------------------------------- a batch

    def collate(self, samples: Sequence[Sample], tokenizer: Any, length: int) -> Arrays:
        """The arrays of `samples`, `pack` of them a row, in order."""
        parts = []
        for sample in samples:
            row = chat_row(sample["talk"], self._template, tokenizer)
            parts.append(spliced(row, sample["slots"], self._states + 1))
        groups = [range(first, first + self.pack) for first in range(0, len(samples), self.pack)]
        rows = [joined([parts[n] for n in each], [self._states] * self.pack, self.pack * self._states)
                for each in groups]  # fmt: skip
        made = stacked([Spliced(*(part[:length] for part in row)) for row in rows], length)
        made["image"] = np.stack([np.concatenate([samples[n]["image"] for n in each]) for each in groups])
        if self.pack > 1:
            made["sample"] = packed_samples(groups, parts, length)
        return {key: array for key, array in made.items() if key not in self.without}

    def prompts(
        self, talks: Sequence[Conversation], sizes: Sequence[Sequence[anyres.Size]], tokenizer: Any, most: int
    ) -> Arrays:
        """What a system reads to answer, but for the `views`; rows end where the answers begin, padded on the right.

        Where the last answers are there, the rows end behind them, and `mask_loss` says what of a row is its last one.

        Args:
          talks: conversations; the last answer is None in all of them, or in none.
          sizes: of the pictures of each, as many as it names.
          tokenizer: of the system.
          most: tokens of a row.

        Raises:
          BadExample: other pictures than the conversation names, or more than the task has.
          UserError: a row that is longer.
        """
        rows = []
        for talk, seen in zip(talks, sizes, strict=True):
            self._pictures(talk, seen)
            row = spliced(chat_row(talk, self._template, tokenizer), self._slots(seen), self._states + 1)
            if len(row) > most:
                raise UserError(f"{talk.key}: the prompt has {len(row)} tokens, pictures included; valid: up to {most}")
            rows.append(row)
        made = stacked(rows)
        keys = {"ids", "valid", "slot", *(("mask_loss",) if talks[0].turns[-1][1] is not None else ())}
        made["mask_loss"] = _last_learned(made["mask_loss"])
        return {key: made[key] for key in sorted(keys) if key not in self.without}


def _last_learned(mask: np.ndarray) -> np.ndarray:
    """bool[B, T]: of the tokens to be learned, those behind the last token that is not."""
    behind = np.cumsum(~mask[:, ::-1] & (np.cumsum(mask[:, ::-1], axis=1) > 0), axis=1)[:, ::-1]
    return mask & (behind == 0)


def sizes_of(pictures: Sequence[np.ndarray]) -> list[anyres.Size]:
    """Of pictures uint8[Y, X, C]."""
    return [anyres.Size(picture.shape[1], picture.shape[0]) for picture in pictures]
