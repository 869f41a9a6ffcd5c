"""Which positions of a text are tokens: padding follows them, and says so nowhere but in `valid`."""

from typing import Any

import numpy as np

from mmjax.core.errors import UserError


def check_right_padded(valid: Any, where: str) -> None:
    """Raises UserError for a row of bool[B, T] that is not its tokens first and its padding behind them.

    Text towers count `valid` to find the end of a text. Padding in front or between would move every token to another
    position and the end to another token, and nothing would fail.

    Args:
      valid: on the host; True for tokens.
      where: whose it is, for the message.
    """
    rows = np.asarray(valid, bool)
    tokens = rows.sum(axis=1)
    wrong = (tokens == 0) | (rows != (np.arange(rows.shape[1])[None] < tokens[:, None])).any(axis=1)
    if not wrong.any():
        return
    row = int(np.argmax(wrong))
    first, last = (int(np.argmax(rows[row])), int(np.flatnonzero(rows[row])[-1])) if tokens[row] else (0, 0)
    if not tokens[row]:
        what = "has no token"
    elif tokens[row] == last - first + 1:
        what = f"has its padding on the left: tokens at {first} to {last}"
    else:
        what = f"has a hole: tokens from {first} to {last}, but not at {first + int(np.argmin(rows[row, first:]))}"
    raise UserError(
        f"{where}: row {row} {what}; the text tower reads texts padded on the right: the tokens, at least "
        f"one, at 0, 1, …, and only padding behind them"
    )
