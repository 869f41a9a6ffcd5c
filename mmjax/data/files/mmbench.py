"""`mmbench:` - MMBench's tables of multiple choices, whose rows hold their pictures."""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.decode import decode_image
from mmjax.data.example import BadExample
from mmjax.data.files.base import spell
from mmjax.data.files.csv import Csv
from mmjax.data.files.paths import one_file

LETTERS = "ABCDEFGH"
NOTHING = ("", "nan", "none")  # what stands in a cell without content, in any case
ROTATED = 1_000_000  # a question's index, plus this as often as its options are rotated
REFERENCE = 64  # characters: what is longer is a picture, not the index of the row that has it


class MMBench(Csv):
    """Use `open`. Rows are read when they are asked for: the tables have some hundred megabytes."""

    def __getitem__(self, index: int) -> Any:
        """`question`, `hint`, `choices`, `label` where the table has answers, `group`, `question_type` and `image`.

        `group` is the index without its rotations: rows of one group are the same question, its options in another
        order.

        Raises:
          BadExample: the row cannot be used. IndexError: there is none.
        """
        place = int(index)
        if not 0 <= place < len(self):
            raise IndexError(f"item {place} of {len(self)} in {self.name}")
        row = self._row(place)
        key, where = row["index"], f"row of index {row['index']}"
        if not key.isdecimal():
            raise BadExample("malformed record", f"row {place} has the index {key!r}, which is no number")
        choices = list(itertools.takewhile(_there, (row[letter] for letter in LETTERS if letter in row)))
        if not _there(row["question"]) or len(choices) < 2:
            raise BadExample("malformed record", f"{where} has no question, or fewer than two options", key)
        example: dict[str, Any] = {
            "key": key, "group": str(int(key) % ROTATED), "question": row["question"], "choices": choices,
            "hint": row["hint"] if _there(row.get("hint", "")) else "",
            "question_type": row["category"] if _there(row.get("category", "")) else "",
        }  # fmt: skip
        if _there(answer := row.get("answer", "")):
            if answer not in LETTERS[: len(choices)]:
                raise BadExample(
                    "malformed record", f"{where} has the answer {answer!r} of {len(choices)} options", key
                )
            example["label"] = LETTERS.index(answer)
        return {**example, "image": decode_image(self._picture(row, where))}

    def _picture(self, row: Mapping[str, str], where: str) -> bytes:
        """The picture's bytes; a short cell is the index of the row that has it."""
        cell = row["image"]
        if 0 < len(cell) <= REFERENCE and cell.isdecimal():
            if cell not in self._places:
                raise BadExample(
                    "missing file", f"{where} has the picture of row {cell}, which is not there", row["index"]
                )
            cell = self._row(self._places[cell])["image"]
        return self._image(cell)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {key: place for place, key in self._keys()}

    def _keys(self) -> Iterator[tuple[int, str]]:
        for place in range(len(self)):
            try:
                yield place, self._row(place)["index"]
            except BadExample:
                continue  # counted when it is read


def _there(cell: str) -> bool:
    return cell.strip().lower() not in NOTHING


def open(arg: str | None = None) -> MMBench:
    """The source `mmbench:mmbench_dev_20230712.tsv`, tab separated: index, question, hint, A to D, answer, category,
    image (base64, or the index of the row that has it).

    Raises:
      UserError: no such file, or a column that is not there.
    """
    kind = "mmbench"
    path = one_file(kind, arg, "mmbench_dev_20230712.tsv")
    options = {"image": "image", "text": "question", "label": "", "key": "index", "extra": None}
    source = MMBench(spell(kind, arg, {}), (path,), sep=b"\t", root=None, inline=True, options=options)
    missing = [name for name in ("A", "B") if name not in source.header]
    if missing:
        raise UserError(f"mmbench: {path} has no column {missing[0]!r}; it has {', '.join(source.header)}")
    if not len(source):
        raise UserError(f"mmbench: {os.path.basename(path)} has no rows")
    return source
