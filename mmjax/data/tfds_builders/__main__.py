"""`python -m mmjax.data.tfds_builders NAME[/CONFIG] [--data_dir DIR]` prepares one of the packaged data sets."""

import argparse
import sys

from mmjax.core.errors import UserError
from mmjax.data.tfds_builders import NAMES, prepare


def main() -> int:
    """Prepares the data set; 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m mmjax.data.tfds_builders", description=__doc__)
    parser.add_argument("name", help=f"{' or '.join(NAMES)}, with /CONFIG for another than the first")
    parser.add_argument("--data_dir", help="where to; default: the folder of tensorflow-datasets")
    arguments = parser.parse_args()
    try:
        builder = prepare(arguments.name, arguments.data_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    print(f"{builder.info.full_name}: {counts} examples in {builder.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
