import gzip
import hashlib
import json
import pickle

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.data import emoji


def test_pack_is_what_the_manifest_says():
    manifest = json.loads((emoji.PACK / "manifest.json").read_text())
    present = {path.name for path in emoji.PACK.iterdir() if path.is_file()}
    assert present == set(manifest["files"]) | {"manifest.json"}
    for name, entry in manifest["files"].items():
        content = (emoji.PACK / name).read_bytes()
        assert len(content) == entry["bytes"]
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name


def test_packaged_data_stays_under_8_megabytes():
    packs = emoji.PACK.parent
    assert sum(path.stat().st_size for path in packs.rglob("*") if path.is_file()) < 8_000_000


def test_notice_names_every_origin_and_licence():
    notice = (emoji.PACK / "NOTICE").read_text()
    for words in (
        "Noto Emoji", "Apache License, Version 2.0", "Twemoji", "CC-BY 4.0", "Twitter, Inc and other contributors",
        "Fluent Emoji", "Microsoft Corporation", "Miles Johnson", "MIT License", "Changed:", "re-encoded",
    ):  # fmt: skip
        assert words in notice, words


def test_module_and_pack_agree_on_styles_and_languages():
    table = json.loads(gzip.decompress((emoji.PACK / "concepts.json.gz").read_bytes()))
    assert tuple(table["styles"]) == emoji.STYLES
    assert tuple(table["languages"]) == emoji.LANGUAGES
    assert table["size"] == 64


def test_concepts_have_all_languages():
    concepts = emoji.concepts()
    assert len(concepts) == 1911
    assert [c.id for c in concepts] == list(range(1911))
    for concept in concepts:
        for lang in emoji.LANGUAGES:
            assert concept.labels[lang].strip(), concept
            assert concept.tags[lang] and all(tag.strip() for tag in concept.tags[lang]), concept
    for lang in emoji.LANGUAGES:
        labels = [c.labels[lang] for c in concepts]
        assert len(set(labels)) == len(labels), lang
    assert len({c.key for c in concepts}) == 1911


def test_known_concepts():
    by_key = {c.key: c for c in emoji.concepts()}
    rocket = by_key["1f680"]
    assert rocket.labels == {"en": "rocket", "zh": "火箭", "de": "Rakete", "es": "cohete", "ja": "ロケット"}
    assert (rocket.group, rocket.styles) == ("travel-places", emoji.STYLES)
    assert by_key["1f3c3-200d-2642"].labels["en"] == "man running"


