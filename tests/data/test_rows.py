"""Rows with pictures: places filled, padded, several in one row."""

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.data.chat import Row
from mmjax.data.rows import packed, samples, spliced, stacked


def row(ids, image, learned):
    return Row(np.array(ids, np.int32), np.array(learned, bool), np.array(image, np.int32))


ONE = row([1, 0, 5, 6], [-1, 0, -1, -1], [0, 0, 0, 1])
TEXT = row([1, 7], [-1, -1], [0, 1])


def test_features_stand_in_their_places():
    made = spliced(ONE, [np.array([3, 4, 9], np.int32)], 10)
    assert made.ids.tolist() == [1, 0, 0, 0, 5, 6] and made.slot.tolist() == [-1, 3, 4, 9, -1, -1]
    batch = stacked([made, spliced(TEXT, [], 10)])
    assert batch["ids"].tolist() == [[1, 0, 0, 0, 5, 6], [1, 7, 0, 0, 0, 0]]
    assert batch["slot"][1].tolist() == [-1] * 6 and batch["valid"].sum(1).tolist() == [6, 2]
    assert batch["mask_loss"].sum(1).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("slots", "message"),
    [([], "1 places for pictures and 0 pictures"), ([np.array([10], np.int32)], "features 10 to 10 of 10")],
)
def test_other_features_than_places_are_an_error(slots, message):
    with pytest.raises(UserError, match=message):
        spliced(ONE, slots, 10)


def test_a_row_that_is_too_long_is_an_error():
    with pytest.raises(UserError, match="a row of 4 tokens; the batch has room for 3"):
        stacked([spliced(ONE, [np.array([0], np.int32)], 1)], 3)
    with pytest.raises(UserError, match="a packed row has room for 3"):
        packed([spliced(ONE, [np.array([0], np.int32)], 1)], 3, [1], 4)


def test_packing():
    image = spliced(ONE, [np.array([0, 2], np.int32)], 3)  # 5 tokens; of its two features the first, and the newline
    text = spliced(TEXT, [], 2)
    rows = [image, text, image, text]
    made, groups = packed(rows, 12, [2, 0, 2, 0], 6)
    assert groups == [[0, 1, 2], [3]]
    assert made[0].ids.tolist() == [1, 0, 0, 5, 6, 1, 7, 1, 0, 0, 5, 6]
    assert made[0].slot.tolist() == [-1, 0, 6, -1, -1, -1, -1, -1, 2, 6, -1, -1]
    assert samples(groups, rows, 12).tolist() == [[0] * 5 + [1] * 2 + [2] * 5, [0] * 2 + [1] * 10]
    assert packed(rows, 12, [2, 0, 2, 0], 3)[1] == [[0, 1], [2, 3]]  # for want of room for features
