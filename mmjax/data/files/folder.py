"""`folder:` - images in a folder, with captions in .txt files beside them, or with a sub-folder for each class."""

import os
from collections.abc import Iterator

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.example import BadExample
from mmjax.data.files.base import FileSource, Record, captions, decode_text, read_image, spell
from mmjax.data.files.paths import one_folder

SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ico", ".ppm", ".pgm",
    ".pbm", ".pnm",
))  # fmt: skip
LAYOUTS = ("captions", "labels")


class Folder(FileSource):
    """Use `open`. Items in the order of their paths without suffix."""

    def __init__(self, name: str, root: str, layout: str | None, lines: bool):
        """Lists the folder.

        Raises:
          UserError: it has no images, or neither captions nor sub-folders.
        """
        self.name, self.root, self.lines = name, root, lines
        found = sorted(files_below(root))
        images = [path for path in found if suffix(path) in SUFFIXES]
        if not images:
            raise UserError(_nothing(root, found))
        stems = {os.path.splitext(path)[0] for path in images}
        texts = {os.path.splitext(path)[0] for path in found if suffix(path) == ".txt"}
        if layout is None:
            layout = "captions" if stems & texts else "labels"
            if layout == "labels" and not any(os.sep in path for path in images):
                raise UserError(
                    f"folder:{root} has {len(images)} images, but neither captions (image.txt beside image.jpg) nor "
                    "sub-folders (one for each class)"
                )
        self.layout = layout
        # A caption without its image is an item, too: one whose file is missing.
        alone = texts - stems if layout == "captions" else set()
        items = [(*os.path.splitext(path), True) for path in images] + [(stem, "", False) for stem in alone]
        self.items = [(stem, end) for stem, end, _ in sorted(items)]
        self.captioned = texts
        count: dict[str, int] = {}
        for stem, _ in self.items:
            count[stem] = count.get(stem, 0) + 1
        self.doubled = {stem for stem, number in count.items() if number > 1}
        if layout == "labels":
            self.classes = tuple(sorted({path.split(os.sep)[0] for path in images if os.sep in path}))
            if not self.classes:
                raise UserError(f"folder:{root} has no sub-folder with images: a sub-folder is a class")

    def __len__(self) -> int:
        return len(self.items)

    def _read(self, index: int) -> Record:
        stem, end = self.items[index]
        path = os.path.join(self.root, stem)
        key = (stem + end if stem in self.doubled else stem).replace(os.sep, "/")
        if self.layout == "labels":
            if os.sep not in stem:
                raise BadExample("malformed record", f"{path}{end} is in no sub-folder: it has no class")
            name = stem.split(os.sep)[0]
            label, extra = self._named(name)
            return Record(key, read_image(path + end), [name.replace("_", " ")], label, extra)
        if stem not in self.captioned:
            raise BadExample("missing file", f"{path}.txt: no caption beside {os.path.basename(path)}{end}")
        texts = self._captions(path + ".txt")
        if not end:
            raise BadExample("missing file", f"no image beside {path}.txt")
        return Record(key, read_image(path + end), texts)

    def _captions(self, path: str) -> list[str]:
        try:
            with builtin_open(path, "rb") as file:
                text = decode_text(file.read())
        except OSError as error:
            raise BadExample("missing file", f"{path}: {error.strerror}") from None
        return captions(text.removeprefix("\ufeff").splitlines() if self.lines else text.removeprefix("\ufeff"))


builtin_open = open


def files_below(root: str) -> Iterator[str]:
    """Paths relative to a folder of all files below it; hidden ones are left out, links are followed once."""
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith((".", "__MACOSX")))
        start = os.path.relpath(folder, root)
        yield from (
            name if start == os.curdir else os.path.join(start, name) for name in names if not name.startswith(".")
        )


def suffix(path: str) -> str:
    """The suffix in small letters, as ".jpg"."""
    return os.path.splitext(path)[1].lower()


def _nothing(root: str, found: list[str]) -> str:
    kinds = sorted({suffix(path) or "no suffix" for path in found})
    has = f"{len(found)} files ({', '.join(kinds[:8])})" if found else "no files"
    return f"folder:{root} has no images: it was searched for *{', *'.join(sorted(SUFFIXES))} and has {has}"


def open(arg: str | None = None, *, layout: str | None = None, lines: bool = False) -> Folder:
    """The source `folder:PATH[?layout=captions|labels&lines=true]`.

    Args:
      arg: the folder; it is searched with all folders below it.
      layout: captions (the text beside `a.jpg` is `a.txt`) or labels (the first sub-folder is the class; its name,
        with blanks for underscores, is the text). Unless told, captions if there is one, or else labels.
      lines: every line of a .txt is a caption of its own, not all of it one caption.

    Raises:
      UserError: no such folder, no image in it, or images without captions and sub-folders.
    """
    root = one_folder("folder", arg)
    if layout is not None:
        choose("layout of the source folder", layout, LAYOUTS)
    return Folder(spell("folder", arg, {"layout": layout, "lines": lines}), root, layout, lines)
