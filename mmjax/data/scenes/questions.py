"""Questions with short answers, and a full-sentence reply to each for conversations.

Yes/no questions decide on the answer first, by a fair coin (of what is there and what is not, one each), and then find
a question for it, so that neither answer is the better guess. Nothing unclear is asked.
"""

from collections.abc import Iterator
from typing import NamedTuple

from mmjax.data.scenes.background import COLOURS
from mmjax.data.scenes.captions import RELATION_WORDS, ZONE_WORDS, Names
from mmjax.data.scenes.dice import Dice
from mmjax.data.scenes.facts import OPPOSITE, Claim, holds, related, relations, zones
from mmjax.data.scenes.graph import MOST_OBJECTS, Graph, Group
from mmjax.data.scenes.language import NUMBERS, is_are, sentence
from mmjax.data.scenes.world import World

KINDS = ("exists", "count", "relation", "which", "bigger", "colour", "zone", "total")


class Question(NamedTuple):
    """`answer` is one to a few words ('yes', '2', 'dogs', 'blue'); `reply` says it in a sentence.

    `claim` is what the question asks about and `truth` whether that claim holds, so that answers can be checked.
    """

    text: str
    answer: str
    kind: str
    reply: str
    claim: Claim
    truth: bool


def make_questions(graph: Graph, world: World, dice: Dice) -> list[Question]:
    """All kinds of question that the scene allows, up to two of a kind, in random order; nothing is asked twice."""
    names = world.name_of
    found: list[Question] = []
    for maker in (_exists, _count, _relation, _which, _bigger, _colour, _zone, _total):
        found += maker(graph, world, names, dice)
    asked: dict[tuple, Question] = {}
    for question in dice.shuffled(found):
        asked.setdefault((question.kind, question.claim.topic), question)
    return list(asked.values())


def possible_answers(world: World) -> list[str]:
    """Every answer that a question can have, in a fixed order: the classes of a model that chooses."""
    names = [world.name_of(thing) for thing in range(len(world))]
    things = dict.fromkeys(word for name in names for word in (name.one, name.many))
    return list(dict.fromkeys(["yes", "no", *map(str, range(MOST_OBJECTS + 1)), *COLOURS, *things]))


def _exists(graph: Graph, world: World, names: Names, dice: Dice) -> Iterator[Question]:
    for truth in (True, False):
        group = dice.choice(graph.groups)
        thing = group.thing if truth else world.stranger(dice, [g.thing for g in graph.groups])
        name = names(thing)
        one = name.counted(1)
        text = dice.choice(
            (
                f"Is there {one} in the picture?",
                f"Are there any {name.many} in this image?",
                f"Can you see {one}?",
                f"Does the picture show {one}?",
                f"Do you see any {name.many}?",
            )
        )
        if truth:
            reply = f"Yes, there {is_are(group.count)} {name.counted(group.count, number=group.count > 1)}."
        else:
            reply = dice.choice((f"No, there is no {name.one}.", f"No, I can't see any {name.many}."))
        claim = Claim("count", thing, group.count if truth else 0)
        yield Question(text, "yes" if truth else "no", "exists", reply, claim, True)


def _count(graph: Graph, world: World, names: Names, dice: Dice) -> Iterator[Question]:
    for group in dice.shuffled(graph.groups)[:2]:
        yield _how_many(names, dice, group.thing, group.count)
    if dice.chance(0.15):
        yield _how_many(names, dice, world.stranger(dice, [g.thing for g in graph.groups]), 0)


def _how_many(names: Names, dice: Dice, thing: int, count: int) -> Question:
    name = names(thing)
    text = dice.choice(
        (
            f"How many {name.many} are there?",
            f"How many {name.many} can you see?",
            f"How many {name.many} are in the picture?",
            f"What is the number of {name.many} in this image?",
        )
    )
    if count:
        reply = sentence(f"there {is_are(count)} {name.counted(count, number=True)}")
    else:
        reply = f"There are no {name.many}."
    return Question(text, str(count), "count", reply, Claim("count", thing, count), True)


def _relation(graph: Graph, world: World, names: Names, dice: Dice) -> Iterator[Question]:
    for claim in dice.shuffled(relations(graph))[:2]:
        # The true relation or its opposite, so that "no" is as clear as "yes".
        truth = dice.chance(0.5)
        asked = claim if truth else claim._replace(value=OPPOSITE[str(claim.value)])
        a, b = _group(graph, claim.a), _group(graph, claim.b)
        first, second = names(a.thing).definite(a.count), names(b.thing).definite(b.count)
        word = _plain_word(str(asked.value), dice)
        text = f"{is_are(a.count).capitalize()} {first} {word} {second}?"
        pronoun = "it is" if a.count == 1 else "they are"
        if truth:
            reply = dice.choice((f"Yes, {pronoun}.", f"Yes, {first} {is_are(a.count)} {word} {second}."))
        else:
            reply = f"No, {pronoun} {_plain_word(str(claim.value), dice)} {second}."
        yield Question(text, "yes" if truth else "no", "relation", reply, asked, truth)


