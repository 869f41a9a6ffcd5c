"""What a task is: what of an example a batch has. The tasks themselves are in data/tasks.py and data/chat_task.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from mmjax.core.errors import UserError
from mmjax.core.padding import check_right_padded

Sample = dict[str, Any]
Arrays = dict[str, np.ndarray]
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Make(NamedTuple):
    """How a config makes the model's image of a picture, and a text of an example."""

    image: Augment
    text: Callable[[Mapping[str, Any], np.random.Generator], str]


@runtime_checkable
class Tokenizer(Protocol):
    """What tasks need of a tokenizer."""

    def batch(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """ids int32[B, T] and valid bool[B, T]."""
        ...


@runtime_checkable
class Task(Protocol):
    """One kind of training data; a dataclass, whose fields are part of the state of a pipeline."""

    def check(self, example: Mapping[str, Any], text: Any) -> None:
        """Raises BadExample for an example that cannot be used; `text` is the config's choice of texts."""
        ...

    def sample(self, example: Mapping[str, Any], number: int, make: Make, rng: np.random.Generator) -> Sample:
        """`image`, `text` and what else is drawn of one example; of a `Whole` task, what its `collate` reads."""
        ...

    def collate(self, samples: Sequence[Sample], tokenizer: Tokenizer, length: int) -> Arrays:
        """What the batch has besides `image`, `ids`, `valid` and `index`."""
        ...


def one_picture(example: Mapping[str, Any], number: int, image: Augment, rng: np.random.Generator) -> np.ndarray:
    """The picture of an example, augmented; of alternatives one is drawn.

    Raises:
      UserError: it has none.
    """
    images = example.get("images")
    if images is None:
        images = [example["image"]] if "image" in example else []
    if not len(images):
        raise UserError(f"example {example.get('key', number)!r} has no image; it has {sorted(example)}")
    picked = images[int(len(images) * rng.random())] if len(images) > 1 else images[0]
    return image(picked, rng)


def tokens(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """ids int32[B, T] and valid bool[B, T]; UserError if they are not padded on the right."""
    ids, valid = tokenizer.batch(list(texts), length)
    check_right_padded(valid, f"{type(tokenizer).__name__}.batch")
    return ids, valid


@runtime_checkable
class Whole(Protocol):
    """A task whose `collate` gives images and ids, too, and whose examples are checked with the tokenizer."""

    def check_length(self, example: Mapping[str, Any], tokenizer: Any, length: int) -> None:
        """Raises BadExample for an example of which nothing is left to learn in so many tokens."""
        ...
