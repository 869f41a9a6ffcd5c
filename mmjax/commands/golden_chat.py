"""Fixtures that are tables: chat templates (prompts, ids, labels), and the grids that pictures of many sizes get."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.commands.golden import Unable
from mmjax.core.errors import UserError
from mmjax.data import anyres, chat
from mmjax.data.chat_templates import TEMPLATES
from mmjax.weights import files

IGNORED, IMAGE_ID = -100, -200
PREFIX = "llava."


class WordTokenizer:
    """The fixtures' own: words with the blank before them, line breaks, and special tokens; ids are places in a list.

    As in LLaMA's vocabulary, a text that begins a row or stands after a special token gets a blank in front.
    """

    bos_id = 1

    def __init__(self, vocab: list[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(vocab)}

    def special(self, token: str) -> int:
        """The place of a piece."""
        if token not in self._ids:
            raise UserError(f"the fixture's vocabulary has no {token!r}")
        return self._ids[token]

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins."""
        return self.encode_more(" " + text)

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that continues."""
        return [self.special(piece) for piece in re.findall(r"\n|▁[^▁\n]*|[^▁\n]+", text.replace(" ", "▁"))]


def run_task(folder: pathlib.Path, task: str) -> Callable[[str], tuple[list[Any], list[Any]]]:
    """From the name of an output to (ours, the reference's), a value for every case.

    Args:
      folder: holds `<task>.json`.
      task: the template's name, behind "llava.".

    Raises:
      Unable: a template that mmjax does not have.
    """
    name = task.removeprefix(PREFIX)
    if not task.startswith(PREFIX) or name not in TEMPLATES:
        raise Unable(
            f"mmjax has no chat template {task!r}; there are {', '.join(PREFIX + known for known in TEMPLATES)}"
        )
    content = files.read_json(folder / f"{task}.json")
    tokenizer, template = WordTokenizer(content["vocab"]), TEMPLATES[name]
    made = [_case(case, template, tokenizer) for case in content["cases"]]

    def output(name: str) -> tuple[list[Any], list[Any]]:
        kinds = {"prompt": ("prompt", "generation_prompt"), "labels": ("labels", "input_ids", "supervised_text")}
        if name not in kinds:
            raise Unable(f"mmjax does not compute the output {name!r} of a chat template")
        ours = [{key: case[key] for key in kinds[name]} for case in made]
        wanted = [
            {key: value if (value := case.get(key)) is not None else ours[number][key] for key in kinds[name]}
            for number, case in enumerate(content["cases"])
        ]
        return ours, wanted

    return output


def _case(case: Mapping[str, Any], template: Any, tokenizer: WordTokenizer) -> dict[str, Any]:
    turns = [tuple(turn) for turn in case["conversation"]["turns"]]
    whole = chat.segments(chat.Conversation("case", turns), template)
    asked = chat.segments(chat.Conversation("case", [*turns[:-1], (turns[-1][0], None)]), template)
    row = chat.encode(whole, tokenizer, template.bos)
    ids = [IMAGE_ID if picture >= 0 else number for number, picture in zip(row.ids.tolist(), row.image, strict=True)]
    # The first text of a row has a blank in front in this vocabulary, and so has what is learned of the plain template.
    begins = " " if template.only_image else ""
    return {
        "prompt": chat.readable(whole),
        "generation_prompt": chat.readable(asked),
        "input_ids": ids,
        "labels": [number if mask else IGNORED for number, mask in zip(ids, row.mask_loss, strict=True)],
        "supervised_text": [begins + text for text in chat.learned(whole)],
    }


# ---------------------------------------------------------------- grids of tiles


def run_grids(folder: pathlib.Path, task: str) -> Callable[[str], tuple[list[Any], list[Any]]]:
    """The same for a table of picture sizes and the grids that they get; -1 where nothing is left."""
    content = files.read_json(folder / f"{task}.json")
    columns = content["columns"]
    made = [_grids(dict(zip(columns, row, strict=True)), content) for row in content["rows"]]

    def output(name: str) -> tuple[list[Any], list[Any]]:
        if any(name not in row for row in made):
            raise Unable(f"mmjax does not compute the output {name!r} of a table of grids")
        return [row[name] for row in made], [row[columns.index(name)] for row in content["rows"]]

    return output


def _grids(row: Mapping[str, int], content: Mapping[str, Any]) -> dict[str, int]:
    size, tile = anyres.Size(row["width"], row["height"]), content["image_size"]
    side = tile // content["patch_size"]
    found: dict[str, int] = {}
    for rule, prefix in (("original", "orig"), ("hf", "hf")):
        grid = anyres.select_grid(size, content["grid_pinpoints"], rule)
        small = anyres.fitted(size, grid)
        rows, columns = anyres.unpadded(size, anyres.Size(*(length // tile * side for length in grid)), rule)
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        left = high > 0 and wide > 0
        options: dict[str, Any] = {"first": 0, "newline": -1, "tile": tile, "side": side, "rule": rule}
        values = {
            "best_width": grid.width,
            "best_height": grid.height,
            "resized_width": small.width,
            "resized_height": small.height,
            "paste_x": (grid.width - small.width) // 2,
            "paste_y": (grid.height - small.height) // 2,
            "unpad_rows": high if left else -1,
            "unpad_cols": wide if left else -1,
            "num_tokens": len(anyres.slots(size, grid, **options)) if left else -1,
        }
        found |= {f"{prefix}_{name}": value for name, value in values.items()}
    return found
