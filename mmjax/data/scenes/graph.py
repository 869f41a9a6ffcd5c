"""The scene graph: which things, how many, how large, where, what lies in front; and the dice that make one.

All lengths are shares of the canvas side, x to the right and y downwards, as the viewer sees them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmjax.data.scenes.background import Background, choose_background
from mmjax.data.scenes.dice import Dice
from mmjax.data.scenes.sprites import SpriteBank
from mmjax.data.scenes.world import MOST_KINDS, World

# Longest side of an object's tight box. The gap between the classes keeps "big" and "small" undisputable.
SIZES = {"small": (0.21, 0.28), "big": (0.40, 0.50)}
SMALLEST = SIZES["small"][0]
MOST_OBJECTS = 6
_RIM = 0.01  # kept free at the canvas edge, so that rounding to pixels cuts nothing off
_GAP = 0.015  # between objects that do not overlap
_OVERLAP = (0.10, 0.35)  # share of the smaller box, for objects that do
_TOUCH = 0.03  # opaque overlap, as a share of the smaller box, from which one is said to be in front of the other
_OVERLAP_CHANCE = 0.4
_TRIES = 24


class Box(NamedTuple):
    """A rectangle; x1 and y1 are exclusive."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def longest(self) -> float:
        return max(self.x1 - self.x0, self.y1 - self.y0)

    def common(self, other: "Box") -> float:
        """Area of the intersection."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return width * height if width > 0 and height > 0 else 0.0


class Object(NamedTuple):
    """One sprite on the canvas: `left`, `top` and `side` of the whole sprite, `box` of what is opaque in it.

    `depth` 0 is the farthest; a larger one is drawn over a smaller one.
    """

    thing: int
    row: int
    style: str
    left: float
    top: float
    side: float
    flip: bool
    depth: int
    box: Box


@dataclass(frozen=True, slots=True)
class Group:
    """All objects of one thing in the scene: `members` index `Graph.objects`. A thing has at most one group."""

    thing: int
    size: str
    members: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.members)


@dataclass(frozen=True)
class Graph:
    """Everything that is true of a scene; image, boxes and language are read from it.

    `contacts` are pairs (front, behind) of objects whose opaque parts overlap visibly; `brushes` are pairs whose boxes
    meet without that, of which nothing is said.
    """

    objects: tuple[Object, ...]
    groups: tuple[Group, ...]
    background: Background
    contacts: frozenset[tuple[int, int]]
    brushes: frozenset[tuple[int, int]]

    def group(self, thing: int) -> Group | None:
        """The group of `thing`, or None where the scene has none."""
        for group in self.groups:
            if group.thing == thing:
                return group
        return None

    def boxes(self, thing: int) -> list[Box]:
        """The boxes of all objects of `thing`."""
        return [item.box for item in self.objects if item.thing == thing]


def build_graph(
    world: World, bank: SpriteBank, styles: tuple[str, ...], dice: Dice, split: str, kinds: int = MOST_KINDS
) -> Graph:
    """Draw a scene: the things, of at most so many kinds (`World.compose`), their counts and sizes, places without
    accidental overlap, some overlaps on purpose, depth, and a background that the objects stand out from."""
    things = world.compose(dice, split, kinds)
    layout = None
    while layout is None:  # a crowded draw that leaves no room for the second group is drawn again
        layout = _lay_out(world, bank, styles, dice, things)
    placed, groups = layout
    objects = _with_depth(dice, placed)
    contacts, brushes = _contacts(bank, objects)
    colours = [bank.shape(item.style, item.row).colour for item in objects]
    return Graph(objects, groups, choose_background(dice, colours), contacts, brushes)


def _lay_out(
    world: World, bank: SpriteBank, styles: tuple[str, ...], dice: Dice, things: list[int]
) -> tuple[list[Object], tuple[Group, ...]] | None:
    """Counts, sizes and places. A third or fourth group may be left out for want of room; without the first two, which
    may be the held-out pair, there is no scene: None."""
    placed: list[Object] = []
    groups: list[Group] = []
    for thing, count in zip(things, _counts(dice, len(things)), strict=True):
        size = "big" if dice.chance(_big_chance(len(things), count)) else "small"
        style = dice.choice(styles)
        onto = dice.below(len(placed)) if placed and dice.chance(_OVERLAP_CHANCE) else None
        members = _place_group(world, bank, dice, placed, thing, style, size, count, onto)
        if not members and size == "big":
            size = "small"
            members = _place_group(world, bank, dice, placed, thing, style, size, count, None)
        if members:
            groups.append(Group(thing, size, tuple(range(len(placed), len(placed) + len(members)))))
            placed += members
        elif len(groups) < 2:
            return None
    return placed, tuple(groups)


def _counts(dice: Dice, groups: int) -> list[int]:
    counts = []
    left = MOST_OBJECTS
    for place in range(groups):
        most = min(4, left - (groups - place - 1))
        weights = (0.6, 0.2, 0.12, 0.08) if groups > 1 else (0.45, 0.25, 0.17, 0.13)
        counts.append(dice.weighted(range(1, most + 1), weights[:most]))
        left -= counts[-1]
    return counts


def _big_chance(groups: int, count: int) -> float:
    """Four big objects do not fit; the more there is to place, the more of it is small."""
    if count >= 3:
        return 0.0
    return (0.65, 0.5, 0.3, 0.15)[groups - 1] * (1.0 if count == 1 else 0.6)


def _place_group(
    world: World,
    bank: SpriteBank,
    dice: Dice,
    placed: list[Object],
    thing: int,
    style: str,
    size: str,
    count: int,
    onto: int | None,
) -> list[Object]:
    """Up to `count` objects of a thing, the later ones near the first; a member for which no room is found is left
    out, so the true count is the length of what comes back."""
    row = world.things[thing].row
    members: list[Object] = []
    for member in range(count):
        longest = dice.uniform(*SIZES[size])
        flip = world.things[thing].flip and dice.chance(0.5)
        for attempt in range(_TRIES):
            if onto is not None and member == 0 and attempt < _TRIES // 2:
                spot: tuple[float, float] | None = _spot_over(dice, placed[onto].box, longest)
                target: int | None = onto
            elif members and attempt < _TRIES // 2:
                near = members[0].box.centre
                spot = (near[0] + dice.uniform(-0.4, 0.4), near[1] + dice.uniform(-0.4, 0.4))
                target = None
            else:
                spot = None
                target = None
            item = _object(bank, dice, thing, row, style, longest, flip, spot)
            if _fits(item.box, placed + members, target):
                members.append(item)
                break
    return members


def _spot_over(dice: Dice, box: Box, longest: float) -> tuple[float, float]:
    """A centre for an object of about that size that laps over an edge of `box`."""
    x, y = box.centre
    reach_x = (box.x1 - box.x0 + longest) / 2
    reach_y = (box.y1 - box.y0 + longest) / 2
    if dice.chance(0.5):
        return x + reach_x * dice.choice((-1.0, 1.0)) * dice.uniform(0.5, 0.8), y + reach_y * dice.uniform(-0.4, 0.4)
    return x + reach_x * dice.uniform(-0.4, 0.4), y + reach_y * dice.choice((-1.0, 1.0)) * dice.uniform(0.5, 0.8)


def _object(
    bank: SpriteBank,
    dice: Dice,
    thing: int,
    row: int,
    style: str,
    longest: float,
    flip: bool,
    spot: tuple[float, float] | None,
) -> Object:
    """The object whose tight box has the given longest side and, pushed inside the canvas, the given centre; where none
    is given, it lies anywhere with equal probability."""
    shape = bank.shape(style, row)
    x0, x1 = (1 - shape.x1, 1 - shape.x0) if flip else (shape.x0, shape.x1)
    side = longest / max(x1 - x0, shape.y1 - shape.y0)
    width, height = side * (x1 - x0), side * (shape.y1 - shape.y0)
    if spot is None:
        left, top = dice.uniform(_RIM, 1 - _RIM - width), dice.uniform(_RIM, 1 - _RIM - height)
    else:
        left = min(max(spot[0] - width / 2, _RIM), 1 - _RIM - width)
        top = min(max(spot[1] - height / 2, _RIM), 1 - _RIM - height)
    box = Box(left, top, left + width, top + height)
    return Object(thing, row, style, left - side * x0, top - side * shape.y0, side, flip, 0, box)


def _fits(box: Box, others: list[Object], target: int | None) -> bool:
    """Apart from all others, except for `target`, of which it must cover (or be covered by) a modest share."""
    for place, other in enumerate(others):
        there = other.box
        if place == target:
            share = box.common(there) / min(box.area, there.area)
            if not _OVERLAP[0] <= share <= _OVERLAP[1]:
                return False
        elif (
            box.x0 - _GAP < there.x1
            and there.x0 - _GAP < box.x1
            and box.y0 - _GAP < there.y1
            and there.y0 - _GAP < box.y1
        ):
            return False
    return True


def _with_depth(dice: Dice, placed: list[Object]) -> tuple[Object, ...]:
    """A random depth order, in which big objects do not cover small ones beyond recognition: overlaps are modest."""
    order = dice.shuffled(range(len(placed)))
    depth = {item: rank for rank, item in enumerate(order)}
    return tuple(item._replace(depth=depth[place]) for place, item in enumerate(placed))


def _contacts(
    bank: SpriteBank, objects: tuple[Object, ...]
) -> tuple[frozenset[tuple[int, int]], frozenset[tuple[int, int]]]:
    contacts, brushes = set(), set()
    for first in range(len(objects)):
        for second in range(first + 1, len(objects)):
            a, b = objects[first], objects[second]
            if a.box.common(b.box) == 0:
                continue
            pair = (first, second) if a.depth > b.depth else (second, first)
            if _opaque_overlap(bank, a, b) >= _TOUCH * min(a.box.area, b.box.area):
                contacts.add(pair)
            else:
                brushes.add(pair)
    return frozenset(contacts), frozenset(brushes)


def _opaque_overlap(bank: SpriteBank, a: Object, b: Object) -> float:
    """Area where both are opaque, by sampling the common rectangle at 12 x 12 points."""
    x0, x1 = max(a.box.x0, b.box.x0), min(a.box.x1, b.box.x1)
    y0, y1 = max(a.box.y0, b.box.y0), min(a.box.y1, b.box.y1)
    steps = (np.arange(12) + 0.5) / 12
    xs, ys = x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)
    both = _sample(bank, a, xs, ys) & _sample(bank, b, xs, ys)
    return float(both.mean()) * (x1 - x0) * (y1 - y0)


def _sample(bank: SpriteBank, item: Object, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    mask = bank.mask(item.style, item.row)
    if item.flip:
        mask = mask[:, ::-1]
    n = mask.shape[0]
    columns = np.clip(((xs - item.left) / item.side * n).astype(int), 0, n - 1)
    rows = np.clip(((ys - item.top) / item.side * n).astype(int), 0, n - 1)
    return mask[rows[:, None], columns[None, :]]