def test_no_family_is_divided_between_splits():
    splits = {}
    for concept in emoji.concepts():
        splits.setdefault(concept.family, set()).add(concept.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize(
    "variants",
    [
        ("1f3c3", "1f3c3-200d-2640", "1f3c3-200d-2642", "1f3c3-200d-27a1"),  # running: gender, direction
        ("1f468-200d-1f692", "1f469-200d-1f692", "1f9d1-200d-1f692"),  # firefighter
        ("1f468", "1f469", "1f9d1", "1f469-200d-1f9b0", "1f471", "1f9d4"),  # man, woman, person; hair
        ("1f46a", "1f468-200d-1f469-200d-1f467", "1f9d1-200d-1f9d2"),  # family groups
        ("1f478", "1f934", "1fac5"),  # princess, prince, person with crown
        ("1f385", "1f936", "1f9d1-200d-1f384"),  # Santa Claus
        ("1f3fb", "1f3ff"),  # swatches of skin tones
        ("1f1f3-1f1f4", "1f1f8-1f1ef", "1f1e7-1f1fb"),  # Norway, Svalbard, Bouvet Island: the same picture
    ],
)
def test_variants_share_a_family(variants):
    by_key = {c.key: c.family for c in emoji.concepts()}
    assert len({by_key[key] for key in variants}) == 1


def test_different_concepts_do_not_share_a_family():
    by_key = {c.key: c.family for c in emoji.concepts()}
    keys = ("1f468", "1f466", "1f474", "1f468-200d-1f692", "1f468-200d-1f680", "1f46a", "1f48f", "1f680", "1f1e9-1f1ea")
    assert len({by_key[key] for key in keys}) == len(keys)


def test_split_sizes():
    sizes = {split: len(emoji.split_concepts(split)) for split in emoji.SPLITS}
    assert sizes == {"train": 1525, "val": 112, "test": 274, "all": 1911}
    per_style = {style: int(emoji.available(style).sum()) for style in emoji.STYLES}
    assert per_style == {"noto": 1911, "twemoji": 1911, "fluent": 1607}


def test_splits_hold_no_equal_pictures():
    owner = {}
    for style in emoji.TRAIN_STYLES:
        for concept in emoji.concepts():
            picture = emoji.sprites(style)[concept.id].tobytes()
            assert owner.setdefault(picture, concept.split) == concept.split, concept.labels["en"]


@pytest.mark.parametrize("style", emoji.STYLES)
def test_sprites(style):
    sprites, available = emoji.sprites(style), emoji.available(style)
    assert sprites.shape == (1911, 64, 64, 4)
    assert sprites.dtype == np.uint8
    assert not sprites.flags.writeable
    opaque = (sprites[..., 3] > 200).any(axis=(1, 2))
    np.testing.assert_array_equal(opaque, available)
    assert (sprites[~available, ..., 3] == 0).all()


@pytest.mark.parametrize(
    ("key", "colour"),
    [("1f7e5", (225, 45, 60)), ("1f7e9", (90, 180, 70)), ("1f7e6", (70, 160, 235)), ("2b1b", (50, 50, 55))],
)
@pytest.mark.parametrize("style", emoji.TRAIN_STYLES)
def test_channels_are_rgb(style, key, colour):
    """The large squares have the colours of their names: sheet order, channel order and alpha are right."""
    [square] = [c for c in emoji.concepts() if c.key == key]
    centre = emoji.sprites(style)[square.id][24:40, 24:40]
    assert (centre[..., 3] == 255).all()
    assert np.abs(centre[..., :3].mean(axis=(0, 1)) - colour).max() < 60


def test_fluent_holds_no_country_flags():
    drawn = [c.labels["en"] for c in emoji.concepts() if "fluent" in c.styles and c.labels["en"].startswith("flag: ")]
    assert drawn == []


def test_held_out_style_is_never_among_training_views():
    for split in emoji.SPLITS:
        source = emoji.open(split)
        assert all(source[i]["styles"] == ["noto", "twemoji"] for i in range(len(source)))


def test_one_item_per_concept():
    source = emoji.open("train")
    ids = [source[i]["concept"] for i in range(len(source))]
    assert len(source) == len(set(ids)) == 1525
    assert {emoji.concepts()[i].split for i in ids} == {"train"}


def test_example():
    source = emoji.open("all", lang="de,en")
    rocket = next(example for example in source if example["key"] == "1f680")
    assert [image.shape for image in rocket["images"]] == [(64, 64, 4)] * 2
    assert rocket["texts"][0] == "Rakete"
    assert rocket["texts"][2] == "rocket"
    assert rocket["texts"][3].startswith("rocket: ")
    assert rocket["labels"] == {"de": "Rakete", "en": "rocket"}
    assert set(rocket["tags"]) == {"de", "en"}
    assert source.class_names()[rocket["label"]] == "Rakete"
    assert source.class_names("zh")[rocket["label"]] == "火箭"


def test_labels_count_within_the_split_in_every_style():
    for style in emoji.STYLES:
        source = emoji.open("test", style=style)
        names = emoji.concept_labels("test")
        assert len(names) == 274
        for example in source:
            assert names[example["label"]] == example["labels"]["en"]
            assert example["styles"] == [style]
            np.testing.assert_array_equal(example["images"][0], emoji.sprites(style)[example["concept"]])


def test_held_out_style_by_name():
    source = emoji.open("test", style="fluent")
    assert 200 < len(source) < 274
    assert emoji.open("test", style="noto,fluent")[0]["styles"] == ["noto", "fluent"]


def test_source_travels_light_to_workers():
    source = emoji.open("train")
    data = pickle.dumps(source)
    assert len(data) < 50_000
    assert pickle.loads(data)[3]["key"] == source[3]["key"]


def test_index_out_of_range():
    with pytest.raises(IndexError):
        emoji.open("val")[112]


@pytest.mark.parametrize(
    ("arg", "options", "words"),
    [
        ("tset", {}, "did you mean 'test'"),
        ("test", {"style": "fluid"}, "noto, twemoji, fluent"),
        ("test", {"lang": "fr"}, "en, zh, de, es, ja"),
        ("test", {"lang": "en,en"}, "twice"),
    ],
)
def test_mistakes(arg, options, words):
    with pytest.raises(UserError, match=words):
        emoji.open(arg, **options)


def test_mistakes_in_functions():
    with pytest.raises(UserError, match="valid: noto, twemoji, fluent"):
        emoji.sprites("apple")
    with pytest.raises(UserError, match="emoji language"):
        emoji.concept_labels(lang="fr")
    with pytest.raises(UserError, match="emoji split"):
        emoji.concept_labels("dev")
