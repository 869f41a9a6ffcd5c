"""Published files of questions that systems are measured on: `pope:`, `textvqa:`, `scienceqa:`, `questions:`.

Each opens the file as its authors publish it, with `?root=` the folder of the images. `mmbench:` has a file of its own.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.files.annotated import (
    Annotated,
    Questions,
    field,
    image_folder,
    json_rows,
    read_json,
    text_field,
)
from mmjax.data.files.base import spell
from mmjax.data.files.paths import find_files, one_file, one_folder

YES_NO = ("yes", "no")


def open_pope(arg: str | None = None, *, root: str | None = None) -> Annotated:
    """The source `pope:output/coco[?root=DIR]`: POPE's questions whether something is there, one object a line.

    An example's `question_type` is what stands behind `_pope_` in its file's name: random, popular, adversarial.

    Args:
      arg: a file such as coco_pope_random.json, a folder of them, or a pattern.
      root: folder of the images; unless told, that of the file.

    Raises:
      UserError: no such file, or not of this form.
    """
    kind, rows = "pope", list[dict[str, Any]]()
    for path in find_files(kind, arg, (".json", ".jsonl")):
        folder = image_folder(kind, root, path)
        category = os.path.splitext(os.path.basename(path))[0].rpartition("_pope_")[2]
        for i, item in enumerate(json_rows(kind, path)):
            where = f"{path}, row {i}"
            question, file = (text_field(kind, item, name, where) for name in ("text", "image"))
            label = choose(f"label of {where}", str(field(kind, item, "label", where)), YES_NO)
            number = item.get("question_id", i)
            rows.append({"key": f"{category}/{number}", "path": os.path.join(folder, file), "texts": question,
                         "question": question, "answers": [label], "question_type": category})  # fmt: skip
    return Annotated(spell(kind, arg, {"root": root}), rows, root)


def open_textvqa(
    arg: str | None = None, *, root: str | None = None, ocr: str | None = None, pattern: str = "{id}.jpg"
) -> Annotated:
    """The source `textvqa:TextVQA_0.5.1_val.json[?ocr=TextVQA_Rosetta_OCR_v0.2_val.json&root=DIR&pattern={id}.jpg]`.

    Args:
      arg: a mapping whose `data` has rows of image_id, question and answers (none in the test split).
      root: folder of the images; unless told, that of the file.
      ocr: what an OCR read in each picture: a mapping whose `data` has rows of image_id and ocr_tokens. The examples
        then have `ocr_tokens`.
      pattern: name of an image's file; `{id}` is its image_id.

    Raises:
      UserError: no such file, not of this form, or an OCR file that lacks a picture.
    """
    kind = "textvqa"
    path = one_file(kind, arg, "TextVQA_0.5.1_val.json")
    folder, read = image_folder(kind, root, path), dict[Any, list[str]]()
    if ocr is not None:
        tokens = one_file(kind, ocr, "TextVQA_Rosetta_OCR_v0.2_val.json")
        for i, item in enumerate(_data(kind, tokens)):
            where = f"{tokens}, row {i}"
            read[field(kind, item, "image_id", where)] = list(map(str, field(kind, item, "ocr_tokens", where)))
    rows = []
    for i, item in enumerate(_data(kind, path)):
        where = f"{path}, row {i}"
        question, image = text_field(kind, item, "question", where), field(kind, item, "image_id", where)
        if ocr is not None and image not in read:
            raise UserError(f"textvqa: {ocr} has no tokens of the image {image} of {where}")
        seen = {"ocr_tokens": read[image]} if ocr is not None else {}
        rows.append({"key": str(item.get("question_id", i)), "path": os.path.join(folder, pattern.format(id=image)),
                     "texts": question, "question": question, **seen,
                     "answers": list(item.get("answers", ()))})  # fmt: skip
    named = {"root": root, "ocr": ocr, "pattern": None if pattern == "{id}.jpg" else pattern}
    return Annotated(spell(kind, arg, named), rows, root)


def _data(kind: str, path: str) -> list[Any]:
    rows = field(kind, read_json(kind, path, lines=False), "data", path)
    if not isinstance(rows, list):
        raise UserError(f"{kind}: data of {path} is a {type(rows).__name__}; valid: a list of rows")
    return rows


def open_scienceqa(
    arg: str | None = None,
    *,
    split: str = "test",
    splits: str | None = None,
    root: str | None = None,
    asked: str | None = None,
) -> Questions:
    """The source `scienceqa:problems.json[?split=test&splits=pid_splits.json&root=images/test&asked=FILE]`.

    An example has `question`, `choices`, `label` (the number of the right one), `hint`, and its subject as
    `question_type`; `image` where the problem has one.

    Args:
      arg: ScienceQA's problems, a mapping from their numbers.
      split: train, val, test or what else `splits` has.
      splits: which problems a split has; unless told, pid_splits.json beside the problems.
      root: folder in which each problem has a folder of its number; unless told, images/SPLIT beside the problems.
      asked: LLaVA's file of the problems as conversations (llava_test_CQM-A.json): an example's `prompt` is then the
        first turn of it, and the split the problems that it has.

    Raises:
      UserError: no such file, no such split, or not of this form.
    """
    kind = "scienceqa"
    path = one_file(kind, arg, "problems.json")
    beside, problems = os.path.dirname(path), read_json(kind, path, lines=False)
    named = {"split": None if split == "test" else split, "splits": splits, "root": root, "asked": asked}
    prompts: Mapping[str, str] | None = None
    if asked is not None:
        prompts = _asked(kind, one_file(kind, asked, "llava_test_CQM-A.json"))
        numbers, listed = list(prompts), asked
    else:
        listed = one_file(kind, splits or os.path.join(beside, "pid_splits.json"), "pid_splits.json")
        parts = read_json(kind, listed, lines=False)
        numbers = parts[choose(f"split of {listed}", split, list(parts))]
    folder = os.path.join(beside, "images", split) if root is None else one_folder(kind, root, "root=")
    rows = []
    for number in map(str, numbers):
        if number not in problems:
            raise UserError(f"scienceqa: {path} has no problem {number}, which {listed} names")
        row = _problem(kind, problems[number], f"{path}, problem {number}")
        if file := problems[number].get("image"):
            row["path"] = os.path.join(folder, number, file)
        rows.append({**row, "key": number, **({"prompt": prompts[number]} if prompts is not None else {})})
    return Questions(spell(kind, arg, named), rows, root)


def _problem(kind: str, item: Any, where: str) -> dict[str, Any]:
    """A row of one of ScienceQA's problems."""
    question, choices = text_field(kind, item, "question", where), field(kind, item, "choices", where)
    right = field(kind, item, "answer", where)
    if not isinstance(choices, list) or len(choices) < 2 or not isinstance(right, int):
        raise UserError(f"{kind}: {where} has choices = {choices!r} and answer = {right!r}; valid: two or more, and "
                        "the number of the right one")  # fmt: skip
    if not 0 <= right < len(choices):
        raise UserError(f"{kind}: {where} has answer = {right}; valid: 0 to {len(choices) - 1}")
    return {"question": question, "choices": list(map(str, choices)), "label": right, "hint": item.get("hint") or "",
            "question_type": str(item.get("subject", ""))}  # fmt: skip


