import numpy as np

from mmjax.evals.images import Pictures, examples


class Counting(list):
    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def source():
    return Counting({"images": [np.full((2, 2, 3), 10 * i + j, np.uint8) for j in range(2)]} for i in range(3))


def test_pictures_are_read_when_asked_for_and_kept_while_they_fit():
    data = source()
    pictures = Pictures(data, [(2, 1), (0, 0), (1, 1)], lambda image: image + 1, cache_bytes=2 * 12)
    assert (len(pictures), data.reads) == (3, 0)
    for _ in range(2):
        assert [int(pictures[i][0, 0, 0]) for i in range(3)] == [22, 1, 12]
    assert data.reads == 4  # two kept, the third read again


def test_limit_takes_the_ends_and_no_example_twice():
    picked = [i for i, _ in examples(list(range(7)), 3)]
    assert picked == [0, 3, 6]
    assert [i for i, _ in examples(list(range(3)), 5)] == [0, 1, 2]
