"""Referring expressions and short conversations."""

from collections.abc import Sequence

from mmjax.data.scenes.captions import RELATION_WORDS, Names
from mmjax.data.scenes.dice import Dice
from mmjax.data.scenes.facts import Claim, relations
from mmjax.data.scenes.graph import Graph, Group
from mmjax.data.scenes.language import is_are, listing
from mmjax.data.scenes.questions import Question

_APART = 0.10  # how far a member must stand out from its group to be "the one on the left"

_SIDES = (
    # axis, sign, words for two members, words for more
    (0, 1, ("the {} on the left", "the left {}"), ("the leftmost {}", "the {} farthest to the left")),
    (0, -1, ("the {} on the right", "the right {}"), ("the rightmost {}", "the {} farthest to the right")),
    (1, 1, ("the upper {}", "the {} higher up"), ("the topmost {}", "the highest {}")),
    (1, -1, ("the lower {}", "the {} lower down"), ("the lowest {}", "the {} nearest to the bottom")),
)


def referring(graph: Graph, names: Names, dice: Dice) -> list[tuple[str, int]]:
    """(expression, index of the object in `graph.objects`): each expression fits that object and no other."""
    found: list[tuple[str, int]] = []
    stated = relations(graph)
    for group in graph.groups:
        name = names(group.thing)
        if group.count == 1:
            found.append((f"the {name.one}", group.members[0]))
            about = [claim for claim in stated if claim.a == group.thing]
            if about:
                found.append((_by_relation(graph, names, dice.choice(about), dice), group.members[0]))
            continue
        for axis, sign, pair, more in _SIDES:
            member = _outermost(graph, group, axis, sign)
            if member is not None:
                words = dice.choice(pair if group.count == 2 else more)
                found.append((words.format(name.one), member))
    biggest = _biggest(graph)
    if biggest is not None:
        found.append((dice.choice(("the biggest object", "the largest object", "the biggest thing")), biggest))
    return dice.shuffled(found)


def _by_relation(graph: Graph, names: Names, claim: Claim, dice: Dice) -> str:
    other = graph.group(claim.b)
    assert other is not None
    word = dice.choice([w for w in RELATION_WORDS[str(claim.value)] if not w.startswith(("higher", "lower"))])
    return f"the {names(claim.a).one} {word} {names(claim.b).definite(other.count)}"


def _outermost(graph: Graph, group: Group, axis: int, sign: int) -> int | None:
    """The member that stands out clearly along an axis, if one does."""
    order = sorted(group.members, key=lambda member: sign * graph.objects[member].box.centre[axis])
    first, second = (graph.objects[member].box.centre[axis] for member in order[:2])
    return order[0] if abs(second - first) >= _APART else None


def _biggest(graph: Graph) -> int | None:
    """The object that is clearly bigger than every other, by its longest side and by its area."""
    if len(graph.objects) < 2:
        return None
    order = sorted(range(len(graph.objects)), key=lambda place: -graph.objects[place].box.area)
    first, rest = graph.objects[order[0]].box, [graph.objects[place].box for place in order[1:]]
    clear = all(first.area >= 1.3 * box.area and first.longest >= 1.2 * box.longest for box in rest)
    return order[0] if clear else None


_OPENINGS = ("What do you see in this picture?", "What is in this image?", "Describe the picture.",
             "What does the picture show?", "Can you tell me what is in the image?")  # fmt: skip
_ANSWERS = ("There {is} {things} on a {colour} background.", "I can see {things}.", "The picture shows {things}.",
            "This is a picture of {things} on a {colour} background.")  # fmt: skip
_LEADS = ("", "", "", "Thanks. ", "I see. ", "And ", "Okay. ")
_OPENER_SHARE = 0.7


def conversation(graph: Graph, names: Names, questions: Sequence[Question], dice: Dice) -> list[tuple[str, str]]:
    """Two to four exchanges as (role, text), roles 'user' and 'assistant' in turn. Most begin with a description of
    the whole picture; the questions that follow are the scene's own."""
    turns: list[tuple[str, str]] = []
    exchanges = 2 + dice.below(3)
    asked = list(questions)
    if dice.chance(_OPENER_SHARE):
        opening = dice.choice(_OPENINGS)
        turns += [("user", opening), ("assistant", _describe(graph, names, dice))]
        # What the description has already told is not asked again, as long as there is something else.
        told = ("count", "total", "colour") if "background" in turns[-1][1] else ("count", "total")
        asked.sort(key=lambda question: question.claim.kind in told)
    topics = set()
    while asked and len(turns) < 2 * exchanges:
        question = asked.pop(0)
        if question.claim.topic in topics:
            continue
        topics.add(question.claim.topic)
        text = question.text
        if turns:
            lead = dice.choice(_LEADS)
            text = f"And {text[0].lower()}{text[1:]}" if lead == "And " else lead + text
        turns += [("user", text), ("assistant", question.reply)]
    return turns


def _describe(graph: Graph, names: Names, dice: Dice) -> str:
    groups = dice.shuffled(graph.groups)
    things = listing([names(group.thing).counted(group.count) for group in groups])
    colour = graph.background.colour
    text = dice.choice(_ANSWERS).format(**{"is": is_are(groups[0].count)}, things=things, colour=colour)
    return text.replace(" a orange ", " an orange ")
