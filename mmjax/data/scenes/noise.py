"""Captions made wrong on purpose, with the truth kept, for systems that clean captions.

Each caption is spoiled with the given probability, on its own. The kinds:

other      the caption of another scene
swapped    one thing renamed to one that is not in the scene
reversed   the relation turned round (left for right, above for below, in front for behind)

Every wrong caption makes at least one claim that clearly fails in this scene.
"""

from collections.abc import Callable, Sequence

from mmjax.data.scenes.captions import Caption
from mmjax.data.scenes.dice import Dice
from mmjax.data.scenes.facts import OPPOSITE, Claim, surely_false
from mmjax.data.scenes.graph import Graph
from mmjax.data.scenes.world import World

KINDS = ("other", "swapped", "reversed")


def spoil(
    graph: Graph,
    world: World,
    plans: Sequence[Caption],
    share: float,
    dice: Dice,
    another: Callable[[Dice], Sequence[Caption]],
) -> tuple[list[Caption], list[str]]:
    """(plans, some of them now false; for each the kind of noise, '' for the untouched). `another(dice)` gives the
    plans of another scene. Captions without a relation are 'other' or 'swapped' with equal probability; of those with
    one, two thirds are 'reversed'."""
    spoiled, kinds = [], []
    for place, plan in enumerate(plans):
        if not dice.chance(share):
            spoiled.append(plan)
            kinds.append("")
            continue
        kinds_to_try = dice.shuffled(KINDS)
        if dice.chance(0.5):  # few captions state a relation: those that do are turned round half of the time or more
            kinds_to_try.sort(key=lambda kind: kind != "reversed")
        for kind in kinds_to_try:
            wrong = _wrong(kind, graph, world, plan, place, dice, another)
            if wrong is not None:
                break
        else:  # a swap is always possible, since every caption names a thing
            raise AssertionError(f"no false version of {plan}")
        spoiled.append(wrong)
        kinds.append(kind)
    return spoiled, kinds


def _wrong(
    kind: str,
    graph: Graph,
    world: World,
    plan: Caption,
    place: int,
    dice: Dice,
    another: Callable[[Dice], Sequence[Caption]],
) -> Caption | None:
    """A false caption of the given kind, or None where this caption allows none."""
    if kind == "other":
        for _ in range(4):
            candidate = another(dice)[place]
            if surely_false(graph, candidate.claims):
                return candidate
        return None
    if kind == "swapped":
        named = sorted({claim.a for claim in plan.claims if claim.kind in ("count", "several")})
        old = dice.choice(named)
        new = world.stranger(dice, [group.thing for group in graph.groups])
        candidate = plan._replace(claims=tuple(_renamed(claim, old, new) for claim in plan.claims))
    else:
        candidate = plan._replace(claims=tuple(_reversed(claim) for claim in plan.claims))
    return candidate if surely_false(graph, candidate.claims) else None


def _renamed(claim: Claim, old: int, new: int) -> Claim:
    return claim._replace(a=new if claim.a == old else claim.a, b=new if claim.b == old else claim.b)


def _reversed(claim: Claim) -> Claim:
    if claim.kind != "relation":
        return claim
    return claim._replace(value=OPPOSITE[str(claim.value)])
