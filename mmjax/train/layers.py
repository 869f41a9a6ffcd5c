"""How deep a parameter lies, by its path: below the blocks of its tower, in one of them, or above them.

Layer-wise learning rates (BEiT: Bao et al. 2021, §2.6; BEiT-3 as released) fall with that depth.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from mmjax.core import trees
from mmjax.core.errors import UserError

BELOW, ABOVE = "below", "above"
FUSION = "fusion"  # the tower that reads what modules without blocks embed (VLMo, BEiT-3)
# Stacks that are one tower, in the order in which a token passes them.
_STACKS = ("transformer", "low", "top", "text", "fusion")
_BLOCK = re.compile(r"(?P<stack>.+?)/(?:block_(?P<block>\d+)|layer(?P<group>\d+)_(?P<number>\d+))/")
# What stands in a tower, or in a module that embeds, besides blocks.
_INSIDE = (
    (BELOW, re.compile(r"patch|cls|pos|mask|embed|types|norm|norm_pre|conv\d|bn\d")),
    (ABOVE, re.compile(r"norm_post|norm_final\w*|attnpool|head\w*|pool\w*")),
)
# Modules beside the towers. A table of relative positions that all blocks share is above them, as BEiT has it.
_BESIDE = (
    (BELOW, re.compile(r"types")),
    (ABOVE, re.compile(r"\w*(proj|head|pool|pooler|norm|scale)|words?|patches|itm|fc\d|tau|bias")),
)

Block = tuple[int, int, int]  # place of the stack, stage of a ResNet, number


def towers(paths: Iterable[str]) -> dict[str, list[Block]]:
    """Tower -> its blocks from the lowest to the highest; `paths` name them as a loop does, `block_{i}`."""
    found: dict[str, set[Block]] = {}
    for path in paths:
        if place := _block(path):
            found.setdefault(place[0], set()).add(place[1])
    return {tower: sorted(blocks) for tower, blocks in found.items()}


def steps_below_top(
    paths: Iterable[str], blocks: Mapping[str, Sequence[Block]], stated: Sequence[tuple[str, str]] = ()
) -> dict[str, int]:
    """Path -> steps below what stands above its tower's blocks: 0 there, 1 in the last block, L + 1 below the first.

    Args:
      paths: of parameters, as a loop names them.
      blocks: of all towers of the system, see `towers`.
      stated: (pattern, BELOW or ABOVE) pairs, for what the names do not say; the first match counts.

    Raises:
      UserError: parameters of which nothing says where they stand.
    """
    found: dict[str, int] = {}
    unknown: list[str] = []
    for path in paths:
        tower = max((name for name in blocks if path.startswith(f"{name}/")), key=len, default="")
        place = _block(path)
        if place:
            found[path] = len(blocks[tower]) - list(blocks[tower]).index(place[1])
            continue
        side = next((side for pattern, side in stated if re.fullmatch(pattern, path)), None) or _side(path, tower)
        # An embedding counts down from the tower that it is in, or that reads it.
        depth = len(blocks.get(tower or FUSION, ()))
        if side is None or (side == BELOW and not depth):
            unknown.append(path)
        found[path] = depth + 1 if side == BELOW else 0
    if unknown:
        more = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
        raise UserError(
            f"layer_decay: nothing says how deep {', '.join(unknown[:6])}{more} lie; towers with blocks: "
            f"{sorted(blocks)}. Say it in the stage, e.g. layers=(({unknown[0]!r}, {ABOVE!r}),): {BELOW!r} the blocks "
            f"of a tower, or {ABOVE!r}"
        )
    return found


def check_stated(paths: Iterable[str], stated: Sequence[tuple[str, str]]) -> None:
    """Raises UserError for a pattern of a stage's `layers` that matches nothing."""
    trees.check_patterns(paths, [pattern for pattern, _ in stated], "layers")


def _block(path: str) -> tuple[str, Block] | None:
    """(tower, block) of a parameter in a block."""
    found = _BLOCK.match(path)
    if found is None:
        return None
    tower, _, last = found["stack"].rpartition("/")
    own = not tower or last not in _STACKS
    place = 0 if own else _STACKS.index(last)
    number = (0, int(found["block"])) if found["block"] else (int(found["group"]), int(found["number"]))
    return found["stack"] if own else tower, (place, *number)


def _side(path: str, tower: str) -> str | None:
    """Whether a parameter outside of blocks stands below or above them, by its name."""
    parts, table = path.removeprefix(f"{tower}/").split("/"), _INSIDE
    if not tower:
        embeds = parts[0] in ("img", "txt")
        parts, table = (parts[1:], _INSIDE) if embeds else (parts, _BESIDE)
    return next((side for side, names in table if parts and names.fullmatch(parts[0])), None)
