"""`text:` - texts alone, one on each line of a file: what masked language modelling reads (data/mixture.py)."""

import os

from mmjax.data.example import Example
from mmjax.data.files.base import decode_text, spell
from mmjax.data.files.lines import Lines, scan_lines
from mmjax.data.files.paths import find_files


class TextLines:
    """Use `open`. Item i is the i-th line that is not blank: `texts` holds it; there is no image."""

    def __init__(self, name: str, lines: Lines) -> None:
        self.name, self.lines = name, lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example:
        """The example at a position.

        Raises:
          BadExample: the line is not UTF-8.
          IndexError: there is no such position.
        """
        place = int(index)
        if not 0 <= place < len(self):
            raise IndexError(f"item {place} of {len(self)} in {self.name}")
        first = int(self.lines.offsets[place])  # byte
        key = f"{os.path.basename(self.lines.file(place))}:{first}"
        return {"key": key, "texts": [decode_text(self.lines.read(place)).strip()]}

    def __repr__(self) -> str:
        return f"<{self.name}, {len(self)} items>"


def open(arg: str | None = None) -> TextLines:
    """The source `text:PATTERN`.

    Args:
      arg: a file, a folder of *.txt, or a pattern with `*`, `{0..9}` or `{a,b}`.

    Raises:
      UserError: no such file, or nothing in it.
    """
    return TextLines(spell("text", arg, {}), Lines("text", find_files("text", arg, (".txt",)), scan_lines))
