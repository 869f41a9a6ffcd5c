"""Which column of a table holds the image, the texts, the label and the key: as the spec says, or by usual names."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.example import Example

# Names that are tried when the spec does not say, the most usual first.
IMAGE = (
    "image", "image_path", "img_path", "path", "filepath", "file_path", "filename", "file_name", "file", "img", "jpg",
    "png", "webp", "url",
)  # fmt: skip
TEXT = (
    "text", "texts", "caption", "captions", "title", "sentence", "sentences", "txt", "description", "alt_text",
)  # fmt: skip
LABEL = ("label", "class", "class_name", "category")
KEY = ("key", "__key__", "id", "uid")


class Columns(NamedTuple):
    """Names of columns."""

    image: str
    texts: tuple[str, ...]  # empty: the name of the class is the text
    label: str | None
    key: str | None  # None: the image's path without suffix, or the position
    extra: tuple[str, ...]  # carried into the example under their own names

    @property
    def used(self) -> list[str]:
        """All of them, each once."""
        named = (self.image, *self.texts, self.label, self.key, *self.extra)
        return list(dict.fromkeys(name for name in named if name is not None))


def pick_columns(
    available: Iterable[str],
    where: str,
    *,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    key: str | None = None,
    extra: str | None = None,
) -> Columns:
    """The columns of a table; `text` and `extra` may name several with commas.

    Args:
      available: what the table has.
      where: names the table in errors.
      label: "": there is none, whatever the columns are called.

    Raises:
      UserError: a named column is not there, or none of the usual names is; the message lists the table's columns.

    Example:
      >>> pick_columns(["url", "caption"], "pairs.csv").texts
      ('caption',)
    """
    names = list(available)

    def named(option: str, given: str) -> str:
        return choose(f"column {option}={given} of {where}", given, names)

    def usual(candidates: Sequence[str]) -> str | None:
        return next((name for name in candidates if name in names), None)

    picture = named("image", image) if image else usual(IMAGE)
    if picture is None:
        raise UserError(
            f"{where} has no column for the image; columns: {', '.join(names) or 'none'}; say which with ?image=COLUMN"
        )
    classes = named("label", label) if label else usual(LABEL) if label is None else None
    first = usual(TEXT)
    texts = tuple(named("text", name) for name in text.split(",")) if text else (first,) if first else ()
    if not texts and classes is None:
        raise UserError(
            f"{where} has no column for the caption; columns: {', '.join(names)}; say which with ?text=COLUMN "
            "(or ?label=COLUMN, where the name of the class is the text)"
        )
    more = tuple(named("extra", name) for name in extra.split(",")) if extra else ()
    taken = [name for name in more if name in Example.__annotations__]
    if taken:
        raise UserError(f"{where}: extra={taken[0]} would replace the example's own {taken[0]!r}; rename the column")
    return Columns(picture, texts, classes, named("key", key) if key else usual(KEY), more)
