"""The error for a name outside a closed set: it lists what there is and guesses what was meant."""

import difflib
from collections.abc import Iterable

from mmjax.core.errors import UserError


def choose(what: str, given: str, valid: Iterable[str]) -> str:
    """`given`, if it is one of `valid`.

    Args:
      what: names the thing and the place, as in "split of the source emoji".

    Raises:
      UserError: it is not; the message lists the valid ones and the closest of them.

    Example:
      >>> choose("split", "test", ("train", "test"))
      'test'
    """
    names = list(valid)
    if given in names:
        return given
    close = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UserError(f"unknown {what}: {given!r}; valid: {', '.join(names) or 'none'}{hint}")
