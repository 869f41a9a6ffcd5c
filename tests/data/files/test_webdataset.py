import io
import json
import os
import pickle
import shutil
import tarfile

import pytest

from mmjax.core.errors import UserError
from mmjax.data.example import BadExample
from mmjax.data.files import tar_index
from mmjax.data.sources import open_source
from tests.data import own_data

PNG = own_data.encode(own_data.picture(0, 8))


def write(path, members, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path):
    return write(tmp_path / "a.tar", [("1.png", PNG), ("1.txt", "one"), ("2.txt", "two"), ("2.png", PNG)])


@pytest.fixture
def scans(monkeypatch):
    """Paths of the shards that were scanned."""
    found = []
    scan = tar_index.scan_shard
    monkeypatch.setattr(tar_index, "scan_shard", lambda path: found.append(path) or scan(path))
    return found


def test_the_index_is_built_once_and_kept_beside_the_shard(shard, scans):
    first = open_source(f"webdataset:{shard}")
    assert os.path.exists(f"{shard}.mmjax-index") and scans == [str(shard)]
    again = open_source(f"webdataset:{shard}")
    assert [again.record(i) for i in range(2)] == [first.record(i) for i in range(2)]
    assert pickle.loads(pickle.dumps(again)).record(1) == first.record(1)
    assert scans == [str(shard)]


def test_a_changed_shard_is_read_again(shard, scans):
    open_source(f"webdataset:{shard}")
    before = os.stat(shard)
    write(shard, [("1.png", PNG), ("1.txt", "new"), ("2.txt", "two"), ("2.png", PNG)])  # of the same size
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert os.stat(shard).st_size == before.st_size
    assert open_source(f"webdataset:{shard}").record(0).texts == ["new"] and len(scans) == 2
    write(shard, [("1.png", PNG), ("1.txt", "x" * 20_000)])
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert len(open_source(f"webdataset:{shard}")) == 1 and len(scans) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 1}\n["1", {}]\n', None])
def test_a_damaged_index_is_built_again(shard, scans, damage):
    open_source(f"webdataset:{shard}")
    index = shard.with_name("a.tar.mmjax-index")
    index.write_bytes(index.read_bytes()[:-5] if damage is None else damage)
    assert len(open_source(f"webdataset:{shard}")) == 2 and len(scans) == 2


def test_where_the_folder_cannot_be_written_the_index_goes_to_the_cache(shard, scans, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make = tar_index.tempfile.mkstemp

    def refuse(*, dir, **options):
        if dir == str(tmp_path):
            raise PermissionError(13, "read-only")
        return make(dir=dir, **options)

    monkeypatch.setattr(tar_index.tempfile, "mkstemp", refuse)
    for _ in range(2):
        assert len(open_source(f"webdataset:{shard}")) == 2
    assert not os.path.exists(f"{shard}.mmjax-index") and scans == [str(shard)]
    assert len(list((tmp_path / "cache/mmjax/webdataset").iterdir())) == 1
    monkeypatch.setattr(tar_index.tempfile, "mkstemp", lambda **options: refuse(**{**options, "dir": str(tmp_path)}))
    shutil.rmtree(tmp_path / "cache")
    assert len(open_source(f"webdataset:{shard}")) == 2 and len(scans) == 2  # kept nowhere: still usable


def test_members_that_make_a_sample(tmp_path):
    long = "d" * 120 + "/x"
    members = [("./a/1.png", PNG), ("./a/1.txt", "one"), (".hidden", "x"), ("README", "x"), ("b.seg.png", PNG),
               ("b.json", json.dumps({"caption": ["two", "zwei"], "label": 3})), ("b.jpg", PNG),
               (f"{long}.png", PNG), (f"{long}.cls", "1"), (f"{long}.txt", "three")]  # fmt: skip
    source = open_source(f"webdataset:{write(tmp_path / 'a.tar', members)}")
    records = [source.record(i) for i in range(len(source))]
    assert [record.key for record in records] == ["a/1", "b", long]
    assert [record.texts for record in records] == [["one"], ["two", "zwei"], ["three"]]
    assert [record.label for record in records] == [None, 3, 1]


def test_parts_by_name(tmp_path):
    member = json.dumps({"title": "from json", "uid": 9, "score": 0.5})
    path = write(tmp_path / "a.tar", [("1.mask.png", b"m"), ("1.jpg", PNG), ("1.json", member), ("1.alt", "one\ntwo")])
    source = open_source(f"webdataset:{path}?image=mask.png&text=alt&key=uid&extra=score&lines=true")
    record = source.record(0)
    assert (record.image, record.texts, record.key, record.extra) == (b"m", ["one", "two"], "9", {"score": 0.5})
    assert open_source(f"webdataset:{path}?text=title").record(0).image == PNG
    with pytest.raises(UserError, match=r"unknown part text=titel of the samples .*'titel'; valid: mask.png, jpg"):
        open_source(f"webdataset:{path}?text=titel")


def test_class_names_come_from_the_samples(tmp_path):
    def sample(key, label, name):
        return [(f"{key}.png", PNG), (f"{key}.json", json.dumps({"label": label, "labels": {"en": name}}))]

    path = write(tmp_path / "a.tar", sample(1, 2, "dog") + sample(2, 0, "cat"))
    source = open_source(f"webdataset:{path}")
    assert source.class_names() == ["cat", "1", "dog"] and source[0]["texts"] == ["dog"]
    path = write(tmp_path / "b.tar", sample(1, 0, "dog") + sample(2, 0, "cat"))
    with pytest.raises(UserError, match="class 0 has several names: cat, dog"):
        open_source(f"webdataset:{path}").class_names()


def test_damaged_json_is_a_bad_example(tmp_path):
    path = write(tmp_path / "a.tar", [("1.png", PNG), ("1.txt", "x"), ("2.png", PNG), ("2.json", "{"), ("3.txt", "x")])
    source = open_source(f"webdataset:{path}")
    for index, reason in ((1, "malformed record"), (2, "missing file")):
        with pytest.raises(BadExample, match=reason):
            source.record(index)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"x" * 2000), "is no tar file, or a damaged one"),
        (lambda path: tarfile.open(path, "w:gz").close(), r"is compressed \(gzip\); .* unpack it"),
        (lambda path: write(path, []), "no samples"),
        (lambda path: write(path, [("1.txt", "x")]), r"no images: the first samples of .* have txt; say which"),
        (lambda path: write(path, [("1.png", PNG)]), "no captions: the first samples of .* have png; say where"),
    ],
)
def test_shards_that_cannot_be_used(make, words, tmp_path):
    path = tmp_path / "a.tar"
    make(path)
    with pytest.raises(UserError, match=words):
        open_source(f"webdataset:{path}")


def test_a_shard_that_is_cut_short(tmp_path):
    path = write(tmp_path / "a.tar", [("1.txt", "x"), ("1.png", PNG), ("2.txt", "x"), ("2.png", os.urandom(50_000))])
    whole = path.read_bytes()
    for size in (len(whole) - 30_000, 2560 + 512 + 100, 700):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"a\.tar"):
            open_source(f"webdataset:{path}")
