"""The exception for mistakes that a user can correct, and the one for an item of data that cannot be used."""


class UserError(ValueError):
    """A mistake in a config, a path, a checkpoint or a data set.

    The message names the thing, the place and what would be valid; the command line prints it alone, without a
    traceback, and exits with code 2.
    """


# Why an item of a source cannot be used -> what that means.
REASONS = {
    "missing file": "the file that the item names is not there",
    "empty file": "the file has no bytes",
    "not an image": "the bytes are of another kind (a web page, text) or of no known image format",
    "truncated image": "the image ends before its last row",
    "corrupt image": "the decoder fails on the bytes",
    "image too large": "more pixels than the limit: a decompression bomb, or a scan",
    "bad text encoding": "the text is not UTF-8",
    "empty caption": "no text is left after white space is removed",
    "malformed record": "the line, row or member cannot be parsed, or lacks a column",
    "empty answer": "a turn of a conversation has an answer without words",
    "wrong roles": "the speakers of a conversation do not take turns, or are not known",
    "wrong pictures": "a conversation names more or fewer pictures than it has",
    "nothing to learn": "no token of a conversation is to be predicted, or all that are lie beyond the length",
}


class BadExample(Exception):
    """An item of a source cannot be used. Training takes another one in its place and counts this one.

    Args:
      reason: one of `REASONS`.
      detail: what was found, for the ledger: a path, a size, the decoder's words.
      key: the item's name, if it is known.
    """

    def __init__(self, reason: str, detail: str = "", key: str = ""):
        if reason not in REASONS:
            raise ValueError(f"reason {reason!r}; valid: {', '.join(REASONS)}")
        super().__init__(reason, detail, key)  # what pickling hands on
        self.reason, self.detail, self.key = reason, detail, key

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
