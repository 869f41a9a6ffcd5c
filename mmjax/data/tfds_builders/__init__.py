"""The packaged data as data sets of tensorflow-datasets, prepared without TensorFlow.

    python -m mmjax.data.tfds_builders mmjax_emoji/noto --data_dir data

prepares one in the format ArrayRecord; `tfds:mmjax_emoji/noto?data_dir=data` reads it, and so does `tfds.data_source`
after `mmjax.data.tfds_builders.register()`. tensorflow-datasets is imported by the functions alone: it is an extra.
"""

import functools
import os
from typing import Any

from mmjax.core.errors import UserError

NAMES = ("mmjax_emoji", "mmjax_emoji_scenes")


@functools.cache
def register() -> dict[str, type]:
    """The builders by name; once called, `tfds.builder` knows them.

    Raises:
      UserError: tensorflow-datasets is not installed.
    """
    try:
        import tensorflow_datasets  # noqa: F401
    except ImportError:
        raise UserError("tensorflow-datasets is not installed: pip install 'mmjax[tfds]'") from None
    from mmjax.data.tfds_builders.emoji import emoji_builder
    from mmjax.data.tfds_builders.emoji_scenes import scenes_builder

    return dict(zip(NAMES, (emoji_builder(), scenes_builder()), strict=True))


def prepare(name: str, data_dir: str | os.PathLike | None = None, **options: Any) -> Any:
    """Prepares a data set as ArrayRecord, unless it is prepared already, and returns its builder.

    Args:
      name: NAME or NAME/CONFIG, one of `NAMES`.
      data_dir: where to; None: the library's own folder.
      options: for the builder, as `config`.

    Raises:
      UserError: an unknown name or config.
    """
    import tensorflow_datasets as tfds

    if name.split("/")[0] not in register():
        raise UserError(f"data set {name!r} is not one of mmjax's; valid: {', '.join(NAMES)}")
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record", **options)
    except ValueError as error:
        raise UserError(f"data set {name!r}: {str(error).splitlines()[0]}") from None
    builder.download_and_prepare(file_format="array_record")
    return builder
