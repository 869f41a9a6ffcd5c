"""`mmjax data`: what it prints and writes, and mistakes in one line."""

import json

import pytest
from PIL import Image

from mmjax import cli
from tests.data import own_data


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    pairs = own_data.make_pairs(64, own_data.spread(64))
    return own_data.write_jsonl(pairs, tmp_path_factory.mktemp("pairs"))


def test_inspect(spec, tmp_path, capsys):
    argv = ["data", "inspect", "--data", spec, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "found.json")]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert "items       64, 55 usable, 55 images" in out and f"pictures    {tmp_path / 'out' / 'contact.png'}" in out
    assert "reading" in err  # the progress line
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == json.loads((tmp_path / "out" / "survey.json").read_text()) and found["usable"] == 55
    with Image.open(tmp_path / "out" / "contact.png") as sheet:
        assert sheet.width > 1000
    assert cli.main(["data", "inspect", "--data", spec, "--limit", "10"]) == 0
    assert "items       10 (of 64, spread evenly)" in capsys.readouterr().out


def test_convert(spec, tmp_path, capsys):
    argv = ["data", "convert", "--data", spec, "--output", str(tmp_path / "out"), "--format", "arrayrecord",
            "--shards", "2", "--workers", "1"]  # fmt: skip
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'out'}: 55 records in 2 shards" in out and "writing" in err
    assert "dropped: 2 empty caption, 2 truncated image, " in out and "ledger.jsonl says which" in out
    assert f"opens as: arrayrecord:{tmp_path / 'out'}\n" in out
    assert cli.main(["data", "inspect", "--data", f"arrayrecord:{tmp_path / 'out'}"]) == 0
    assert "items       55, 55 usable" in capsys.readouterr().out
    assert cli.main([*argv, "--shards", "3"]) == 2
    assert capsys.readouterr().err.endswith("(shards 2 -> 3); give another --output\n")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["inspect", "--data", "emojy"], "mmjax data: unknown data source: 'emojy'; valid: "),
        (["inspect", "--data", "emoji", "--limit", "0"], "mmjax data: --limit 0: at least 1\n"),
        (["inspect", "--data", "emoji", "--json", "no/such/f.json"], "mmjax data: --json no/such/f.json: there is no"),
        (["convert", "--data", "emoji", "--output", "x", "--format", "arrayrecord", "--shards", "0"],
         "mmjax data: --shards 0: at least 1\n"),
    ],
)  # fmt: skip
def test_mistakes(argv, text, capsys):
    assert cli.main(["data", *argv]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(text) and err.count("\n") == 1 and not out


def test_debug_may_stand_anywhere(capsys):
    from mmjax.core.errors import UserError

    for argv in (["data", "--debug", "inspect", "--data", "emojy"], ["data", "inspect", "--data", "emojy", "--debug"]):
        with pytest.raises(UserError):
            cli.main(argv)
