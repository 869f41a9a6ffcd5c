import errno
import html.parser
import io
import json
import math
import os
import re

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.evals.base import Tools
from mmjax.evals.report.contents import ReportData, RetrievalPanel, retrieval_panel
from mmjax.evals.report.curves import curves, pretty, smooth
from mmjax.evals.report.page import flatten
from mmjax.evals.report.pictures import choose_queries, retrievals, similarity_matrix
from mmjax.evals.report.write import write_report
from mmjax.evals.retrieval import Retrieval, captioned

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (4, 8, 8, 3), np.uint8)
VOID = {"meta", "img", "br", "line", "circle"}


def panel(name="Unseen style"):
    similarity = np.asarray(
        [[0.9, 0.1, 0.2], [0.3, 0.2, 0.8], [0.5, 0.7, 0.6], [0.4, 0.4, 0.4]], np.float32
    )  # ranks of the answers: 1, 3, 1, 2 (a tie with a wrong text)
    positives = np.asarray([[0, -1], [1, -1], [2, 1], [0, 2]])
    return RetrievalPanel(name, PICTURES, ["red <apple>", "a price of $5 & $6", "cab"], similarity, positives, PICTURES)


class Reader(html.parser.HTMLParser):
    """Checks that elements nest, and collects attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *attr) for attr in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    history = [{"step": s, "loss": 3 / s, "grad_norm": 1.0} for s in range(1, 30)]
    history += [{"step": s, "e/image_to_text_R@1": s / 40, "e/image_to_text_R@1_lo": s / 50,
                 "e/image_to_text_R@1_hi": s / 30} for s in (10, 20)]  # fmt: skip
    data = ReportData(
        title="CLIP <on> emoji",
        metrics={"e/image_to_text_R@1": 0.5, "e/image_to_text_R@1_lo": 0.25, "e/image_to_text_R@1_hi": 0.75,
                 "e/image_to_text_median_rank": 2.0, "seconds": 61.5, "bad": math.nan},
        baselines={"chance": {"e/image_to_text_R@1": 1 / 3}, "pixel match": {"e/image_to_text_R@1": 0.31}},
        history=history,
        panels=[panel()],
        settings={"Run": {"device": "cpu"}, "Model": {"img": {"width": 8, "heads": [1, 2]}}},
    )  # fmt: skip
    path = write_report(out, data)
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert not reader.open
    return out, path.read_text(encoding="utf-8"), reader


def test_the_page_asks_nothing_of_the_network(report):
    _, document, reader = report
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", document))
    sources = [value for _, key, value in reader.attributes if key in ("src", "href", "srcset")]
    assert len(sources) == 5
    assert all(value.startswith("data:image/png;base64,") for value in sources)


def test_the_page_shows_numbers_baselines_and_settings(report):
    text = " ".join(report[2].text)
    shown = ("CLIP <on> emoji", "50.0%", "25.0% – 75.0%", "33.3%", "31.0%", "e: image → text R@1", "pixel match")
    for expected in (*shown, "img.width", "1, 2", "61.5"):
        assert expected in text


def test_the_files(report):
    out, _, _ = report
    names = sorted(path.name for path in out.iterdir())
    drawn = [f"unseen_style_{which}.png" for which in ("best", "random", "similarity", "worst")]
    assert names == sorted(["curves.png", "metrics.json", "report.html", "report.json", *drawn])
    for name in names:
        if name.endswith(".png"):
            with Image.open(out / name) as image:
                assert min(image.size) > 300
                assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # something is drawn
    numbers = json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert numbers["e/image_to_text_R@1_lo"] == 0.25
    assert numbers["bad"] is None
    beside = json.loads((out / "report.json").read_text())
    assert beside["baselines"]["chance"] == {"e/image_to_text_R@1": 1 / 3}
    assert beside["settings"]["Model"] == {"img.width": "8", "img.heads": "1, 2"}


def test_a_full_disk_leaves_no_metrics_json(tmp_path, monkeypatch):
    """metrics.json says that a run has ended: it comes last, and whole."""
    written = []

    def fsync(_, real=os.fsync):
        written.append(1)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"metrics\.json could not be written: No space left on device"):
        write_report(tmp_path, ReportData("t", {"loss": 1.5}))
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json"}


def test_a_report_of_metrics_alone(tmp_path):
    path = write_report(tmp_path, ReportData("t", {"loss": 1.5}))
    assert "1.5" in path.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "report.html", "report.json"]


def test_ranks_margins_and_the_choice_of_queries():
    shown = panel()
    np.testing.assert_array_equal(shown.ranks(), [1, 3, 1, 2])
    np.testing.assert_allclose(shown.margins(), [0.7, -0.6, 0.2, 0.0], atol=1e-6)
    assert choose_queries(shown, "best", 2) == [0, 2]
    assert choose_queries(shown, "worst", 2) == [1, 3]
    assert len(set(choose_queries(shown, "random", 3))) == 3


def texts_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_matrix_takes_each_right_text_once():
    figure = similarity_matrix(panel())
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["red <apple>", "a price of $5 & $6", "cab"]
    assert texts_of(figure)[:3] == [".90", ".10", ".20"]


def test_a_missed_answer_is_shown_with_its_rank():
    assert "rank 3 · 0.20" in texts_of(retrievals(panel(), [1], found=2))
    assert not any(text.startswith("rank") for text in texts_of(retrievals(panel(), [0], found=2)))


def test_same_figure_same_bytes():
    from mmjax.evals.report.style import to_png

    first, second = (to_png(similarity_matrix(panel())) for _ in range(2))
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        assert image.format == "PNG"


def test_curves_need_two_points():
    assert curves([{"step": 1, "loss": 1.0}]) is None
    assert len(curves([{"step": s, "loss": 1.0} for s in (1, 2)]).axes) == 1


def test_smoothing_keeps_a_constant_and_the_middle_of_a_line():
    np.testing.assert_allclose(smooth(np.full(50, 3.0)), 3)
    np.testing.assert_allclose(smooth(np.arange(100.0))[20:80], np.arange(20.0, 80.0))


def test_names_and_settings():
    assert pretty("new_style/text_to_image_R@5") == "new style: text → image R@5"
    assert pretty("loss") == "loss"
    assert flatten({"a": {"b": (1, 2)}, "c": None}) == {"a.b": "1, 2", "c": "None"}


def test_panel_of_an_evaluator():
    source = [{"image": picture, "texts": [f"text {i}", f"other {i}"]} for i, picture in enumerate(PICTURES)]
    tools = Tools(lambda spec: source, lambda image: image, lambda texts: None)
    evaluator = Retrieval("e", captioned(source, tools), tools.tokenize)
    images, texts = np.eye(4, 5, dtype=np.float32), np.eye(4, 5, dtype=np.float32).repeat(2, axis=0)
    shown = retrieval_panel(evaluator, images, texts)
    np.testing.assert_array_equal(shown.similarity, np.eye(4).repeat(2, axis=1))
    np.testing.assert_array_equal(shown.positives, [[0, 1], [2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(shown.gallery_images[5], PICTURES[2])  # a caption is shown with its picture
    np.testing.assert_array_equal(shown.ranks(), 1)
