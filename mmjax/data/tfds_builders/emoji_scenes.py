"""Generated scenes as `mmjax_emoji_scenes`: image, captions, boxes and questions of `emoji_scenes`."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.data import scenes
from mmjax.data.tfds_builders.png import encode_png

PARTS = ("image", "captions", "graph", "questions")
SPLITS = ("train", "val", "test")


@functools.cache
def scenes_builder() -> type:
    """The builder, a class of tensorflow-datasets. Its configs: px64, and px64_small with few scenes.

    Another size or number is a config of your own: `scenes_builder().config(name="px128", size=128, lengths={…})`.
    """
    import dataclasses

    import tensorflow_datasets as tfds

    @dataclasses.dataclass(kw_only=True)
    class Config(tfds.core.BuilderConfig):
        """Side of the images in pixels, seed, and scenes in each split."""

        size: int = 64
        seed: int = 0
        lengths: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SPLITS, 2_000))

    class MmjaxEmojiScenes(tfds.core.GeneratorBasedBuilder):
        """Several emoji on a canvas with five captions each, generated from a seed."""

        VERSION = tfds.core.Version("1.0.0")
        RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 - as the library has it
        BUILDER_CONFIGS = [  # noqa: RUF012
            Config(name="px64", lengths={"train": 20_000, "val": 2_000, "test": 5_000}),
            Config(name="px64_small", lengths={"train": 64, "val": 16, "test": 16}),
        ]

        config = Config

        def _info(self) -> Any:
            text, size = tfds.features.Text(), self.builder_config.size
            features = {
                "key": text,
                "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                "texts": tfds.features.Sequence(text),
                "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "names": tfds.features.Sequence(text),
                "questions": tfds.features.Sequence({"question": text, "answer": text, "kind": text}),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=scenes.__doc__,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,  # scene i is the i-th
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            del dl_manager  # nothing is downloaded
            return {split: self._generate_examples(split) for split in SPLITS}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            config = self.builder_config
            source = scenes.Scenes(split, size=config.size, seed=config.seed, length=config.lengths[split], parts=PARTS)
            for index in range(len(source)):
                example: Any = source[index]
                yield (
                    index,
                    {
                        "key": example["key"],
                        "image": encode_png(example["image"]),
                        "texts": example["texts"],
                        "boxes": example["boxes"],
                        "names": example["names"],
                        "questions": [
                            dict(zip(("question", "answer", "kind"), question, strict=True))
                            for question in example["questions"]
                        ],
                    },
                )

    return MmjaxEmojiScenes
