"""emoji_scenes as a source: determinism, options, splits, held-out compositions, noise."""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.data import emoji, scenes
from mmjax.data.scenes.facts import all_hold, surely_false
from mmjax.data.scenes.noise import KINDS, spoil
from mmjax.data.scenes.questions import possible_answers
from mmjax.data.scenes.things import EVERYDAY, open_world
from mmjax.data.scenes.world import composition
from mmjax.data.sources import open_source


def same(first, second):
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return first == second


def test_an_example_depends_on_options_and_index_alone():
    one, two = scenes.open(parts="all", noise=0.5), scenes.open(parts="all", noise=0.5)
    forwards = [one[index] for index in range(12)]
    backwards = [two[index] for index in reversed(range(12))][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        assert first.keys() == second.keys()
        assert all(same(first[key], second[key]) for key in first)


def test_parts_and_size_do_not_change_what_the_scene_is():
    small, large = scenes.open(parts="captions"), scenes.open(size=96, parts="all")
    for index in range(8):
        assert small[index]["texts"] == large[index]["texts"]
        assert set(small[index]) == {"key", "texts"}
    assert large[0]["image"].shape == (96, 96, 3)


def test_known_scene():
    """A change here changes everybody's data: it must be meant."""
    example = scenes.open("test", seed=7)[3]
    assert example["key"] == "emoji_scenes/default/test/7/3"
    assert example["names"] == ["turtle", "turtle", "tree"] and example["background"] == "purple"
    assert example["texts"] == [
        "a drawing of two turtles and a tree",
        "a picture of two turtles at the bottom",
        "I can see a tree and two turtles against a purple background.",
        "There are two turtles near the bottom. The background is purple.",
        "Here is a tree and turtles.",
    ]
    assert example["boxes"][2].round(3).tolist() == pytest.approx([0.389, 0.308, 0.826, 0.789])
    assert example["depth"].tolist() == [0, 2, 1]


def test_seeds_and_splits_differ():
    specs = [("train", 0), ("train", 1), ("val", 0), ("test", 0), ("all-test", 0)]
    texts = [tuple(scenes.open(arg, seed=seed, parts="captions")[5]["texts"]) for arg, seed in specs]
    assert len(set(texts)) == len(specs)


def test_source_pickles_as_its_options_and_still_works():
    source = scenes.open("test", noise=0.2)
    before = source[4]
    data = pickle.dumps(source)
    assert len(data) < 2000
    after = pickle.loads(data)[4]
    assert all(same(before[key], after[key]) for key in before)


def test_example_fields():
    example = open_source("emoji_scenes:all-test?size=32&length=50&parts=all&noise=1.0&styles=twemoji")[49]
    assert example["image"].shape == (32, 32, 3) and example["image"].dtype == np.uint8
    count = len(example["names"])
    assert example["boxes"].shape == (count, 4) and example["boxes"].dtype == np.float32
    assert sorted(example["depth"]) == list(range(count))
    for key in ("texts", "texts_true", "caption_is_true", "noise_kind"):
        assert len(example[key]) == 5
    assert {len(question) for question in example["questions"]} == {3}
    assert all(0 <= place < count for _, place in example["referring"])
    roles = [role for role, _ in example["conversation"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) and 2 <= len(roles) // 2 <= 4


def test_the_name_opens_the_same_source():
    source = scenes.open("all-val", size=40, seed=3, length=10, noise=0.25, kinds=3, styles="noto", parts="captions")
    again = open_source(source.name)
    assert again.name == source.name and again[9] == source[9]


@pytest.mark.parametrize(("split", "kinds"), [("train", 1), ("train", 2), ("test", 2)])
def test_scenes_have_at_most_so_many_kinds_of_things(split, kinds):
    source, every = (scenes.open(split, length=60, kinds=most) for most in (kinds, 4))
    found = {len(source.scene(index).graph.groups) for index in range(60)}
    assert found == set(range(1 if split == "train" else 2, kinds + 1))
    assert source.scene(0).key != every.scene(0).key


def test_lengths_and_bounds():
    assert [len(scenes.open(split)) for split in ("train", "val", "test")] == [100_000, 2_000, 5_000]
    source = scenes.open(length=3)
    for index in (3, -1):
        with pytest.raises(IndexError):
            source[index]
    assert len({source[index]["key"] for index in range(3)}) == 3


@pytest.mark.parametrize(
    ("arg", "options", "message"),
    [
        ("tset", {}, "'test'"),
        ("train-test", {}, "split twice"),
        ("test", {"split": "train"}, "split twice"),
        (None, {"styles": "apple"}, "fluent"),
        (None, {"parts": "image,sound"}, "questions"),
        (None, {"noise": 1.5}, "0 to 1"),
        (None, {"kinds": 5}, "1 to 4"),
        ("val", {"kinds": 1}, "2 to 4"),
        (None, {"size": 2}, "pixels"),
        (None, {"length": 0}, "length"),
    ],
)
def test_impossible_options_are_named(arg, options, message):
    with pytest.raises(UserError, match=message):
        scenes.open(arg, **options)


def test_default_world_is_64_training_concepts_in_all_styles():
    world = open_world("default", emoji.STYLES)
    assert len(world) == len(EVERYDAY) == 64
    assert all(emoji.concepts()[thing.row].split == "train" for thing in world.things)
    assert all(emoji.concepts()[thing.row].key == thing.key for thing in world.things)
    words = [thing.words for thing in world.things]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(words, 2))
    assert len({thing.name.one for thing in world.things}) == 64


def test_world_all_has_every_countable_training_concept_and_no_other():
    world = open_world("all", emoji.TRAIN_STYLES)
    splits = Counter(emoji.concepts()[thing.row].split for thing in world.things)
    assert set(splits) == {"train"} and splits["train"] > 900
    assert len(open_world("all", emoji.STYLES)) <= len(world)
    assert len({thing.name.one for thing in world.things}) == len(world)


def pairs_of(scene):
    keys = [scene.world.things[group.thing].key for group in scene.graph.groups]
    return [composition(a, b) for a, b in itertools.combinations(keys, 2)]


@pytest.mark.parametrize("world", ["default", "all"])
def test_held_out_pairs_meet_only_in_their_split(world):
    for split in ("train", "val", "test"):
        source = scenes.open(f"{world}-{split}", seed=11)
        for index in range(100):
            pairs = pairs_of(source.scene(index))
            assert set(pairs) <= {"train", split}
            assert split == "train" or split in pairs


def test_composition_is_symmetric_and_has_the_promised_shares():
    keys = [concept.key for concept in emoji.concepts()[:300]]
    pairs = list(itertools.combinations(keys, 2))
    shares = Counter(composition(a, b) for a, b in pairs)
    assert shares["test"] / len(pairs) == pytest.approx(0.10, abs=0.01)
    assert shares["val"] / len(pairs) == pytest.approx(0.05, abs=0.007)
    assert all(composition(a, b) == composition(b, a) for a, b in pairs[:200])


def test_every_thing_appears():
    source = scenes.open(parts="graph")
    seen = Counter(name for index in range(1000) for name in set(source[index]["names"]))
    assert len(seen) == 64
    assert max(seen.values()) < 3 * min(seen.values())


def test_all_possible_answers_are_known():
    found = possible_answers(open_source("emoji_scenes:train").world)
    assert len(set(found)) == len(found) and found[:3] == ["yes", "no", "0"]
    given = set()
    for split in ("train", "val", "test"):
        scenes = open_source(f"emoji_scenes:{split}?parts=questions&length=300")
        given |= {answer for i in range(300) for _, answer, _ in scenes[i]["questions"]}
    assert given <= set(found) and len(given) > 0.8 * len(found)


def test_without_noise_nothing_is_marked():
    assert "caption_is_true" not in scenes.open()[0]


def test_noise_has_the_asked_share_of_false_captions_and_keeps_the_truth():
    source, clean = scenes.open(noise=0.3, parts="captions"), scenes.open(parts="captions")
    kinds = Counter()
    for index in range(160):
        example = source[index]
        assert example["texts_true"] == clean[index]["texts"]
        for text, truth, is_true, kind in zip(
            *(example[key] for key in ("texts", "texts_true", "caption_is_true", "noise_kind")), strict=True
        ):
            assert (text == truth) == is_true == (kind == "")
            kinds[kind] += 1
    share = 1 - kinds[""] / kinds.total()
    assert share == pytest.approx(0.3, abs=0.05)  # 800 captions: three standard deviations
    assert set(kinds) == {"", *KINDS} and all(kinds[kind] > 20 for kind in KINDS)


@pytest.mark.parametrize("arg", ["train", "all-train"])
def test_spoiled_captions_are_false_and_say_how(arg):
    source = scenes.open(arg, noise=1.0)
    for index in range(100):
        scene = source.scene(index)
        plans = scene.plans()
        other = source.scene(index + 1)
        wrong, kinds = spoil(scene.graph, scene.world, plans, 1.0, scene.dice("x"), lambda _, o=other: o.plans())
        for before, after, kind in zip(plans, wrong, kinds, strict=True):
            assert all_hold(scene.graph, before.claims) and surely_false(scene.graph, after.claims)
            changed = [(a, b) for a, b in zip(before.claims, after.claims, strict=False) if a != b]
            if kind == "reversed":
                assert [a.kind for a, _ in changed] == ["relation"]
            elif kind == "swapped":
                strangers = {b.a for _, b in changed} | {b.b for _, b in changed}
                assert len({thing for thing in strangers - {-1} if scene.graph.group(thing) is None}) == 1


def test_scenes_can_be_shown_in_the_held_out_style():
    source = scenes.open("test", styles="fluent")
    assert {item.style for index in range(10) for item in source.scene(index).graph.objects} == {"fluent"}
