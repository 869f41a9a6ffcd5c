"""Builds mmjax/data/packs/emoji from four npm archives, bit for bit the same at every run.

    python experiments/packs/build_emoji_pack.py                    # downloads with `npm pack`, writes the pack
    python experiments/packs/build_emoji_pack.py --archives DIR     # takes the archives from DIR
    python experiments/packs/build_emoji_pack.py --check            # builds in a temporary folder and compares

The archives are pinned by version and SHA-256. The pack holds one sprite sheet per style (64 px RGBA sprites, lossy
WebP with alpha), the concepts with their texts and splits, the notices and a manifest. Encoded bytes depend on the
WebP encoder, so a build with another Pillow than the pinned one is refused.
"""

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from mmjax.core.errors import UserError

PACK = Path(__file__).resolve().parents[2] / "mmjax" / "data" / "packs" / "emoji"
NOTICE = Path(__file__).resolve().parent / "emoji_notice.txt"
PILLOW, LIBWEBP = "13.0.0", "1.6.0"

ARCHIVES = {  # npm package@version -> (file that `npm pack` writes, SHA-256)
    "emoji-datasource-google@16.0.0": (
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "emoji-datasource-twitter@16.0.0": (
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    "@lobehub/fluent-emoji-3d@1.1.0": (
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "emojibase-data@17.0.0": (
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
}
STYLES = {  # style -> (package@version, folder of its images)
    "noto": ("emoji-datasource-google@16.0.0", "package/img/google/64/"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "package/img/twitter/64/"),
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets/"),
}
LANGUAGES = ("en", "zh", "de", "es", "ja")
SIZE = 64  # pixels; also a multiple of WebP's 16 px blocks, so that no block straddles two sprites
COLUMNS = 44
WEBP = {"quality": 80, "alpha_quality": 80, "method": 6, "exact": False}

# Families: what is left of a sequence once gender, hair, skin tone and direction are gone.
ZWJ, SKIN_TONES = "200d", {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
DROPPED = {ZWJ, "2640", "2642", "27a1", "1f9b0", "1f9b1", "1f9b2", "1f9b3"}
ADULT, CHILD, ELDER = "1f9d1", "1f9d2", "1f9d3"
PEOPLE = {"1f468": ADULT, "1f469": ADULT, "1f466": CHILD, "1f467": CHILD, "1f474": ELDER, "1f475": ELDER}
ALIASES = {  # variants of one concept that have code points of their own
    "1f471": ADULT,  # blond hair
    "1f9d4": ADULT,  # beard
    "1f478": "1fac5",  # princess -> person with crown
    "1f934": "1fac5",  # prince
    "1f936": "1f385",  # Mrs. Claus -> Santa Claus
    "1f9d1-1f384": "1f385",  # Mx Claus
    "1f57a": "1f483",  # man dancing -> woman dancing
    "1f930": "1fac4",  # pregnant woman -> pregnant person
    "1fac3": "1fac4",  # pregnant man
    "1f931": "1f9d1-1f37c",  # breast-feeding -> person feeding baby
    "1f46b": "1f9d1-1f91d-1f9d1",  # woman and man -> people holding hands
    "1f46c": "1f9d1-1f91d-1f9d1",
    "1f46d": "1f9d1-1f91d-1f9d1",
    "1f9d1-2764-1f48b-1f9d1": "1f48f",  # kiss
    "1f9d1-2764-1f9d1": "1f491",  # couple with heart
} | dict.fromkeys(SKIN_TONES, "1f3fb")  # the five swatches
FAMILY = "1f46a"
LARGE_FAMILY = 8


def concept_key(codepoints: str) -> str:
    """Lower case, no variation selectors (sources differ in them): 1F3C3-200D-2642-FE0F -> 1f3c3-200d-2642."""
    return "-".join(point for point in codepoints.lower().split("-") if point != "fe0f")


def is_country_flag(key: str) -> bool:
    """Whether the key is a pair of regional indicators."""
    return "1f1e6" <= key.split("-")[0] <= "1f1ff"


def variant_family(key: str) -> str:
    """The family that a key's own code points put it in."""
    if key in ALIASES:
        return ALIASES[key]
    points = key.split("-")
    if ZWJ not in points:
        return PEOPLE.get(key, key)
    left = [PEOPLE.get(point, point) for point in points if point not in DROPPED]
    if len(left) > 1 and set(left) <= {ADULT, CHILD}:
        return FAMILY
    base = "-".join(left) or key
    return ALIASES.get(base, base)


def split_of(family: str, members: int) -> str:
    """About 80 % train, 5 % val and 15 % test, from a hash of the family.

    Families too large to be tested on go to train: Twemoji draws the 30 family groups as 5 pictures, and the 21 heads
    differ in hair alone, so that one such family would decide a retrieval result by chance.
    """
    if members > LARGE_FAMILY:
        return "train"
    draw = int.from_bytes(hashlib.sha256(f"mmjax emoji split:{family}".encode()).digest()[:8], "big") / 2**64
    return "test" if draw < 0.15 else "val" if draw < 0.20 else "train"


def fetch(folder: Path) -> dict[str, Path]:
    """Package -> archive, downloaded into `folder` where it is not there yet and verified.

    Raises:
      UserError: an archive's SHA-256 is not the pinned one.
    """
    paths = {}
    for package, (name, digest) in ARCHIVES.items():
        path = folder / name
        if not path.exists():
            subprocess.run(["npm", "pack", package, "--silent", "--pack-destination", str(folder)], check=True)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            raise UserError(f"{path}: SHA-256 {found}, but {package} is pinned to {digest}")
        paths[package] = path
    return paths


def read_files(archive: Path, folder: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """(name below `folder`, content) of the archive's files with that suffix."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(folder) and member.name.endswith(suffix):
                yield member.name.removeprefix(folder), tar.extractfile(member).read()  # type: ignore[union-attr]


def to_sprite(content: bytes) -> Image.Image:
    """Decodes one picture to 64×64 RGBA, fitted and centred.

    Resizing happens on premultiplied colours: otherwise the colour hidden in transparent pixels leaks into the edge.
    """
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    if image.size == (SIZE, SIZE):
        return image
    scale = SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    sprite = Image.new("RGBA", (SIZE, SIZE))
    sprite.paste(small, ((SIZE - width) // 2, (SIZE - height) // 2))
    return sprite


def read_sprites(archives: Mapping[str, Path], keys: set[str]) -> dict[str, dict[str, Image.Image]]:
    """style -> concept key -> sprite, for the wanted concepts.

    Fluent has no country flags: its archive fills them with Noto's. They are left out, since a style that is held out
    may hold no drawing of a training style.
    """
    sprites: dict[str, dict[str, Image.Image]] = {}
    for style, (package, folder) in STYLES.items():
        suffix = ".webp" if style == "fluent" else ".png"
        found: dict[str, Image.Image] = {}
        for name, content in sorted(read_files(archives[package], folder, suffix)):
            key = concept_key(name.removesuffix(suffix))
            if key in keys and key not in found and not (style == "fluent" and is_country_flag(key)):
                found[key] = to_sprite(content)
        sprites[style] = found
    return sprites


def families(sprites: Mapping[str, Mapping[str, Image.Image]], keys: list[str]) -> dict[str, str]:
    """key -> family. Concepts whose sprites are equal in any style share a family too (the flags of Norway, Bouvet
    Island and Svalbard are one picture): otherwise a training picture would be in the test split."""
    family = {key: variant_family(key) for key in keys}
    for drawn in sprites.values():
        equal = defaultdict(list)
        for key in keys:
            if key in drawn:
                equal[drawn[key].tobytes()].append(key)
        for group in equal.values():
            joined = {family[key] for key in group}
            if len(joined) > 1:
                family = {k: min(joined) if f in joined else f for k, f in family.items()}
    return family


def read_texts(archive: Path) -> tuple[dict[str, dict[str, dict]], dict]:
    """(language -> key -> entry, the English names of groups and subgroups)."""
    wanted = {f"{lang}/data.json" for lang in LANGUAGES} | {"en/messages.json"}
    files = {name: json.loads(data) for name, data in read_files(archive, "package/", ".json") if name in wanted}
    texts = {lang: {concept_key(x["hexcode"]): x for x in files[f"{lang}/data.json"]} for lang in LANGUAGES}
    return texts, files["en/messages.json"]


def read_concepts(archives: Mapping[str, Path]) -> tuple[list[dict], dict[str, dict[str, Image.Image]]]:
    """(concepts in Unicode's order, style -> key -> sprite)."""
    [(_, listing)] = read_files(archives["emoji-datasource-google@16.0.0"], "package/emoji.json", "")
    keys = {concept_key(entry["unified"]) for entry in json.loads(listing)}
    texts, messages = read_texts(archives["emojibase-data@17.0.0"])
    missing = {lang: sorted(keys - set(entries)) for lang, entries in texts.items() if keys - set(entries)}
    if missing:
        raise UserError(f"concepts without texts: {missing}")
    groups = {g["order"]: g["key"] for g in messages["groups"]}
    subgroups = {g["order"]: g["key"] for g in messages["subgroups"]}
    order = sorted(keys, key=lambda key: (texts["en"][key]["order"], key))
    sprites = read_sprites(archives, keys)
    family = families(sprites, order)
    members = Counter(family.values())
    concepts = [
        {
            "key": key,
            "styles": [style for style in STYLES if key in sprites[style]],
            "group": groups[texts["en"][key]["group"]],
            "subgroup": subgroups[texts["en"][key]["subgroup"]],
            "family": family[key],
            "split": split_of(family[key], members[family[key]]),
            "labels": {lang: texts[lang][key]["label"] for lang in LANGUAGES},
            "tags": {lang: texts[lang][key]["tags"] for lang in LANGUAGES},
        }
        for key in order
    ]
    return concepts, sprites


def sheet(drawn: Mapping[str, Image.Image], order: list[str]) -> Image.Image:
    """All sprites of a style, row by row in the order of the concepts; a concept that the style lacks stays empty."""
    rows = -(-len(order) // COLUMNS)
    canvas = np.zeros((rows, SIZE, COLUMNS, SIZE, 4), np.uint8)
    for index, key in enumerate(order):
        if key in drawn:
            canvas[index // COLUMNS, :, index % COLUMNS] = np.asarray(drawn[key])
    return Image.fromarray(canvas.reshape(rows * SIZE, COLUMNS * SIZE, 4), "RGBA")


def compress(content: bytes) -> bytes:
    """gzip without the time and the file name, which would differ between builds."""
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as file:
        file.write(content)
    return out.getvalue()


def build(archives: Mapping[str, Path], target: Path) -> None:
    """Writes the pack into `target`."""
    concepts, sprites = read_concepts(archives)
    order = [concept["key"] for concept in concepts]
    files = {"NOTICE": NOTICE.read_bytes()}
    table = {"languages": LANGUAGES, "styles": list(STYLES), "size": SIZE, "columns": COLUMNS, "concepts": concepts}
    files["concepts.json.gz"] = compress(json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode())
    for style, drawn in sprites.items():
        out = io.BytesIO()
        sheet(drawn, order).save(out, "WEBP", **WEBP)
        files[f"{style}.webp"] = out.getvalue()
    manifest = {
        "built_by": "experiments/packs/build_emoji_pack.py",
        "pillow": PILLOW,
        "libwebp": LIBWEBP,
        "webp": WEBP,
        "archives": {package: {"file": name, "sha256": digest} for package, (name, digest) in ARCHIVES.items()},
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(files.items())
        },
    }
    files["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (target / name).write_bytes(content)


def check(archives: Mapping[str, Path]) -> list[str]:
    """Names of the pack's files that a fresh build does not reproduce."""
    with tempfile.TemporaryDirectory() as folder:
        build(archives, Path(folder))
        fresh = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    kept = {path.name: path.read_bytes() for path in PACK.iterdir() if path.is_file()} if PACK.exists() else {}
    return sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds or checks the emoji pack.")
    parser.add_argument("--archives", type=Path, help="folder with already downloaded archives")
    parser.add_argument("--check", action="store_true", help="build elsewhere and compare with the committed pack")
    args = parser.parse_args()
    found = (PIL.__version__, features.version("webp"))
    if found != (PILLOW, LIBWEBP):
        raise UserError(f"Pillow {found[0]} with libwebp {found[1]}: the pack is built by {PILLOW} with {LIBWEBP}")
    with tempfile.TemporaryDirectory() as folder:
        archives = fetch(args.archives or Path(folder))
        if args.check:
            differing = check(archives)
            if differing:
                raise UserError(f"{PACK} is not what the script builds; differing files: {differing}")
            print(f"{PACK}: reproduced")
        else:
            build(archives, PACK)
            for path in sorted(PACK.iterdir()):
                print(f"{path.stat().st_size:>9,} {path.name}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
