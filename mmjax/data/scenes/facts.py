"""Claims about a scene, and whether they hold.

Language is made from claims, never the other way round: a caption carries the claims it makes, and each is checked
against the geometry. A claim can hold, fail, or be unclear (a dog that is a little left of a cat): unclear things are
neither said nor asked.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mmjax.data.scenes.graph import SIZES, Box, Graph

OPPOSITE = {
    "left": "right", "right": "left", "above": "below", "below": "above", "front": "behind", "behind": "front",
}  # fmt: skip
RELATIONS = tuple(OPPOSITE)

_EDGE = 0.38  # a centre nearer to the side than this is "on the left"; beyond its mirror image, "on the right"
_MIDDLE = 0.10  # a centre within this distance of the canvas centre, on both axes, is "in the middle"
_LAP = 0.25  # how far (share of the narrower box) two boxes may overlap along an axis and still be left and right
_STEP = 0.12  # least distance of centres along the axis of a relation
_SLOPE = 0.6  # ... which must also be this many times the distance along the other axis


class Claim(NamedTuple):
    """One statement. `kind` and the fields it uses:

    count     exactly `value` objects of thing `a`
    several   at least two objects of `a`
    size      every `a` is `value` ("big" or "small")
    relation  every `a` is `value` (left, right, above, below, front, behind) of every `b`
    zone      every `a` lies at `value` ("left", "top", "top left", …, "middle")
    bigger    `a` is clearly bigger than `b`
    colour    the background is `value`
    pattern   the background has the pattern `value`
    total     there are exactly `value` objects
    """

    kind: str
    a: int = -1
    value: str | int = ""
    b: int = -1

    @property
    def topic(self) -> tuple:
        """Equal for claims that answer each other: a left of b, b right of a, and their opposites."""
        if self.kind in ("relation", "bigger"):
            axis = min(str(self.value), OPPOSITE.get(str(self.value), ""))
            return (self.kind, axis, min(self.a, self.b), max(self.a, self.b))
        if self.kind == "zone":
            return (self.kind, self.a)
        return (self.kind, self.a) if self.a >= 0 else (self.kind,)


def holds(graph: Graph, claim: Claim) -> bool | None:
    """True or False where the claim is clear, else None. A claim about a thing that is not there is False."""
    if claim.kind == "colour":
        return graph.background.colour == claim.value
    if claim.kind == "pattern":
        return graph.background.pattern == claim.value
    if claim.kind == "total":
        return len(graph.objects) == claim.value
    group = graph.group(claim.a)
    if claim.kind == "count":
        return (group.count if group else 0) == claim.value
    if group is None:
        return False
    if claim.kind == "several":
        return group.count >= 2
    if claim.kind == "size":
        return group.size == claim.value
    if claim.kind == "zone":
        return _in_zone(graph.boxes(claim.a), str(claim.value))
    other = graph.group(claim.b)
    if other is None:
        return False
    if claim.kind == "relation":
        return related(graph, claim.a, str(claim.value), claim.b)
    if claim.kind == "bigger":
        return _bigger(graph.boxes(claim.a), graph.boxes(claim.b))
    raise ValueError(f"unknown claim {claim.kind!r}")


def all_hold(graph: Graph, claims: Sequence[Claim]) -> bool:
    """Whether every claim clearly holds."""
    return all(holds(graph, claim) is True for claim in claims)


def surely_false(graph: Graph, claims: Sequence[Claim]) -> bool:
    """Whether at least one claim clearly fails."""
    return any(holds(graph, claim) is False for claim in claims)


def related(graph: Graph, a: int, relation: str, b: int) -> bool | None:
    """Whether every object of `a` is `relation` of every object of `b`; None where it is not clear."""
    if relation in ("front", "behind"):
        return _layered(graph, a, b) if relation == "front" else _layered(graph, b, a)
    first, second = (
        (graph.boxes(a), graph.boxes(b)) if relation in ("left", "above") else (graph.boxes(b), graph.boxes(a))
    )
    axis = 0 if relation in ("left", "right") else 1
    if all(before(one, two, axis) for one in first for two in second):
        return True
    if all(one.centre[axis] >= two.centre[axis] for one in first for two in second):
        return False
    return None


def before(first: Box, second: Box, axis: int) -> bool:
    """Whether a viewer would say that `first` is left of (axis 0) or above (axis 1) `second` without hesitation."""
    low_first, high_first = first[axis], first[axis + 2]
    low_second, high_second = second[axis], second[axis + 2]
    lap = high_first - low_second
    step = second.centre[axis] - first.centre[axis]
    across = abs(second.centre[1 - axis] - first.centre[1 - axis])
    narrower = min(high_first - low_first, high_second - low_second)
    return step >= _STEP and step >= _SLOPE * across and lap <= _LAP * narrower


def _layered(graph: Graph, front: int, back: int) -> bool | None:
    """Whether `front` covers a part of `back` and nowhere the reverse."""
    front_members = {place for place, item in enumerate(graph.objects) if item.thing == front}
    back_members = {place for place, item in enumerate(graph.objects) if item.thing == back}
    if any(_between(pair, front_members, back_members) for pair in graph.brushes):
        return None
    over = sum(a in front_members and b in back_members for a, b in graph.contacts)
    under = sum(a in back_members and b in front_members for a, b in graph.contacts)
    if over and under:
        return None
    if over and len(front_members) * len(back_members) > 1:
        return None  # "the dogs are in front of the cat" when only one of them is
    return over > 0


def _between(pair: tuple[int, int], first: set[int], second: set[int]) -> bool:
    return (pair[0] in first and pair[1] in second) or (pair[0] in second and pair[1] in first)


def _in_zone(boxes: Sequence[Box], zone: str) -> bool | None:
    verdicts = [_at(box, zone) for box in boxes]
    if all(verdict is True for verdict in verdicts):
        return True
    return False if all(verdict is False for verdict in verdicts) else None


def _at(box: Box, zone: str) -> bool | None:
    x, y = box.centre
    if zone == "middle":
        distance = max(abs(x - 0.5), abs(y - 0.5))
        return True if distance <= _MIDDLE else (False if distance >= 0.2 else None)
    shares = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
    asked = [shares[word] for word in zone.split(" ")]
    if all(share <= _EDGE for share in asked):
        return True
    return False if any(share >= 0.5 for share in asked) else None


def zones(graph: Graph, thing: int) -> Iterator[str]:
    """Every zone that all objects of `thing` clearly lie in, the most telling first."""
    boxes = graph.boxes(thing)
    for zone in ("top left", "top right", "bottom left", "bottom right", "middle", "left", "right", "top", "bottom"):
        if _in_zone(boxes, zone):
            yield zone


def _bigger(first: Sequence[Box], second: Sequence[Box]) -> bool | None:
    def clearly(a: Box, b: Box) -> bool:
        return a.longest >= 1.3 * b.longest and a.area >= 1.3 * b.area

    if all(clearly(a, b) for a in first for b in second):
        return True
    if all(a.longest <= b.longest and a.area <= b.area for a in first for b in second):
        return False
    return None


def size_class(box: Box) -> str:
    """'small' or 'big', by the longest side; the classes have a gap between them."""
    return "small" if box.longest <= (SIZES["small"][1] + SIZES["big"][0]) / 2 else "big"


def relations(graph: Graph) -> list[Claim]:
    """Every clear relation between two groups, in both directions."""
    found = []
    for first in graph.groups:
        for second in graph.groups:
            if first.thing == second.thing:
                continue
            for relation in RELATIONS:
                if related(graph, first.thing, relation, second.thing):
                    found.append(Claim("relation", first.thing, relation, second.thing))
    return found
