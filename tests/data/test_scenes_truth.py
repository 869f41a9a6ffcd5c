"""What emoji_scenes says is compared with what it draws: boxes, order and relations are measured on the pixels."""

import re
from collections import Counter

import numpy as np
import pytest

from mmjax.data import emoji, scenes
from mmjax.data.scenes.background import COLOURS, PATTERNS, paint
from mmjax.data.scenes.facts import all_hold
from mmjax.data.scenes.render import draw
from mmjax.data.scenes.sprites import VISIBLE, SpriteBank
from mmjax.data.scenes.things import EVERYDAY

SIZE = 256
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


@pytest.fixture(scope="module")
def source():
    return scenes.open(size=SIZE, seed=5)


def alpha_of(item, bank, size=SIZE):
    """One object alone: how opaque each pixel is, from what it does to a black and to a white canvas."""
    black, white = np.zeros((size, size, 3), np.uint8), np.full((size, size, 3), 255, np.uint8)
    draw(black, item, bank)
    draw(white, item, bank)
    return 255 - (white.astype(int) - black).max(axis=2)


def measured_box(alpha):
    rows, columns = np.flatnonzero((alpha > VISIBLE).any(axis=1)), np.flatnonzero((alpha > VISIBLE).any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / alpha.shape[0]


@pytest.mark.parametrize("size", [64, 256])
def test_boxes_are_where_the_pixels_are(source, size):
    for index in range(40):
        scene = source.scene(index)
        for item, box in zip(scene.graph.objects, scene.boxes(), strict=True):
            measured = measured_box(alpha_of(item, scene.bank, size))
            # Rounding of place and size to pixels, and a filter that spreads the edge of a sprite that is enlarged.
            assert np.abs(measured - box).max() * size <= (1.6 if size == 64 else 3.0)


def test_nothing_is_cut_off_or_hidden(source):
    for index in range(60):
        scene = source.scene(index)
        assert scene.boxes().min() >= 0 and scene.boxes().max() <= 1
        order = sorted(scene.graph.objects, key=lambda item: item.depth)
        masks = [alpha_of(item, scene.bank) > 127 for item in order]
        for place, mask in enumerate(masks):
            covered = np.any(masks[place + 1 :], axis=0) & mask if masks[place + 1 :] else np.zeros_like(mask)
            assert covered.sum() < 0.75 * mask.sum()


def test_the_image_is_the_background_and_the_objects_in_order(source):
    scene = next(source.scene(index) for index in range(200) if source.scene(index).graph.contacts)
    image = scene.render(SIZE)
    (front, behind) = next(iter(scene.graph.contacts))
    front_item, back_item = scene.graph.objects[front], scene.graph.objects[behind]
    assert front_item.depth > back_item.depth
    both = (alpha_of(front_item, scene.bank) == 255) & (alpha_of(back_item, scene.bank) == 255)
    alone = np.zeros((SIZE, SIZE, 3), np.uint8)
    draw(alone, front_item, scene.bank)
    assert both.any() and np.array_equal(image[both], alone[both])
    nothing = np.all([alpha_of(item, scene.bank) == 0 for item in scene.graph.objects], axis=0)
    assert np.array_equal(image[nothing], paint(scene.graph.background, SIZE)[nothing])


def test_two_sizes_show_the_same_scene(source):
    for index in range(5):
        scene = source.scene(index)
        large = scene.render(256).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
        assert np.abs(large - scene.render(64)).mean() < 6


class Judge:
    """Judges claims by measured pixels alone; shares no code with mmjax's own check."""

    def __init__(self, scene):
        self.scene = scene
        self.alphas = [alpha_of(item, scene.bank) for item in scene.graph.objects]
        self.boxes = [measured_box(alpha) for alpha in self.alphas]
        self.things = [item.thing for item in scene.graph.objects]

    def of(self, thing):
        return [place for place, other in enumerate(self.things) if other == thing]

    def centre(self, place):
        box = self.boxes[place]
        return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2

    def longest(self, place):
        box = self.boxes[place]
        return max(box[2] - box[0], box[3] - box[1])

    def true(self, claim):
        mine, other = self.of(claim.a), self.of(claim.b)
        pairs = [(a, b) for a in mine for b in other]
        if claim.kind == "count":
            return len(mine) == claim.value
        if claim.kind == "several":
            return len(mine) > 1
        if claim.kind == "total":
            return len(self.things) == claim.value
        if claim.kind == "size":
            return all((self.longest(place) > 0.34) == (claim.value == "big") for place in mine)
        if claim.kind == "bigger":
            return all(self.longest(a) > 1.2 * self.longest(b) for a, b in pairs)
        if claim.kind == "zone":
            return all(self.in_zone(place, word) for place in mine for word in claim.value.split())
        if claim.kind == "colour":
            pixels = paint(self.scene.graph.background, 32).reshape(-1, 3).mean(axis=0)
            return claim.value == min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - pixels).sum())
        if claim.kind == "pattern":
            return paint(self.scene.graph.background, 64).std(axis=(0, 1)).max() > 2
        if claim.value in ("front", "behind"):
            a, b = pairs[0]
            over = self.visible_over(a, b) if claim.value == "front" else self.visible_over(b, a)
            return len(pairs) == 1 and over
        axis, sign = {"left": (0, 1), "right": (0, -1), "above": (1, 1), "below": (1, -1)}[claim.value]
        return all(sign * (self.centre(b)[axis] - self.centre(a)[axis]) > 0.1 for a, b in pairs)

    def in_zone(self, place, word):
        x, y = self.centre(place)
        inside = {"left": x < 0.4, "right": x > 0.6, "top": y < 0.4, "bottom": y > 0.6}
        return max(abs(x - 0.5), abs(y - 0.5)) < 0.12 if word == "middle" else inside[word]

    def visible_over(self, front, back):
        both = (self.alphas[front] > 200) & (self.alphas[back] > 200)
        image = self.scene.render(SIZE).astype(int)
        far = {place: np.abs(image - self.alone(place)).max(axis=2)[both] for place in (front, back)}
        return both.sum() > 8 and (far[front] < far[back]).sum() > (far[front] > far[back]).sum()

    def alone(self, place):
        canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
        draw(canvas, self.scene.graph.objects[place], self.scene.bank)
        return canvas


