"""What the terminal says of examples that could not be used: how many of each source, why, and which."""

import sys
from collections import Counter
from collections.abc import Sequence

from mmjax.evals.base import LeftOut

_NAMED = 5  # of each source


def lines(left_out: Sequence[LeftOut]) -> list[str]:
    """For each source a line with the counts by reason, and a line for each of the first few."""
    said = []
    for source in dict.fromkeys(each.source for each in left_out):
        mine = list(dict.fromkeys(each for each in left_out if each.source == source))  # read twice, counted once
        reasons = Counter(each.why.partition(":")[0] for each in mine)
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        said.append(f"{source}: {len(mine)} left out ({counts})")
        said += [f"  {each.key or each.index}: {each.why}" for each in mine[:_NAMED]]
        said += [f"  and {len(mine) - _NAMED} more"] if len(mine) > _NAMED else []
    return said


def tell(left_out: Sequence[LeftOut]) -> None:
    """Prints `lines` to stderr."""
    for line in lines(left_out):
        print(line, file=sys.stderr)
