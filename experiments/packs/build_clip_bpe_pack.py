"""Builds mmjax/data/packs/clip_bpe/merges.txt.gz from the wheel of open_clip_torch 3.3.0.

    pip download --no-deps open_clip_torch==3.3.0
    python experiments/packs/build_clip_bpe_pack.py open_clip_torch-3.3.0-py3-none-any.whl [--check]

The published list has 262,145 lines, of which CLIP uses the header and the next 48,894: the rest is dropped, which
takes the file from 1.36 MB to 0.21 MB.
"""

import argparse
import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

PACK = Path(__file__).resolve().parents[2] / "mmjax" / "data" / "packs" / "clip_bpe" / "merges.txt.gz"
MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
LINES = 1 + 48_894


def build(wheel: Path) -> bytes:
    """The pack's file: gzip without time and name, so that it is the same at every run."""
    published = zipfile.ZipFile(wheel).read(MEMBER)
    found = hashlib.sha256(published).hexdigest()
    if found != SHA256:
        sys.exit(f"error: {wheel}: {MEMBER} has SHA-256 {found}, pinned to {SHA256}")
    lines = gzip.decompress(published).decode().split("\n")[:LINES]
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return out.getvalue()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds or checks the merges of CLIP's tokenizer.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--check", action="store_true", help="compare with the committed file")
    args = parser.parse_args()
    content = build(args.wheel)
    if not args.check:
        PACK.write_bytes(content)
    elif PACK.read_bytes() != content:
        sys.exit(f"error: {PACK} is not what the script builds")
    print(f"{PACK}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