@pytest.mark.parametrize("arg", ["train", "all-test"])
def test_every_claim_of_captions_and_questions_is_true_of_the_pixels(arg):
    source = scenes.open(arg, size=SIZE, seed=1)
    judged = Counter()
    for index in range(80):
        scene = source.scene(index)
        judge = Judge(scene)
        for plan in scene.plans():
            assert all_hold(scene.graph, plan.claims)
            for claim in plan.claims:
                assert judge.true(claim), (index, claim)
                judged[claim.kind, claim.value if claim.kind == "relation" else ""] += 1
        for question in scene.questions():
            assert judge.true(question.claim) == question.truth, (index, question)
            if question.answer in ("yes", "no") and question.kind != "exists":
                assert (question.answer == "yes") == question.truth
    relations = {value for kind, value in judged if kind == "relation"}
    assert relations == {"left", "right", "above", "below", "front", "behind"}
    assert {kind for kind, _ in judged} >= {"count", "several", "size", "zone", "bigger", "colour", "pattern", "total"}


def test_words_mean_what_the_viewer_sees():
    """Read back from the text, without the claims: 'a dog to the left of two cars' has every dog left of every car."""
    singular = {name: one for one, many in EVERYDAY.values() for name in (one, many)}
    nouns = "|".join(sorted(singular, key=len, reverse=True))
    noun = rf"(a|an|two|three|four|the|the two|the three|the four) ({nouns})"
    word = (
        r"(?:(?:is|are) )?(to the left of|left of|to the right of|right of|above|below|higher up than|lower down than)"
    )
    pattern = re.compile(rf"(?:^|^a picture of |; ){noun} {word} {noun}\.?$", re.IGNORECASE)
    axis_sign = {
        "left": (0, -1),
        "right": (0, 1),
        "above": (1, -1),
        "higher": (1, -1),
        "below": (1, 1),
        "lower": (1, 1),
    }
    source = scenes.open(parts="captions,graph", seed=2)
    read = Counter()
    for index in range(400):
        example = source[index]
        centres = (example["boxes"][:, :2] + example["boxes"][:, 2:]) / 2
        for text in example["texts"]:
            found = pattern.search(text)
            if not found:
                continue
            count, first, relation, _, second = found.groups()
            key = next(name for name in axis_sign if name in relation)
            axis, sign = axis_sign[key]
            a, b = (
                [place for place, name in enumerate(example["names"]) if name == singular[group.lower()]]
                for group in (first, second)
            )
            number = count.lower().removeprefix("the ")
            assert a and b and (number == "the" or len(a) == NUMBERS[number]), text
            assert all(sign * (centres[i, axis] - centres[j, axis]) > 0 for i in a for j in b), text
            read[key] += 1
    assert all(read[key] > 5 for key in axis_sign), read


