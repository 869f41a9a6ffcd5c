"""Captions: what to say is planned as claims, and then put in words.

The two halves are apart so that a wrong caption is a true one with one claim changed, in the same words (`noise.py`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmjax.data.scenes.dice import Dice
from mmjax.data.scenes.facts import Claim, holds, relations, zones
from mmjax.data.scenes.graph import Graph
from mmjax.data.scenes.language import NUMBERS, Name, is_are, listing, sentence

Names = Callable[[int], Name]
CAPTIONS = 5
_WORDING = 12  # random numbers that fix the wording of one caption

BIG, SMALL = ("big", "large"), ("small", "little", "tiny")
_SIZE_WORDS = {*BIG, *SMALL}
RELATION_WORDS = {
    "left": ("to the left of", "left of", "to the left of"),
    "right": ("to the right of", "right of", "to the right of"),
    "above": ("above", "above", "higher up than"),
    "below": ("below", "below", "lower down than"),
    "front": ("in front of", "in front of", "partly covering"),
    "behind": ("behind", "behind", "partly hidden by"),
}
ZONE_WORDS = {
    "top left": ("in the top left corner", "at the top left", "in the upper left"),
    "top right": ("in the top right corner", "at the top right", "in the upper right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left"),
    "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right"),
    "middle": ("in the middle", "in the center", "in the middle of the picture"),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "in the upper half", "near the top"),
    "bottom": ("at the bottom", "in the lower half", "near the bottom"),
}
PATTERN_WORDS = {"stripes": "striped", "dots": "dotted", "checks": "checkered"}


class Caption(NamedTuple):
    """A caption before it is put in words: its form, its claims and the numbers that choose among wordings."""

    form: str
    claims: tuple[Claim, ...]
    wording: tuple[float, ...]


def plan_captions(graph: Graph, dice: Dice) -> list[Caption]:
    """Five captions of different forms and levels of detail, in random order; every claim holds."""
    stated = relations(graph)
    makers = (_plan_everything, _plan_relation, _plan_setting, _plan_some, _plan_rich)
    plans = []
    for maker in dice.shuffled(makers):
        form, claims = maker(graph, dice, stated)
        plans.append(Caption(form, tuple(claims), tuple(dice.fork(_WORDING))))
    return plans


def caption_texts(plans: Sequence[Caption], names: Names) -> list[str]:
    """The captions in words; where two come out the same, the later one is worded anew, so that all differ."""
    texts: list[str] = []
    for plan in plans:
        text = write(plan, names)
        for turn in range(1, _WORDING):
            if text not in texts:
                break
            # Few-object scenes have little to say: other words, found by turning the wheel of random numbers.
            text = write(plan._replace(wording=plan.wording[turn:] + plan.wording[:turn]), names)
        texts.append(text)
    return texts


# -- what to say


def _counts(graph: Graph, dice: Dice, most: int | None = None) -> list[Claim]:
    groups = dice.shuffled(graph.groups)
    return [Claim("count", group.thing, group.count) for group in groups[: most or len(groups)]]


def _sizes(graph: Graph, dice: Dice, counts: Sequence[Claim], chance: float) -> list[Claim]:
    sized = []
    for claim in counts:
        group = graph.group(claim.a)
        if group is not None and dice.chance(chance):
            sized.append(Claim("size", claim.a, group.size))
    return sized


def _backdrop(graph: Graph, dice: Dice) -> list[Claim]:
    claims = [Claim("colour", value=graph.background.colour)]
    if graph.background.pattern in PATTERN_WORDS and dice.chance(0.6):
        claims.append(Claim("pattern", value=graph.background.pattern))
    return claims


def _plan_everything(graph: Graph, dice: Dice, stated: Sequence[Claim]) -> tuple[str, list[Claim]]:
    """All groups with their counts, now and then with the total."""
    counts = _counts(graph, dice)
    if len(graph.groups) > 1 and dice.chance(0.2):
        return "total", [Claim("total", value=len(graph.objects)), *counts]
    return "list", counts


def _plan_setting(graph: Graph, dice: Dice, stated: Sequence[Claim]) -> tuple[str, list[Claim]]:
    """All groups, and what they are on."""
    return "list", [*_counts(graph, dice), *_backdrop(graph, dice)]


def _plan_some(graph: Graph, dice: Dice, stated: Sequence[Claim]) -> tuple[str, list[Claim]]:
    """One or two groups, without exact counts, sizes or background: the short caption of a hurried person."""
    groups = dice.shuffled(graph.groups)[: 1 if dice.chance(0.5) else 2]
    claims = [Claim("count", g.thing, 1) if g.count == 1 else Claim("several", g.thing) for g in groups]
    return "list", claims


def _plan_relation(graph: Graph, dice: Dice, stated: Sequence[Claim]) -> tuple[str, list[Claim]]:
    """Two groups and how they lie to each other; alone or in doubt, where one is."""
    if stated:
        claim = dice.choice(stated)
        return "relation", [claim, *_pair_counts(graph, claim)]
    return _plan_zone(graph, dice)


def _plan_zone(graph: Graph, dice: Dice) -> tuple[str, list[Claim]]:
    placed = []
    for group in dice.shuffled(graph.groups):
        zone = next(zones(graph, group.thing), None)
        if zone is not None:
            placed += [Claim("zone", group.thing, zone), Claim("count", group.thing, group.count)]
    if placed:
        return "zone", placed[: 2 if dice.chance(0.4) else 4]
    counts = _counts(graph, dice)
    return "list", counts + _sizes(graph, dice, counts, 1.0)


def _plan_rich(graph: Graph, dice: Dice, stated: Sequence[Claim]) -> tuple[str, list[Claim]]:
    """The most detailed one: sizes, a comparison, a place or a relation, and sometimes the background."""
    choice = dice.random()
    if choice < 0.25:
        big = [group.thing for group in graph.groups if group.size == "big"]
        pairs = [(a, b.thing) for a in big for b in graph.groups if b.size == "small"]
        compared = [Claim("bigger", a, b=b) for a, b in pairs if holds(graph, Claim("bigger", a, b=b))]
        if compared:
            claim = dice.choice(compared)
            return "bigger", [claim, *_pair_counts(graph, claim)]
    if choice < 0.5:
        form, claims = _plan_zone(graph, dice)
        if form == "zone":
            return form, claims + _backdrop(graph, dice)
    counts = _counts(graph, dice)
    sized = _sizes(graph, dice, counts, 0.6) or _sizes(graph, dice, counts[:1], 1.0)
    if stated and dice.chance(0.6):
        claim = dice.choice(stated)
        return "told", [claim, *counts, *(_backdrop(graph, dice) if dice.chance(0.4) else []), *sized]
    return "list", [*counts, *sized, *_backdrop(graph, dice)]


def _pair_counts(graph: Graph, claim: Claim) -> list[Claim]:
    found = []
    for thing in (claim.a, claim.b):
        group = graph.group(thing)
        assert group is not None
        found.append(Claim("count", thing, group.count))
    return found


# -- how to say it


def write(plan: Caption, names: Names) -> str:
    """The caption in words. Depends on the plan and the names alone."""
    said = _Said(plan, names)
    return _FORMS[plan.form](said, Dice(plan.wording))


class _Said:
    """The claims of a plan, by what a sentence needs."""

    def __init__(self, plan: Caption, names: Names) -> None:
        self.names = names
        self.things = [claim.a for claim in plan.claims if claim.kind in ("count", "several")]
        self.count = {claim.a: int(claim.value) for claim in plan.claims if claim.kind == "count"}
        self.size = {claim.a: str(claim.value) for claim in plan.claims if claim.kind == "size"}
        self.zone = {claim.a: str(claim.value) for claim in plan.claims if claim.kind == "zone"}
        self.by_kind = {claim.kind: claim for claim in plan.claims}

    def phrase(self, thing: int, dice: Dice) -> str:
        """'a small dog', 'two dogs' or, where the number was not claimed, 'dogs'."""
        name = self.names(thing)
        if thing not in self.count:
            return name.many
        size = self.size.get(thing)
        adjective = "" if size is None else dice.choice(BIG if size == "big" else SMALL)
        if not _SIZE_WORDS.isdisjoint(name.one.lower().split(" ")):
            adjective = ""  # "a big small airplane" helps nobody
        return name.counted(self.count[thing], adjective)

    def listed(self, dice: Dice) -> str:
        return listing([self.phrase(thing, dice) for thing in self.things])

    def verb(self, thing: int) -> str:
        return is_are(self.count.get(thing, 2))

    def backdrop(self) -> str:
        """'striped blue background', or '' where no claim was made about it."""
        if "colour" not in self.by_kind:
            return ""
        pattern = self.by_kind.get("pattern")
        words = [PATTERN_WORDS[str(pattern.value)]] if pattern else []
        return " ".join([*words, str(self.by_kind["colour"].value), "background"])


def _on(said: _Said, dice: Dice) -> str:
    """' on a blue background' or ''."""
    backdrop = said.backdrop()
    if not backdrop:
        return ""
    article = "an" if backdrop[0] in "aeiou" else "a"
    return f" {dice.choice(('on', 'on', 'against'))} {article} {backdrop}"


_FRAGMENTS = (
    "{}",
    "{}",
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "a scene with {}",
    "a picture with {}",
)
_SENTENCES = ("there {is} {}", "this picture shows {}", "you can see {}", "I can see {}", "this is a picture of {}",
              "here {is} {}", "the image contains {}")  # fmt: skip


def _framed(text: str, verb: str, dice: Dice, tail: str = "") -> str:
    """A phrase as a fragment or inside a sentence."""
    if dice.chance(0.5):
        return dice.choice(_FRAGMENTS).format(text) + tail
    return sentence(dice.choice(_SENTENCES).replace("{is}", verb).format(text) + tail)


def _write_list(said: _Said, dice: Dice) -> str:
    return _framed(said.listed(dice), said.verb(said.things[0]), dice, _on(said, dice))


def _write_total(said: _Said, dice: Dice) -> str:
    total = NUMBERS[int(said.by_kind["total"].value)]
    things = dice.choice(("things", "objects", "items"))
    listed = said.listed(dice)
    forms = (
        f"{total} {things}: {listed}",
        sentence(f"there are {total} {things}: {listed}"),
        sentence(f"the picture has {total} {things} in it, {listed}"),
        f"a picture of {total} {things}: {listed}",
    )
    return dice.choice(forms)


def _write_relation(said: _Said, dice: Dice) -> str:
    claim = said.by_kind["relation"]
    relation = dice.choice(RELATION_WORDS[str(claim.value)])
    first, second = said.phrase(claim.a, dice), said.phrase(claim.b, dice)
    verb = said.verb(claim.a)
    forms = [
        f"{first} {relation} {second}",
        f"a picture of {first} {relation} {second}",
        sentence(f"{first} {verb} {relation} {second}"),
        sentence(f"there {verb} {first} {relation} {second}"),
        sentence(f"{_the(said, claim.a, dice)} {verb} {relation} {_the(said, claim.b, dice)}"),
    ]
    if relation in ("to the left of", "to the right of", "above", "below", "behind", "in front of"):
        forms.append(sentence(f"{relation} {second} there {verb} {first}"))
    return dice.choice(forms)


def _the(said: _Said, thing: int, dice: Dice) -> str:
    return said.names(thing).definite(said.count[thing], number=dice.chance(0.5))


def _write_zone(said: _Said, dice: Dice) -> str:
    placed = []
    for thing in said.things:
        placed.append(f"{said.phrase(thing, dice)} {dice.choice(ZONE_WORDS[said.zone[thing]])}")
    backdrop = said.backdrop()
    if backdrop and dice.chance(0.5):
        return f"{sentence(f'there {said.verb(said.things[0])} {listing(placed)}')} The background is {_plain(said)}."
    tail = ", on " + ("an " if backdrop[0] in "aeiou" else "a ") + backdrop if backdrop else ""
    return _framed(listing(placed), said.verb(said.things[0]), dice, tail)


def _plain(said: _Said) -> str:
    """'blue', or 'blue and striped'."""
    pattern = said.by_kind.get("pattern")
    colour = str(said.by_kind["colour"].value)
    return f"{colour} and {PATTERN_WORDS[str(pattern.value)]}" if pattern else colour


def _write_bigger(said: _Said, dice: Dice) -> str:
    claim = said.by_kind["bigger"]
    word = dice.choice(("bigger", "larger"))
    a, b = said.count[claim.a], said.count[claim.b]
    first, second = said.names(claim.a), said.names(claim.b)
    forms = (
        f"{first.definite(a)} {is_are(a)} {word} than {second.definite(b)}",
        f"{second.definite(b)} {is_are(b)} smaller than {first.definite(a)}",
        f"{first.counted(a)} and {second.counted(b)}, and {first.definite(a)} {is_are(a)} {word}",
    )
    return sentence(dice.choice(forms))


def _write_told(said: _Said, dice: Dice) -> str:
    """A list, and then how two of the groups lie to each other."""
    claim = said.by_kind["relation"]
    listed, tail = said.listed(dice), _on(said, dice)
    relation = dice.choice(RELATION_WORDS[str(claim.value)])
    first, second = said.names(claim.a), said.names(claim.b)
    a, b = said.count[claim.a], said.count[claim.b]
    then = f"{first.definite(a)} {is_are(a)} {relation} {second.definite(b)}"
    verb = said.verb(said.things[0])
    forms = (
        f"{sentence(f'there {verb} {listed}{tail}')} {sentence(then)}",
        f"{listed}{tail}; {then}",
        sentence(f"{listed}{tail}, where {then}"),
        sentence(f"in this picture with {listed}{tail}, {then}"),
    )
    return dice.choice(forms)


_FORMS: dict[str, Callable[[_Said, Dice], str]] = {
    "list": _write_list,
    "total": _write_total,
    "relation": _write_relation,
    "zone": _write_zone,
    "bigger": _write_bigger,
    "told": _write_told,
}
