import os
import threading

import pytest

from mmjax.core.errors import UserError
from mmjax.data.files import paths
from mmjax.data.sources import open_source


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{008..010}.tar", ["s-008.tar", "s-009.tar", "s-010.tar"]),
        ("s-{8..10}.tar", ["s-8.tar", "s-9.tar", "s-10.tar"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("x{,y}", ["x", "xy"]),
    ],
)
def test_expand_braces(pattern, expected):
    assert paths.expand_braces(pattern) == expected


@pytest.mark.parametrize(("pattern", "words"), [("{3..1}", "backwards"), ("{a", "do not match"), ("a}", "do not match"),
                                                ("{a,{b,c}}", "do not match")])  # fmt: skip
def test_wrong_braces(pattern, words):
    with pytest.raises(UserError, match=words):
        paths.expand_braces(pattern)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "webdataset", "arrayrecord"])
@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("", r"needs a file: {kind}:PATH"),
        (":{folder}/*.none", r"no file matches .*/\*\.none; .* has other\.txt"),
        (":{folder}/othr.txt", r"there is no file .*/othr\.txt; .* did you mean 'other\.txt'"),
        (":{folder}/s-{{0..9}}.x", r"no file .*/s-0\.x and 9 more of the pattern"),
        (":{folder}/nowhere/a", "nor can the folder .*/nowhere be listed"),
        (":{folder}", r"the folder has no file \*\..*; .* has other\.txt"),
    ],
)
def test_what_is_not_there(kind, arg, words, tmp_path):
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(UserError, match=words.format(kind=kind)):
        open_source(kind + arg.format(folder=tmp_path))


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "arrayrecord"])
@pytest.mark.parametrize("content", [b"", b"neither this nor that" * 1000], ids=["empty", "text"])
def test_files_of_another_kind(kind, content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=f"{kind}: .*{tmp_path}/a"):
        open_source(f"{kind}:{tmp_path}/a")


def test_handles_stay_few_and_are_shared_by_threads(tmp_path):
    for number in range(8):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 100)
    handles, wrong = paths.Handles(limit=3), []

    def read(seed):
        for step in range(300):
            number = (seed * 7 + step * 3) % 8
            if handles.read(str(tmp_path / str(number)), step % 50, 5) != bytes([number]) * 5:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    before = len(os.listdir("/proc/self/fd"))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(os.listdir("/proc/self/fd")) <= before + 4 + 3