def test_conversations_do_not_ask_twice_and_answer_what_is_true(source):
    openings = 0
    for index in range(80):
        scene = source.scene(index)
        known = {question.text.lower(): question.reply for question in scene.questions()}
        turns = scene.conversation()
        asked = [text for role, text in turns if role == "user"]
        assert len({text.lower() for text in asked}) == len(asked)
        for (_, said), (_, reply) in zip(turns[::2], turns[1::2], strict=True):
            text = re.sub(r"^(Thanks\. |I see\. |Okay\. |And )", "", said).lower()
            if text not in known:
                openings += 1
                assert said == turns[0][1]
                for name in set(scene.names()):
                    assert name in reply or EVERYDAY_PLURAL[name] in reply
            else:
                assert reply == known[text]
    assert 40 < openings < 68


EVERYDAY_PLURAL = dict(EVERYDAY.values())


def test_yes_and_no_are_equally_likely_for_every_kind():
    source = scenes.open()
    answers = Counter()
    for index in range(300):
        for question in source.scene(index).questions():
            if question.answer in ("yes", "no"):
                answers[question.kind, question.answer] += 1
    for kind in ("exists", "relation", "bigger"):
        yes, no = answers[kind, "yes"], answers[kind, "no"]
        assert abs(yes - no) < 4 * (yes + no) ** 0.5, (kind, yes, no)  # four standard deviations


def test_referring_expressions_fit_one_object(source):
    seen = Counter()
    for index in range(120):
        scene = source.scene(index)
        names, boxes = scene.names(), scene.boxes()
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        texts = [text for text, _ in scene.referring()]
        assert len(set(texts)) == len(texts)
        for text, place in scene.referring():
            same = [other for other, name in enumerate(names) if name == names[place]]
            if re.search(r"the (biggest|largest)", text):
                longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
                assert longest.argmax() == place
                continue
            assert names[place] in text
            side = re.search(r"\b(left|right|upper|higher up|topmost|highest|lower|lowest|bottom)", text)
            if len(same) == 1:
                continue
            assert side, text  # one of several needs a word that singles it out
            axis = 0 if side[0] in ("left", "right") else 1
            low = side[0] in ("left", "upper", "higher up", "topmost", "highest")
            best = min(same, key=lambda i: centres[i, axis] if low else -centres[i, axis])
            assert best == place, text
            seen[side[0]] += 1
    assert len(seen) >= 6, seen


def test_backgrounds_are_called_by_their_colour():
    source = scenes.open(seed=9)
    seen = Counter()
    for index in range(300):
        background = source.scene(index).graph.background
        seen[background.colour, background.pattern] += 1
        mean = paint(background, 48).reshape(-1, 3).mean(axis=0)
        assert min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - mean).sum()) == background.colour
    assert {colour for colour, _ in seen} == set(COLOURS) and {pattern for _, pattern in seen} == set(PATTERNS)


def test_enlarged_sprites_have_no_seams():
    """A sprite of one colour, half transparent at its edge, mixes with the canvas and brings in no third colour."""
    sprite = np.zeros((64, 64, 4), np.uint8)
    sprite[16:48, 16:48] = (200, 40, 40, 255)
    bank = SpriteBank(lambda style: np.broadcast_to(sprite, (1, 64, 64, 4)))
    for pixels in (20, 64, 200):
        colour, clear = bank.scaled("any", 0, pixels, False)
        assert (colour.max(axis=2) <= 255 - clear[:, :, 0]).all()
        solid = clear[:, :, 0] < 100
        assert np.abs(colour[solid][:, 1:] / colour[solid][:, :1] - 0.2).max() < 0.03


def test_flipped_sprites_are_mirrored():
    bank = SpriteBank(emoji.sprites)
    plain, flipped = (bank.scaled("noto", 5, 30, flip)[0] for flip in (False, True))
    assert np.array_equal(plain[:, ::-1], flipped) and not np.array_equal(plain, flipped)
