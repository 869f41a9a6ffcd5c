"""Published files of questions, statements and split captions: `vqa:`, `nlvr2:`, `snli_ve:`, `karpathy:`.

Each opens the annotations as their authors publish them, with `?root=` the folder of the images. They are read whole
when they are opened: the largest has some hundred thousand rows of short texts.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.decode import decode_image
from mmjax.data.example import NO_PICTURE
from mmjax.data.files.annotated import Annotated, field, image_folder, json_rows, read_json
from mmjax.data.files.base import captions, read_image, spell
from mmjax.data.files.paths import one_file

VERDICTS = ("contradiction", "neutral", "entailment")
"""Classes of SNLI-VE, in ALBEF's order."""
TRUTH = ("false", "true")
SPLITS = ("train", "restval", "val", "test")


class Statements:
    """NLVR2: statements about two pictures; an example has `pictures`, `texts`, `label` (1 = true), and `sentence_id`
    where its row has an identifier."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]]):
        self.name, self.rows = name, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The example at a position; BadExample if a picture cannot be read, IndexError beyond the end."""
        pictures = [decode_image(read_image(path)) for path in self.rows[int(index)]["paths"]]
        return {**self.without_image(index), "pictures": pictures}

    def without_image(self, index: int) -> dict[str, Any]:
        """The example at a position, each of its `pictures` NO_PICTURE and not read."""
        row = self.rows[int(index)]
        pictures = [NO_PICTURE] * len(row["paths"])
        named = {"sentence_id": row["sentence_id"]} if "sentence_id" in row else {}
        return {"key": row["key"], "pictures": pictures, "texts": captions(row["text"]), "label": row["label"], **named}

    def class_names(self, lang: str | None = None) -> list[str]:
        """The two verdicts."""
        return list(TRUTH)


def open_vqa(
    arg: str | None = None, *, root: str | None = None, annotations: str | None = None, pattern: str = "{id}.jpg"
) -> Annotated:
    """The source `vqa:QUESTIONS.json[?annotations=FILE&root=DIR&pattern=COCO_val2014_{id:012d}.jpg]`.

    Args:
      arg: VQA v2's questions (a mapping with `questions`), or a list of rows with image, question and answer(s), as
        ALBEF and BLIP publish theirs.
      annotations: VQA v2's answers; without them the examples have questions only.
      root: folder of the images; unless told, that of the file.
      pattern: name of an image's file; `{id}` is its number.

    Raises:
      UserError: no such file, or not of these forms.
    """
    kind = "vqa"
    path = one_file(kind, arg, "v2_OpenEnded_mscoco_val2014_questions.json")
    name = spell(
        kind, arg, {"root": root, "annotations": annotations, "pattern": None if pattern == "{id}.jpg" else pattern}
    )
    folder, content = image_folder(kind, root, path), read_json(kind, path, lines=False)
    given: dict[Any, Any] = {}
    if annotations is not None:
        notes = read_json(kind, one_file(kind, annotations, "v2_mscoco_val2014_annotations.json"), lines=False)
        given = {field(kind, n, "question_id", annotations): n for n in field(kind, notes, "annotations", annotations)}
    rows = []
    for i, item in enumerate(content if isinstance(content, list) else field(kind, content, "questions", path)):
        note = given.get(item.get("question_id"), item)
        answers = note.get("answers", note.get("answer", []))
        answers = (
            [answers] if isinstance(answers, str) else [a["answer"] if isinstance(a, Mapping) else a for a in answers]
        )
        if annotations is not None and not answers:
            raise UserError(f"vqa: {annotations} has no answers to question {item.get('question_id')!r}")
        file = item.get("image") or pattern.format(id=field(kind, item, "image_id", f"{path}, question {i}"))
        question = field(kind, item, "question", f"{path}, question {i}")
        row = {"key": str(item.get("question_id", i)), "path": os.path.join(folder, file), "texts": question,
               "question": question, "answers": answers}  # fmt: skip
        kinds = {k: note[k] for k in ("question_type", "answer_type") if k in note}
        rows.append({**row, **kinds})
    return Annotated(name, rows, root)


