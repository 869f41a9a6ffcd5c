"""`easy_vqa` - coloured shapes with questions and answers: the data of the package easy-vqa, or files laid out so.

An item is an image; its texts are its questions, each followed by the answer, and `questions` has both apart.
Source: Victor Zhou, easy-VQA, https://github.com/vzhou842/easy-VQA (MIT). 4,000 images to train on, 1,000 to test.
"""

import importlib.util
import json
import os
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.example import BadExample
from mmjax.data.files.base import FileSource, Record, captions, check_text, read_image, spell
from mmjax.data.files.paths import one_folder, unreadable

SPLITS = ("train", "test")


class EasyVqa(FileSource):
    """Use `open`. Images in the order in which the questions name them."""

    def __init__(self, name: str, folder: str):
        """Reads FOLDER/questions.json: a list of [question, answer, image number].

        Raises:
          UserError: there is no such file, or it holds something else.
        """
        self.name, self.folder = name, folder
        self.items: list[tuple[str, list[tuple[Any, Any]]]] = []
        place: dict[str, int] = {}
        for row in _load(os.path.join(folder, "questions.json")):
            question, answer, image = row if isinstance(row, list) and len(row) == 3 else (None, row, None)
            key = str(image) if image is not None else f"malformed {len(self.items)}"
            if key not in place:
                place[key] = len(self.items)
                self.items.append((key, []))
            self.items[place[key]][1].append((question, answer))

    def __len__(self) -> int:
        return len(self.items)

    def _read(self, index: int) -> Record:
        key, pairs = self.items[index]
        wrong = [pair for pair in pairs if not all(isinstance(part, str) for part in pair)]
        if wrong:
            raise BadExample("malformed record", f"not [question, answer, image]: {str(wrong[0][1])[:80]}")
        texts = captions([f"{question} {answer}" for question, answer in pairs])
        image = read_image(os.path.join(self.folder, "images", f"{check_text(key)}.png"))
        return Record(key, image, texts, None, {"questions": [list(pair) for pair in pairs]})


def _load(path: str) -> list[Any]:
    try:
        with builtin_open(path, "rb") as file:
            rows = json.loads(file.read().decode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        raise UserError(f"easy_vqa: there is no {path}; a split is a folder with questions.json and images/") from None
    except OSError as error:
        raise unreadable("easy_vqa", path, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"easy_vqa: {path} is not JSON: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"easy_vqa: {path} is not a list of [question, answer, image number], or an empty one")
    return rows


builtin_open = open


def open(arg: str | None = None, *, root: str | None = None) -> EasyVqa:
    """The source `easy_vqa[:train|test][?root=DIR]`.

    Args:
      arg: the split, train unless told.
      root: folder with a folder for each split, in which are questions.json and images/NUMBER.png; unless told, the
        data of the installed package easy-vqa.

    Raises:
      UserError: an unknown split, no such folder, or the package is not installed.
    """
    split = choose("split of the source easy_vqa", arg or "train", SPLITS)
    name = spell("easy_vqa", split, {"root": root})
    if root is not None:
        return EasyVqa(name, os.path.join(one_folder("easy_vqa", root, "root="), split))
    package = importlib.util.find_spec("easy_vqa")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "easy_vqa: the package easy-vqa is not installed: pip install 'mmjax[easy_vqa]', or give ?root=DIR"
        )
    return EasyVqa(name, os.path.join(package.submodule_search_locations[0], "data", split))
