"""The same pairs in every form: equal items in equal order, and equal reasons where they are damaged."""

import pickle

import numpy as np
import pytest

from mmjax.data.example import BadExample
from mmjax.data.sources import open_source
from tests.data import own_data

COUNT = 60
DAMAGE = own_data.spread(COUNT, 0.3)


@pytest.fixture(scope="module")
def pairs():
    return own_data.make_pairs(COUNT, DAMAGE, size=24)


@pytest.fixture(scope="module", params=own_data.WRITERS)
def source(request, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return open_source(own_data.WRITERS[request.param](pairs, folder))


def test_every_kind_of_damage_is_there(pairs):
    kinds = {pair.damage for pair in pairs} - {None}
    assert kinds == {*own_data.DAMAGE, *own_data.ODD}
    assert set(own_data.expected(pairs)) < set(DAMAGE)


def test_records(source, pairs):
    assert len(source) == len(pairs)
    broken = own_data.expected(pairs)
    decoded = ("truncated image", "image too large", "not an image")  # found when the image is decoded
    for place, pair in enumerate(pairs):
        if place in broken and broken[place] not in decoded:
            with pytest.raises(BadExample):
                source.record(place)
            continue
        record = source.record(place)
        assert (record.key, record.image, record.label) == (pair.key, pair.image, None), place
        assert record.texts == [pair.text.decode()]


def test_damaged_items_say_why(source, pairs):
    found = {}
    for place, pair in enumerate(pairs):
        try:
            example = source[place]
        except BadExample as error:
            found[place] = error.reason
            continue
        assert example["key"] == pair.key and example["texts"] == [pair.text.decode()]
        assert example["image"].dtype == np.uint8 and example["image"].shape[:2] == (24, 24)
    assert found == own_data.expected(pairs)


def test_pickles_without_open_files(source, pairs):
    good = next(place for place in range(len(pairs)) if place not in own_data.expected(pairs))
    first = source.record(good)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.record(good) == first and len(copy) == len(source) and copy.name == source.name


def test_positions_outside_are_index_errors(source, pairs):
    for place in (-1, len(pairs)):
        with pytest.raises(IndexError, match=f"item {place} of {len(pairs)}"):
            source.record(place)
