import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.data import augment, tasks
from mmjax.data.pipeline import Pipeline
from mmjax.data.sources import open_source
from mmjax.data.text import TextChoice
from mmjax.data.tokenizers import ClipBPE, SentencePiece
from mmjax.data.tokenizers.wordpiece import SPECIALS, WordPiece

WORDS = WordPiece([*SPECIALS, "a", "cat", "##s", "##y", "red"])


def batch(tokenizer=WORDS, **options):
    source = open_source("emoji:test?style=noto")
    image = augment.from_config({"preset": "sprite", "size": 16})
    task = tasks.from_config({"kind": "masked", **options})
    text = TextChoice(forms={"label": 1})
    return Pipeline(source, tokenizer=tokenizer, length=8, image=image, text=text, task=task, batch_size=4)[0]


def test_modalities():
    assert set(batch()) == {"image", "ids", "valid", "index"}
    assert set(batch(modality="image", whole_words=True)) == {"image", "index"}
    assert set(batch(modality="text", whole_words=True)) == {"ids", "valid", "begins", "index"}


def test_begins_says_where_words_begin():
    (begins,) = tasks.Masked(whole_words=True).collate([{"text": "a catsy red"}], WORDS, 9)["begins"]
    assert begins.astype(int).tolist() == [1, 1, 1, 0, 0, 1, 1, 0, 0]  # [CLS] a cat ##s ##y red [SEP]
    pieces = SentencePiece.train(["a red circle", "a blue square"], 272)
    ids = pieces.encode("a red")
    words = np.flatnonzero(pieces.begins_word()[ids])
    assert pieces.decode(ids[words[1] :]).strip() == "red" and len(words) == 2


def test_mistakes():
    with pytest.raises(UserError, match="ClipBPE does not say which tokens begin a word"):
        batch(ClipBPE(), whole_words=True)
    with pytest.raises(UserError, match="modality of the task masked"):
        tasks.from_config({"kind": "masked", "modality": "audio"})