def _asked(kind: str, path: str) -> dict[str, str]:
    """The first turns of LLaVA's conversations by their ids, without the pictures' places."""
    found = {}
    for i, item in enumerate(json_rows(kind, path)):
        where = f"{path}, row {i}"
        turns = field(kind, item, "conversations", where)
        if not isinstance(turns, Sequence) or not turns:
            raise UserError(f"{kind}: {where} has no turn in its conversations")
        prompt = text_field(kind, turns[0], "value", where).replace("<image>", "").strip()
        found[str(field(kind, item, "id", where))] = prompt
    return found


def open_questions(arg: str | None = None, *, root: str | None = None) -> Questions:
    """The source `questions:questions.jsonl[?root=DIR]`: questions alone, as LLaVA-Bench and MM-Vet have them.

    Args:
      arg: rows of question_id, text, and image and category where they have one (LLaVA's files, one object a line); or
        a mapping from ids to question and imagename (mm-vet.json).
      root: folder of the images; unless told, that of the file.

    Raises:
      UserError: no such file, or not of this form.
    """
    kind = "questions"
    path = one_file(kind, arg, "questions.jsonl")
    folder, whole = image_folder(kind, root, path), path.lower().endswith(".json")
    content = read_json(kind, path, lines=False) if whole else json_rows(kind, path)
    if isinstance(content, Mapping):
        content = [{"question_id": key, "text": field(kind, item, "question", f"{path}, {key}"),
                    "image": item.get("imagename")} for key, item in content.items()]  # fmt: skip
    rows = []
    for i, item in enumerate(content):
        where = f"{path}, row {i}"
        number, question = field(kind, item, "question_id", where), text_field(kind, item, "text", where)
        row = {"key": str(number), "question_id": number, "question": question,
               "question_type": str(item.get("category", ""))}  # fmt: skip
        rows.append({**row, "path": os.path.join(folder, item["image"])} if item.get("image") else row)
    return Questions(spell(kind, arg, {"root": root}), rows, root)
