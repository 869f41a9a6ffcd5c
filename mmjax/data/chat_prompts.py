"""Questions about pictures as what a system reads to answer them; pictures are read when they are needed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.data.anyres import Size
from mmjax.data.chat import IMAGE, Conversation
from mmjax.data.chat_task import Chats, sizes_of
from mmjax.data.chat_templates import TEMPLATES
from mmjax.data.task import Arrays


@dataclasses.dataclass(frozen=True)
class Asker:
    """Makes prompts.

    Attributes:
      task: how conversations are written; None: it is not known.
      tokenizer: of the system.
      image: a picture as the system sees it whole, uint8[Y, X, C] -> uint8[S, S, 3].
      most: tokens of a prompt at most.
    """

    task: Chats | None
    tokenizer: Any
    image: Callable[[np.ndarray], np.ndarray]
    most: int

    def __call__(
        self,
        questions: Sequence[str],
        pictures: Any,
        answers: Sequence[str] | None = None,
        shown: Sequence[bool] | None = None,
    ) -> Mapping[str, Any]:
        """`image` (lazy), `slot`, `ids` and `valid` of a question each; its picture stands before it.

        Args:
          questions: a text each.
          pictures: uint8[Y, X, C] each, of any size; of a lazy sequence.
          answers: said to the questions; `mask_loss` then says which tokens are these.
          shown: which questions have a picture; None: all.

        Raises:
          UserError: a prompt is too long, or nothing says how conversations are written.
        """
        task = self.known(1)
        seen = [True] * len(questions) if shown is None else list(shown)
        said: Sequence[str | None] = [None] * len(questions) if answers is None else answers
        talks = [
            Conversation(f"question {n + 1}", [(f"{IMAGE}\n{asked}" if seen[n] else asked, said[n])])
            for n, asked in enumerate(questions)
        ]
        # Without tiles, a picture takes as many places whatever its size: it need not be read for that.
        sizes = [
            (sizes_of([pictures[n]]) if task.grids else [Size(1, 1)]) if seen[n] else [] for n in range(len(talks))
        ]
        made = task.prompts(talks, sizes, self.tokenizer, self.most)
        return {**made, "image": _Views(task, pictures, self.image, seen)}

    def talk(self, talk: Conversation, pictures: Sequence[np.ndarray]) -> Arrays:
        """The same of one conversation with any number of pictures, whose last answer is None: a batch of one row.

        Raises:
          BadExample: other pictures than it names.
          UserError: see `__call__`.
        """
        task = self.known(len(pictures))
        made = task.prompts([talk], [sizes_of(pictures)], self.tokenizer, self.most)
        return {**made, "image": task.views(pictures, self.image)[None]} if pictures else made

    def known(self, images: int) -> Chats:
        """The task, for so many pictures a row.

        Raises:
          UserError: there is none, or the system sees no pictures.
        """
        if self.task is None:
            raise UserError(
                "the checkpoint does not say how its conversations are written: give --template, one of "
                f"{', '.join(TEMPLATES)}"
            )
        return dataclasses.replace(self.task, images=images, of="conversation", pack=1)


class _Views:
    """The views of a picture for every row; black ones where it has none."""

    def __init__(
        self, task: Chats, pictures: Any, image: Callable[[np.ndarray], np.ndarray], seen: Sequence[bool]
    ) -> None:
        self._task, self._pictures, self._image, self._seen = task, pictures, image, seen

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self._task.views([self._pictures[index]] if self._seen[index] else [], self._image)