def _plain_word(relation: str, dice: Dice) -> str:
    """The relation in words that fit between 'it is' and a noun."""
    return dice.choice(
        [word for word in RELATION_WORDS[relation] if not word.startswith(("partly", "higher", "lower"))]
    )


def _which(graph: Graph, world: World, names: Names, dice: Dice) -> Iterator[Question]:
    """'What is to the left of the car?', where exactly one group is, and all others clearly are not."""
    asked = []
    for claim in relations(graph):
        others = [g.thing for g in graph.groups if g.thing not in (claim.a, claim.b)]
        if all(related(graph, other, str(claim.value), claim.b) is False for other in others):
            asked.append(claim)
    for claim in dice.shuffled(asked)[:2]:
        a, b = _group(graph, claim.a), _group(graph, claim.b)
        word, second = _plain_word(str(claim.value), dice), names(b.thing).definite(b.count)
        text = dice.choice((f"What is {word} {second}?", f"What can you see {word} {second}?"))
        name = names(a.thing)
        reply = sentence(
            dice.choice(
                (f"there {is_are(a.count)} {name.counted(a.count)} {word} {second}", f"it is {name.counted(1)}")
                if a.count == 1
                else (f"there {is_are(a.count)} {name.counted(a.count)} {word} {second}",)
            )
        )
        yield Question(text, name.bare(a.count), "which", reply, claim, True)


def _bigger(graph: Graph, world: World, names: Names, dice: Dice) -> Iterator[Question]:
    pairs = [Claim("bigger", a.thing, b=b.thing) for a in graph.groups for b in graph.groups if a.thing != b.thing]
    clear = [claim for claim in pairs if holds(graph, claim)]
    if not clear:
        return
    claim = dice.choice(clear)
    a, b = _group(graph, claim.a), _group(graph, claim.b)
    big, small = names(a.thing).definite(a.count), names(b.thing).definite(b.count)
    word = dice.choice(("bigger", "larger"))
    fact = f"{big} {is_are(a.count)} {word} than {small}"
    if dice.chance(0.5):
        pair = (big, small) if dice.chance(0.5) else (small, big)
        is_single = a.count == b.count == 1
        text = f"{'Which is' if is_single else 'Which are'} {word}, {pair[0]} or {pair[1]}?"
        yield Question(text, names(a.thing).bare(a.count), "bigger", sentence(fact), claim, True)
        return
    truth = dice.chance(0.5)
    first, second, lead = (big, small, a) if truth else (small, big, b)
    text = f"{is_are(lead.count).capitalize()} {first} {word} than {second}?"
    pronoun = "it is" if lead.count == 1 else "they are"
    reply = f"Yes, {fact}." if truth else f"No, {pronoun} smaller than {second}."
    asked = claim if truth else Claim("bigger", claim.b, b=claim.a)
    yield Question(text, "yes" if truth else "no", "bigger", reply, asked, truth)


def _colour(graph: Graph, world: World, names: Names, dice: Dice) -> Iterator[Question]:
    colour = graph.background.colour
    text = dice.choice(
        (
            "What color is the background?",
            "What is the color of the background?",
            "Which color does the background have?",
        )
    )
    reply = dice.choice((f"The background is {colour}.", f"It is {colour}."))
    yield Question(text, colour, "colour", reply, Claim("colour", value=colour), True)


def _zone(graph: Graph, world: World, names: Names, dice: Dice) -> Iterator[Question]:
    """'What is in the top left corner?', where one group lies there and every other clearly does not."""
    asked = []
    for group in graph.groups:
        for zone in zones(graph, group.thing):
            others = [g.thing for g in graph.groups if g.thing != group.thing]
            if all(holds(graph, Claim("zone", other, zone)) is False for other in others):
                asked.append((group, zone))
    if not asked:
        return
    group, zone = dice.choice(asked)
    where = dice.choice(ZONE_WORDS[zone])
    name = names(group.thing)
    text = dice.choice((f"What is {where}?", f"What can you see {where}?"))
    reply = sentence(f"there {is_are(group.count)} {name.counted(group.count)} {where}")
    yield Question(text, name.bare(group.count), "zone", reply, Claim("zone", group.thing, zone), True)


def _total(graph: Graph, world: World, names: Names, dice: Dice) -> Iterator[Question]:
    total = len(graph.objects)
    noun = dice.choice(("objects", "things"))
    text = dice.choice((f"How many {noun} are there in total?", f"How many {noun} are in the picture altogether?"))
    number = NUMBERS[total]
    reply = f"There is {number} in total." if total == 1 else f"There are {number} in total."
    yield Question(text, str(total), "total", reply, Claim("total", value=total), True)


def _group(graph: Graph, thing: int) -> Group:
    group = graph.group(thing)
    assert group is not None
    return group
