"""The emoji pack as `mmjax_emoji/STYLE`: one picture of each concept, split by concept."""

import functools
from collections.abc import Iterator
from typing import Any

from mmjax.data import emoji
from mmjax.data.tfds_builders.png import encode_png


@functools.cache
def emoji_builder() -> type:
    """The builder, a class of tensorflow-datasets. Its configs are the styles, noto first."""
    import tensorflow_datasets as tfds

    class MmjaxEmoji(tfds.core.GeneratorBasedBuilder):
        """1,911 emoji with names and keywords in five languages; every config is a style."""

        VERSION = tfds.core.Version("1.0.0")
        RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 - as the library has it
        BUILDER_CONFIGS = [  # noqa: RUF012
            tfds.core.BuilderConfig(name=style, description=f"Pictures of {style}.") for style in emoji.STYLES
        ]

        def _info(self) -> Any:
            texts = tfds.features.Sequence(tfds.features.Text())
            features = {
                "key": tfds.features.Text(),
                "image": tfds.features.Image(shape=(64, 64, 4), encoding_format="png"),
                "texts": texts,
                "label": tfds.features.ClassLabel(names=emoji.concept_labels("all")),
                "labels": {lang: tfds.features.Text() for lang in emoji.LANGUAGES},
                "tags": dict.fromkeys(emoji.LANGUAGES, texts),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=emoji.__doc__,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                disable_shuffling=True,  # the order of the pack; training shuffles by itself
                license="Apache-2.0 (Noto), CC-BY-4.0 (Twemoji), MIT (Fluent, names)",
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            del dl_manager  # nothing is downloaded
            return {split: self._generate_examples(split) for split in ("train", "val", "test")}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            style = self.builder_config.name
            for place, concept in enumerate(emoji.split_concepts(split)):
                if style in concept.styles:
                    yield (
                        place,
                        {
                            "key": concept.key,
                            "image": encode_png(emoji.sprites(style)[concept.id]),
                            "texts": emoji.texts_of(concept, ("en",)),
                            "label": concept.labels["en"],
                            "labels": concept.labels,
                            "tags": concept.tags,
                        },
                    )

    return MmjaxEmoji
