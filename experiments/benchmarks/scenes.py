"""How fast emoji_scenes is on one core: `python experiments/benchmarks/scenes.py [--scenes 2000] [--size 64]`.

Prints scenes per second of processor time for the image alone, the captions alone, what a source gives by default,
all parts, and with noise. The first scenes are not counted: they load the sprites and fill the cache of scaled ones.
"""

import argparse
import time

from mmjax.data import scenes

CASES = {
    "image": ("train", {"parts": "image"}),
    "captions": ("train", {"parts": "captions"}),
    "image and captions": ("train", {"parts": "image,captions"}),
    "default": ("train", {}),
    "default, noise 0.2": ("train", {"noise": 0.2}),
    "all parts": ("train", {"parts": "all"}),
    "world all": ("all-train", {}),
}


def rate(arg: str, options: dict, count: int, warm: int = 1000) -> float:
    """Scenes per second of processor time, by one thread."""
    source = scenes.open(arg, length=count + warm, **options)
    for index in range(warm):
        source[index]
    start = time.process_time()
    for index in range(warm, warm + count):
        source[index]
    return count / (time.process_time() - start)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    for name, (arg, options) in CASES.items():
        speed = rate(arg, options | {"size": arguments.size}, arguments.scenes)
        print(f"{name:20s} {speed:8.0f} scenes/s at {arguments.size} px")


if __name__ == "__main__":
    main()
