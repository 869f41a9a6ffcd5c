"""The one table of batch keys, what an example is, and the check of a batch against the table."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np

from mmjax.core.errors import REASONS as REASONS  # sources raise it, the ledger counts it: part of this interface
from mmjax.core.errors import BadExample as BadExample
from mmjax.core.errors import UserError
from mmjax.data.choices import choose

NO_PICTURE = np.zeros((0, 0, 3), np.uint8)  # in place of a picture, where an example is read for its texts alone


class Example(TypedDict, total=False):
    """One item of a source, before augmentation and tokenization. `key` is always there, and `image` or `images`; in a
    conversation `turns` and `pictures`."""

    image: np.ndarray  # uint8[Y, X, C], C = 3 (RGB) or 4 (RGB with straight alpha)
    images: list[np.ndarray]  # alternative pictures of the same thing, of which training draws one
    texts: list[str]  # alternative texts, the best first
    labels: dict[str, str]  # language -> short name
    tags: dict[str, list[str]]  # language -> keywords
    turns: list[tuple[str, str]]  # question and answer of a conversation; `<image>` stands for a picture
    system: str  # what stands before a conversation, if it has its own
    label: int  # class, counted within the source's classes
    key: str  # stable name of the item, unique within its data set
    pictures: list[np.ndarray]  # pictures that belong together, in order (NLVR2 has two, a conversation any number)
    image_id: int  # number of the picture, where several items show the same one
    sentence_id: str  # name of the statement, where several items (of other pictures) have the same one
    question: str
    answers: list[str]  # what the annotators answered, one entry each
    questions: list[tuple[str, ...]]  # (question, answer, …) rows, where an item has several
    question_type: str
    answer_type: str
    choices: list[str]  # of a question with several answers to choose from, of which `label` is the right one
    hint: str  # what is said before such a question
    group: str  # name of the question, where several items ask it with its choices in another order
    prompt: str  # the question as it is asked, where the data say the words
    ocr_tokens: list[str]  # what was read in the picture


class Key(NamedTuple):
    """One key of a batch."""

    dtypes: tuple[str, ...]  # admitted dtypes, the usual one first
    shapes: tuple[str, ...]  # admitted shapes; a letter is an axis (equal over the whole batch), a number its size
    meaning: str


BATCH: dict[str, Key] = {
    "image": Key(
        ("uint8", "float32"),
        ("B Y X 3", "B I Y X 3"),
        "pixels; uint8 is normalised inside the model, float32 is already normalised; I images per example",
    ),
    "ids": Key(("int32",), ("B T",), "token ids; what stands where `valid` is False has no meaning"),
    "valid": Key(("bool",), ("B T",), "True = a real token, begin and end tokens included"),
    "begins": Key(("bool",), ("B T",), "True = this token begins a word: what whole-word masking needs to know"),
    "alone_image": Key(("uint8", "float32"), ("M Y X 3",), "images alone, beside the pairs (data/mixture.py)"),
    "alone_ids": Key(("int32",), ("N U",), "token ids of texts alone, beside the pairs"),
    "alone_valid": Key(("bool",), ("N U",), "True = a real token of a text alone"),
    "alone_begins": Key(("bool",), ("N U",), "True = this token of a text alone begins a word"),
    "mask_ar": Key(("int32",), ("B T",), "1 = this token opens a new causal block: earlier ones do not see it"),
    "mask_loss": Key(("bool",), ("B T",), "True = this token is to be predicted; unshifted, the loss shifts"),
    "slot": Key(
        ("int32",),
        ("B T",),
        "which state of the row's images stands here: view * P + patch, or I * P, the learned newline; -1: a token",
    ),
    "sample": Key(("int32",), ("B T",), "number of the sample, where a row holds several that do not see each other"),
    "label": Key(("int32",), ("B",), "class index, for evaluation and classifiers"),
    "target": Key(("float32",), ("B C",), "soft target of each of C classes, e.g. annotators who agree"),
    "caption_ids": Key(("int32",), ("B W",), "token ids of a text to be written of the image, besides what `ids` ask"),
    "caption_valid": Key(("bool",), ("B W",), "True = a real token of that text"),
    "image_id": Key(("int32",), ("B",), "number of the picture; pairs of equal number are positives of each other"),
    "answer_ids": Key(("int32",), ("B A L",), "token ids of up to A answers to the question in `ids`"),
    "answer_valid": Key(("bool",), ("B A L",), "True = a real token of an answer"),
    "answer_weight": Key(("float32",), ("B A",), "weight of each answer in the loss; 0 = no answer stands here"),
    "index": Key(("int64", "int32"), ("B",), "position of the example in its source"),
}


def check_batch(batch: Mapping[str, Any], required: Iterable[str] = ()) -> None:
    """Compares a batch with the table: keys, dtypes, shapes, and that equal axis letters have equal sizes.

    Args:
      batch: anything with `.shape` and `.dtype` as values (numpy, jax, ShapeDtypeStruct).
      required: keys that must be there.

    Raises:
      UserError: names the key, what it is and what it should be.

    Example:
      >>> check_batch({"ids": np.zeros((2, 8), np.int32), "valid": np.ones((2, 8), bool)}, required=("ids",))
    """
    missing = [key for key in required if key not in batch]
    if missing:
        raise UserError(f"the batch lacks {missing}; it has {sorted(batch)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in batch.items():
        key = BATCH[choose("batch key", name, BATCH)]
        if not hasattr(value, "dtype") or not hasattr(value, "shape"):
            raise UserError(f"batch[{name!r}] is a {type(value).__name__}, expected an array")
        if str(value.dtype) not in key.dtypes:
            raise UserError(f"batch[{name!r}] has dtype {value.dtype}, expected {' or '.join(key.dtypes)}")
        _check_shape(name, tuple(value.shape), key.shapes, sizes)


def _check_shape(name: str, shape: tuple[int, ...], admitted: tuple[str, ...], sizes: dict) -> None:
    """Finds the admitted shape of the same rank and binds its letters; `sizes` maps letter -> (size, first key)."""
    expected = " or ".join(f"[{form.replace(' ', ', ')}]" for form in admitted)
    for form in admitted:
        axes = form.split()
        if len(axes) == len(shape):
            break
    else:
        raise UserError(f"batch[{name!r}] has shape {list(shape)}, expected {expected}")
    for axis, size in zip(axes, shape, strict=True):
        if axis.isdigit():
            if size != int(axis):
                raise UserError(f"batch[{name!r}] has shape {list(shape)}, expected {expected}")
            continue
        known, first = sizes.setdefault(axis, (size, name))
        if known != size:
            raise UserError(f"axis {axis} is {size} in batch[{name!r}] {list(shape)}, but {known} in batch[{first!r}]")
