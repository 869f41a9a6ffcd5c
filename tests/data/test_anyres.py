"""Any resolution: the published table of grids under both rules, tiles, and which features stand where."""

import pathlib

import numpy as np
import pytest

from mmjax.commands import golden
from mmjax.core.errors import UserError
from mmjax.data import anyres
from mmjax.data.anyres import GRIDS, Size, fitted, select_grid, slots, views

TABLE = pathlib.Path(__file__).parents[1] / "golden/llava_next_anyres_table/a"


def test_the_published_table():
    results = golden.run_fixture(TABLE)
    assert len(results) == 14 and all(result.passed for result in results), [r.line() for r in results if not r.passed]


def test_tokens_of_the_released_models():
    def count(width, height):
        size = Size(width, height)
        return len(slots(size, select_grid(size, GRIDS), first=0, newline=0, tile=336, side=24))

    assert count(672, 672) == 2928 and count(336, 1008) == 2376 and count(1008, 336) == 2328
    assert len(slots(None, None, first=0, newline=0, tile=336, side=24)) == 577


def test_views_are_the_squeezed_whole_and_the_tiles_on_black():
    picture = np.zeros((4, 8, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    picture[:, 4:] = (0, 0, 255)
    size, grid = Size(8, 4), select_grid(Size(8, 4), [(8, 8), (4, 8)])
    assert grid == (8, 8) and fitted(size, grid) == (8, 4)
    made = views(picture, grid, 4)
    assert made.shape == (5, 4, 4, 3)
    np.testing.assert_allclose(made[0][:, 0], np.broadcast_to((200, 100, 50), (4, 3)), atol=12)  # not padded
    np.testing.assert_allclose(made[0][:, 3], np.broadcast_to((0, 0, 255), (4, 3)), atol=12)
    assert (made[1][:2] == 0).all() and (made[1][2:] == (200, 100, 50)).all()  # upper left: black above
    assert (made[4][:2] == (0, 0, 255)).all() and (made[4][2:] == 0).all()
    with pytest.raises(UserError, match="not made of tiles"):
        views(picture, Size(6, 8), 4)


def test_which_features_stand_where():
    # Two views before it; 2x2 patches a view; three tiles side by side, of which the picture fills the middle rows.
    options = {"first": 2, "newline": 99, "tile": 2, "side": 2}
    whole = slots(Size(3, 1), Size(6, 2), **options)
    top, bottom = [12, 13, 16, 17, 20, 21], [14, 15, 18, 19, 22, 23]
    assert whole.tolist() == [8, 9, 10, 11, *top, 99, *bottom, 99]
    assert slots(Size(3, 1), Size(6, 2), merge="spatial", **options).tolist() == [8, 9, 10, 11, *top, *bottom]
    assert slots(Size(3, 1), Size(6, 2), merge="flat", **options).tolist() == list(range(8, 24))
    assert slots(None, None, merge="flat", **options).tolist() == [8, 9, 10, 11]
    narrow = slots(Size(2, 4), Size(4, 2), **options)  # one column of four: as the rest is odd, the middle two stay
    assert narrow.tolist() == [8, 9, 10, 11, 13, 16, 99, 15, 18, 99]
    with pytest.raises(UserError, match="no row or column"):
        slots(Size(1, 1000), Size(4, 2), **options)
    with pytest.raises(UserError, match="does not exist"):
        slots(None, None, **{**options, "merge": "round"})


def test_unpadding_keeps_what_the_picture_covers():
    rows, columns = anyres.unpadded(Size(640, 480), Size(48, 48))
    assert (rows.start, rows.stop, columns) == (6, 42, slice(0, 48))
    rows, columns = anyres.unpadded(Size(480, 640), Size(48, 48), "hf")
    assert (columns.start, columns.stop, rows) == (6, 42, slice(0, 48))
