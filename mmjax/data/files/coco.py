"""`coco:` - captions as the COCO data sets have them: one JSON file with `images` and `annotations`."""

import json
import os
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.example import BadExample
from mmjax.data.files.base import FileSource, Record, captions, check_text, read_named_image, spell
from mmjax.data.files.paths import one_file, one_folder, unreadable


class Coco(FileSource):
    """Use `open`. Items in the order of `images`, captions in the order of `annotations`."""

    def __init__(self, name: str, path: str, root: str | None):
        """Reads the whole file.

        Raises:
          UserError: it is not such a file, or has no images or no captions.
        """
        self.name, self.root = name, root
        self.folder = os.path.dirname(path) if root is None else root
        images, notes = _load(path)
        # (file name, captions); what is malformed stays None and is counted when it is read
        self.items: list[tuple[str | None, list[Any]]] = []
        place: dict[Any, int] = {}
        for image in images:
            known = isinstance(image, dict) and isinstance(image.get("file_name"), str)
            if isinstance(image, dict) and isinstance(image.get("id"), int | str):
                place[image["id"]] = len(self.items)
            self.items.append((image["file_name"] if known else None, []))
        strays = 0
        for note in notes:
            owner = note.get("image_id") if isinstance(note, dict) else None
            if isinstance(owner, int | str) and owner in place and "caption" in note:
                self.items[place[owner]][1].append(note["caption"])
            else:
                strays += 1
        if strays == len(notes):
            raise UserError(
                f"coco: none of the {len(notes)} annotations in {path} is the caption of one of its images; each "
                "needs image_id and caption (files for object detection have none: take captions_*.json)"
            )

    def __len__(self) -> int:
        return len(self.items)

    def _read(self, index: int) -> Record:
        key, path, texts = self._described(index)
        return Record(key, read_named_image(path, self.root), texts)

    def image_file(self, index: int) -> tuple[str, str] | None:
        """See `FileSource`."""
        return self._described(index)[:2]

    def _described(self, index: int) -> tuple[str, str, list[str]]:
        """Key, path of the image, captions."""
        file, texts = self.items[index]
        if file is None:
            raise BadExample("malformed record", f"images[{index}] has no file_name")
        found = captions(texts)
        return os.path.splitext(check_text(file))[0], os.path.join(self.folder, file), found


def _load(path: str) -> tuple[list[Any], list[Any]]:
    try:
        with builtin_open(path, "rb") as file:
            # Bytes that are not UTF-8 spoil the captions that they are in, not the file.
            content = json.loads(file.read().decode("utf-8", "surrogateescape"))
    except OSError as error:
        raise unreadable("coco", path, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"coco: {path} is not JSON: {error}") from None
    for part in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            has = ", ".join(content) if isinstance(content, dict) else f"a {type(content).__name__}"
            raise UserError(f"coco: {path} has no list {part!r}; it has {has or 'nothing'}")
        if not content[part]:
            raise UserError(f"coco: the list {part!r} in {path} is empty")
    return content["images"], content["annotations"]


builtin_open = open


def open(arg: str | None = None, *, root: str | None = None) -> Coco:
    """The source `coco:FILE.json[?root=images/]`.

    Args:
      arg: a captions file, as captions_val2017.json.
      root: folder of the images, seen from the working directory; unless told, that of the file.

    Raises:
      UserError: no such file, no captions in it, or no such folder.
    """
    path = one_file("coco", arg, "captions.json")
    folder = None if root is None else one_folder("coco", root, "root=")
    return Coco(spell("coco", arg, {"root": root}), path, folder)