def open_nlvr2(arg: str | None = None, *, root: str | None = None) -> Statements:
    """The source `nlvr2:FILE.json[?root=DIR]`: one object a line, with identifier, sentence and label.

    The images of `dev-850-0-1` are `dev-850-0-img0.png` and `…-img1.png`, in ROOT or in ROOT/DIRECTORY where a row has
    `directory`, as the authors lay them out; rows may also name them, in a list `images`, as ALBEF's files do. In an
    identifier the last number but one counts the pairs of images of a sentence: the rest names the sentence.

    Raises:
      UserError: no such file, or not of this form.
    """
    kind = "nlvr2"
    path = one_file(kind, arg, "dev.json")
    folder, rows = image_folder(kind, root, path), []
    with_list = json_rows(kind, path)
    for i, item in enumerate(with_list):
        where = f"{path}, row {i}"
        label = str(field(kind, item, "label", where)).lower()
        if "images" in item:
            files, key = list(item["images"]), str(item.get("identifier", i))
        else:
            key = str(field(kind, item, "identifier", where))
            stem = os.path.join(str(item.get("directory", "")), key.rsplit("-", 1)[0])
            files = [f"{stem}-img{side}.png" for side in (0, 1)]
        if len(files) != 2:
            raise UserError(f"nlvr2: {where} has {len(files)} images; valid: two")
        parts = str(item.get("identifier", "")).rsplit("-", 2)
        named = {"sentence_id": f"{parts[0]}-{parts[2]}"} if len(parts) == 3 else {}
        rows.append({**named, "key": key, "paths": [os.path.join(folder, file) for file in files],
                     "text": field(kind, item, "sentence", where),
                     "label": TRUTH.index(choose(f"label of {where}", label, TRUTH))})  # fmt: skip
    if not rows:
        raise UserError(f"nlvr2: {path} has no rows")
    return Statements(spell(kind, arg, {"root": root}), rows)


def open_snli_ve(arg: str | None = None, *, root: str | None = None) -> Annotated:
    """The source `snli_ve:FILE.jsonl[?root=DIR]`: hypotheses about Flickr30k pictures with a gold label.

    Rows whose annotators did not agree (gold label "-") are left out, as in published numbers. ALBEF's form (a list
    with image, sentence, label) is read as well.

    Raises:
      UserError: no such file, or not of this form.
    """
    kind = "snli_ve"
    path = one_file(kind, arg, "snli_ve_dev.jsonl")
    folder, rows = image_folder(kind, root, path), []
    for i, item in enumerate(json_rows(kind, path)):
        where = f"{path}, row {i}"
        verdict = item["gold_label"] if "gold_label" in item else field(kind, item, "label", where)
        if verdict == "-":
            continue
        file = item["image"] if "image" in item else f"{field(kind, item, 'Flickr30K_ID', where)}.jpg"
        text = item["sentence2"] if "sentence2" in item else field(kind, item, "sentence", where)
        rows.append({"key": str(item.get("pairID", i)), "path": os.path.join(folder, file), "texts": text,
                     "label": VERDICTS.index(choose(f"label of {where}", verdict, VERDICTS))})  # fmt: skip
    return Annotated(spell(kind, arg, {"root": root}), rows, root, VERDICTS)


def open_karpathy(arg: str | None = None, *, split: str = "test", root: str | None = None) -> Annotated:
    """The source `karpathy:dataset_coco.json[?split=train|restval|val|test&root=DIR]`, several splits with commas.

    Raises:
      UserError: no such file, or not of this form, or an unknown split.
    """
    kind = "karpathy"
    path = one_file(kind, arg, "dataset_coco.json")
    splits = [choose("split of the source karpathy", each, SPLITS) for each in split.split(",")]
    folder, content, rows = image_folder(kind, root, path), read_json(kind, path, lines=False), []
    for i, item in enumerate(field(kind, content, "images", path)):
        where = f"{path}, image {i}"
        if field(kind, item, "split", where) not in splits:
            continue
        file = field(kind, item, "filename", where)
        texts = [field(kind, each, "raw", where) for each in field(kind, item, "sentences", where)]
        rows.append({"key": os.path.splitext(file)[0], "path": os.path.join(folder, item.get("filepath", ""), file),
                     "texts": texts, "image_id": int(item.get("cocoid", item.get("imgid", i)))})  # fmt: skip
    return Annotated(spell(kind, arg, {"split": split, "root": root}), rows, root)
