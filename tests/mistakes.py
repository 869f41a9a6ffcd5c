"""The kinds of mistakes that users make, as data: how to make one, the command line, and what the one line must say."""

import dataclasses
import json
import pathlib
import shutil
import struct
from collections.abc import Callable

from mmjax.train import checkpoint

CONFIG = {
    "seed": 5,
    "init": "",
    "system": {
        "name": "clip",
        "embed_dim": 8,
        "img": {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2},
        "txt": {"vocab": 49408, "length": 8, "width": 16, "depth": 1, "heads": 2},
    },
    "tokenizer": {"spec": "clip_bpe"},
    "data": {"train": "emoji:val", "batch_size": 16, "image": {"preset": "sprite"}, "text": {}, "workers": 0},
    "mesh": {"data": -1},
    "stages": {"train": {"steps": 2, "lr": 1e-3}},
    "evals": {"val": {"kind": "retrieval", "data": "emoji:val", "limit": 8}},
    "every": {"log": 1, "save": 1},
    "keep": 2,
    "writers": ["jsonl"],
    "report": [],
}
TRAIN = ("train", "--config={dir}/config.py", "--workdir={dir}/run")
EVAL = ("eval", "--checkpoint={dir}/model")
CONVERT = ("convert", "--input={dir}/hf", "--output={dir}/out", "--layout=mmjax")
DATA = ("--data=emoji:test", "--limit=8")


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One kind.

    Attributes:
      name: says what was done wrong.
      argv: the command line; {dir} is the folder that `prepare` has filled.
      says: a pattern that the line on stderr must hold.
      change: "a.b.c" -> value, in the config; `...` takes the key away.
      needs: of "model" (a saved mmjax model) and "hf" (a published one), copied to {dir}.
      setup: what else is done to {dir}.
    """

    name: str
    argv: tuple[str, ...]
    says: str
    change: dict = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    setup: Callable[[pathlib.Path], object] | None = None


def config_text(change: dict) -> str:
    """A config file with changes."""
    values = json.loads(json.dumps(CONFIG))
    for path, value in change.items():
        *above, last = path.split("/")
        node = values
        for key in above:
            node = node[key]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({values!r})\n".replace(
        ": nan", ": float('nan')"
    )


def config(name: str, change: dict, says: str, *more: str, **rest) -> Mistake:
    return Mistake(name, (*TRAIN, *more), says, change, **rest)


def override(name: str, argument: str, says: str) -> Mistake:
    return Mistake(name, (*TRAIN, argument), says)


def train(name: str, says: str, setup: Callable, *more: str, needs: tuple[str, ...] = (), change=None) -> Mistake:
    return Mistake(name, (*TRAIN, *more), says, change or {}, needs, setup)


def evaluate(name: str, says: str, *more: str, setup: Callable | None = None) -> Mistake:
    return Mistake(name, (*EVAL, *more), says, {}, ("model",), setup)


def convert(name: str, says: str, setup: Callable | None = None, *more: str) -> Mistake:
    return Mistake(name, (*CONVERT, *more), says, {}, ("hf",), setup)


# ---------------------------------------------------------------- what is done to files


def write(name: str, text: str | bytes) -> Callable:
    def do(folder: pathlib.Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return do


def cut(name: str, share: float = 0.5) -> Callable:
    def do(folder: pathlib.Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return do


def remove(name: str) -> Callable:
    return lambda folder: (folder / name).unlink()


def edit(name: str, change: dict) -> Callable:
    """Changes keys of a JSON file: "a/b" -> value."""

    def do(folder: pathlib.Path) -> None:
        values = json.loads((folder / name).read_text())
        for path, value in change.items():
            *above, last = path.split("/")
            node = values
            for key in above:
                node = node[key]
            node[last] = value
        (folder / name).write_text(json.dumps(values))

    return do


def tensors(change: Callable[[dict], object]) -> Callable:
    """Changes the header of the published model's weights."""

    def do(folder: pathlib.Path) -> None:
        path = folder / "hf" / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])

    return do


def rename(old: str, new: str) -> Callable:
    return tensors(lambda header: header.update({new: header.pop(old)}))


def run_of(change: dict) -> Callable:
    """A work directory with a checkpoint of the config with changes."""

    def do(folder: pathlib.Path) -> None:
        where = folder / "run" / "checkpoints"
        write("run/checkpoints/1/_CHECKPOINT_METADATA", "{}")(folder)
        space: dict = {}
        exec(config_text(change), space)
        plain = json.loads(space["get_config"]().to_json_best_effort())
        checkpoint.write_description(where, {"system": plain["system"], "config": plain})

    return do


def closed(folder: pathlib.Path) -> None:
    (folder / "file").write_text("")


def flip_numbers(folder: pathlib.Path) -> None:
    files = [p for p in (folder / "model" / "0").rglob("*") if p.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def pickle_that_calls(folder: pathlib.Path) -> None:
    import zipfile

    (folder / "hf" / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "hf" / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
        archive.writestr("archive/version", "3")


def both(*steps: Callable) -> Callable:
    return lambda folder: [step(folder) for step in steps]


def empty_config_folder(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "hf")
    (folder / "hf").mkdir()


QK = "text_model.encoder.layers.0.self_attn.q_proj.weight"

MISTAKES: list[Mistake] = [
    # ------------------------------------------------------------ keys
    override("misspelt key", "--config.sead=1", r'config\.sead does not exist; did you mean "seed"\? \(config has: '),
    override("misspelt key of data", "--config.data.batchsize=8",
             r'data\.batchsize does not exist; did you mean "batch_s'),
    override("field of a number", "--config.seed.x=1", r"config\.seed is 5: it has no field 'x'"),
    config("unknown key", {"sede": 1}, r'config\.sede does not exist; did you mean "seed"\? \(known: '),
    config("unknown key of data", {"data/worker": 1}, r'config\.data\.worker does not exist; did you mean "workers"'),
    config("unknown key of image", {"data/image/flipp": 1},
           r"unknown key of the image transform 'sprite': 'flipp'.*'flip'"),
    config("unknown preset of image", {"data/image/preset": "sprit"}, r"unknown image preset: 'sprit'.*mean 'sprite'"),
    config("unknown key of text", {"data/text/form": {}}, r"unknown key of the text transform: 'form'.*mean 'forms'"),
    config("unknown form of text", {"data/text/forms": {"lable": 1}}, r"text forms = \{'lable'.*valid: .*label"),
    config("unknown key of eval_image", {"data/eval_image": {"mod": "crop"}},
           r'config\.data\.eval_image\.mod does not exist; did you mean "mode"'),
    config("unknown key of a stage", {"stages/train/learning_rate": 1.0},
           r"stages\.train\.learning_rate does not exist"),
    config("unknown key of every", {"every/logs": 1}, r'config\.every\.logs does not exist; did you mean "log"'),
    config("unknown key of evals", {"evals/val/galery": "emoji"},
           r"evaluator 'val': .*has no option \['galery'\].*gallery"),
    config("unknown kind of evals", {"evals/val/kind": "retreival"},
           r"kind 'retreival' is not one of.*mean 'retrieval'"),
    config("unknown key of system", {"system/embeddim": 1},
           r"system clip: unknown key embeddim; valid keys: .*embed_dim"),
    config("unknown key of img", {"system/img/widht": 1}, r"system clip: img: unknown key widht; valid keys: .*width"),
    config("unknown key of txt", {"system/txt/lenght": 1},
           r"system clip: txt: unknown key lenght; valid keys: .*length"),
    config("unknown key of mesh", {"mesh/model": 2}, r"mesh axis \['model'\] does not exist; the axes are \['data'"),
    config("unknown key of tokenizer", {"tokenizer/specc": "x"}, r'config\.tokenizer\.specc .*did you mean "spec"'),
    config("missing key", {"tokenizer": ...}, r"config\.tokenizer is missing or empty: kind, and what it needs"),
    config("missing key of a stage", {"stages/train": {"steps": 1}}, r"stages\.train needs \['lr'\]"),
    config("missing batch size", {"data/batch_size": ...}, r"config\.data\.batch_size is missing: examples of a step"),
    config("missing key of img", {"system/img/depth": ...}, r"system clip: img: missing key depth"),
    config("no stages", {"stages": {}}, r"config\.stages is missing or empty"),
    config("report of no evaluator", {"report": ["vall"]}, r"config\.report names \['vall'\].*it has \['val'\]"),
    config("unknown writer", {"writers": ["csvv"]}, r"metric writer \['csvv'\] does not exist; valid: .*'csv'"),
    config("unknown system", {"system/name": "clap"}, r"system name 'clap' does not exist; there are 'albef', "),
    config("unknown size", {"system": {"name": "clip", "size": "vit_b_32"}},
           r"size: 'vit_b_32' valid: .*'vit_b32'|mean 'vit_b32'"),
    config("unknown activation", {"system/img/act": "gelu_fast"}, r"img: act: 'gelu_fast' is not one of 'gelu', "),
    config("unknown optimizer", {"stages/train/optimizer": "adam"}, r"train: optimizer='adam' is not one of \['adamw'"),
    config("unknown dtype", {"system/dtype": "fp16"}, r"dtype 'fp16' is not one of 'auto', "),
    # ------------------------------------------------------------ types
    override("text for a number", "--config.data.batch_size=lots", r"batch_size=lots: invalid literal for int"),
    override("no value", "--config.seed", r"--config\.seed needs its value behind an equals sign"),
    config("text for the seed", {"seed": "five"}, r"config\.seed = 'five'; valid: a whole number"),
    config("fraction for the batch size", {"data/batch_size": 8.5}, r"batch_size = 8\.5; valid: a whole number"),
    config("text for workers", {"data/workers": "two"}, r"config\.data\.workers = 'two'; valid: a whole number"),
    config("text for steps", {"stages/train/steps": "ten"}, r"stages\.train\.steps = 'ten'; valid: int"),
    config("text for a width", {"system/img/width": "wide"}, r"img: width = 'wide'; valid: a whole number, at least 1"),
    config("text for the writers", {"writers": "csv"}, r"config\.writers = 'csv'; valid: a list"),
    config("text for the evaluators", {"evals": "retrieval"}, r"config\.evals = 'retrieval'; valid: a mapping"),
    config("a list of stages", {"stages": [{"steps": 1}]}, r"config\.stages = .*; valid: a mapping"),
    config("text for a stage", {"stages/train": "short"}, r"config\.stages\.train = 'short'; valid: a mapping"),
    config("bucket that holds every text", {"data/text_buckets": [4, 9999]},
           r"text_buckets = \[4, 9999\]; valid: lengths"),
    config("buckets for a tower that reads padding", {"data/text_buckets": [4], "system/txt/causal": False},
           r"config\.data\.text_buckets: the text tower of config\.system reads padding"),
    config("text for image", {"data/image": "sprite"}, r"config\.data\.image = 'sprite'; valid: a mapping"),
    config("text for the mesh", {"mesh": "data"}, r"config\.mesh = 'data'; valid: a mapping"),
    config("text for a tower", {"system/img": "vit"}, r"config\.system\.img = 'vit'; valid: a mapping"),
    config("a number for the data", {"data/train": 7},
           r"config\.data\.train = 7; valid: a source's spec, or a mapping"),
    config("text for keep", {"keep": "two"}, r"config\.keep = 'two'; valid: a whole number"),
    # ------------------------------------------------------------ values
    config("learning rate nan", {"stages/train/lr": float("nan")},
           r"stages\.train: lr=nan; valid: a number, 0 or more"),
    config("negative learning rate", {"stages/train/lr": -1e-3},
           r"stages\.train: lr=-0\.001; valid: a number, 0 or more"),
    config("negative decay", {"stages/train/weight_decay": -0.1}, r"weight_decay=-0\.1; valid: a number, 0 or more"),
    config("zero steps", {"stages/train/steps": 0}, r"stages\.train: steps=0.*; valid: steps and chunks at least 1"),
    config("warm-up past the end", {"stages/train/warmup": 9}, r"warmup=9; valid: .*warmup from 0 to steps"),
    config("batch size zero", {"data/batch_size": 0}, r"data batch_size = 0; valid: at least 1"),
    config("negative workers", {"data/workers": -1}, r"data workers = -1; valid: at least 0"),
    config("negative seed", {"seed": -1}, r"config\.seed = -1; valid: 0 or more"),
    config("negative interval", {"every/save": -1}, r"every\.save = -1; valid: steps, or 0"),
    config("no checkpoint kept", {"keep": 0}, r"config\.keep = 0; valid: at least 1 checkpoint"),
    config("negative depth", {"system/img/depth": -2}, r"img: depth = -2; valid: a whole number, at least 1"),
    config("dropout above one", {"system/txt/dropout": 1.5},
           r"txt: dropout = 1\.5; valid: a number from 0 to less than 1"),
    config("heads that do not divide", {"system/img/heads": 3}, r"img: 3 heads do not divide the width 16"),
    config("patches that do not divide", {"system/img/patch": 5}, r"16x16 pixels does not divide into patches of 5"),
    config("more devices than there are", {"mesh": {"data": 16}},
           r"mesh data=16 .*asks for 16 devices, but there are 8"),
    config("two open axes", {"mesh": {"data": -1, "fsdp": -1}}, r"mesh .*at most one may be -1"),
    config("batch not divisible", {"data/batch_size": 12},
           r"batch size 12 does not divide over 8 devices .*e\.g\. 8 would"),
    config("batch larger than an epoch", {"data/batch_size": 4096}, r"batch_size 4096 is larger than one epoch"),
    config("tokenizer too big", {"system/txt/vocab": 400},
           r"config\.system\.txt\.vocab = 400, but the tokenizer has 49408"),
    config("train nothing", {"stages/train/train": ["image/.*"]},
           r"train \['image/\.\*'\] matches no parameter; top-level"),
    config("no_decay nothing", {"stages/train/no_decay": ["img/cl"], "stages/train/weight_decay": 0.1},
           r"no_decay \['img/cl'\] matches no parameter"),
    config("lr_scale nothing", {"stages/train/lr_scale": [["text/.*", 0.1]]},
           r"lr_scale \['text/\.\*'\] matches no param"),
    config("teacher of nothing", {"stages/train/teacher": ["imgs/.*"]},
           r"teacher \['imgs/\.\*'\] matches no parameter"),
    config("no regular expression", {"stages/train/train": ["img/("]}, r"train 'img/\(' is not a regular expression"),
    config("frozen tower of random weights", {"stages/train/train": ["txt.*/.*", "log_scale"]},
           r"img, img_proj would keep random weights.*--config\.init=DIR"),
    config("frozen tower that a part of a checkpoint leaves random",
           {"init": {"path": "{dir}/model", "load": ["txt/.*", "txt_proj/.*"]}, "stages/train/train": ["txt.*/.*"]},
           r"img, img_proj would keep random weights: .*config\.init does not give them.*'path': 'random', 'load': "
           r"\('img/\.\*',\)\} in config\.init", needs=("model",)),
    config("frozen positions that are not loaded",
           {"init": {"path": "{dir}/model", "skip": ["img/pos"]}, "stages/train/train": ["txt.*/.*"]},
           r": img/pos would keep random weights: .*as 'img/pos'; if it is meant", needs=("model",)),
    # ------------------------------------------------------------ sources
    override("no source", "--config.data.train=", r"config\.data\.train is empty: give a source, e\.g\."),
    override("unknown source", "--config.data.train=emojo:val", r"unknown data source: 'emojo'.*did you mean 'emoji'"),
    override("unknown split", "--config.data.train=emoji:tran", r"'tran'.*did you mean 'train'"),
    override("unknown option", "--config.data.train=emoji:val?styl=noto", r"option.*'styl'.*did you mean 'style'"),
    override("option twice", "--config.data.train=emoji:val?style=noto&style=noto", r"gives option 'style' twice"),
    override("option without value", "--config.data.train=emoji:val?style",
             r"option 'style' is not of the form key=value"),
    override("option of another type", "--config.data.train=emoji_scenes:val?size=big", r"size=big: expected int"),
    override("unknown tokenizer", "--config.tokenizer.spec=clip_bep",
             r"unknown tokenizer: 'clip_bep'.*mean 'clip_bpe'"),
    override("no tokenizer", "--config.tokenizer.spec=", r"config\.tokenizer needs `spec`, or `train_on`"),
    override("no such file", "--config.data.train=jsonl:{dir}/pears.jsonl", r"jsonl: there is no file .*pears\.jsonl"),
    override("no file named", "--config.data.train=jsonl", r"the source jsonl needs a file: jsonl:PATH"),
    override("no shard of the pattern", "--config.data.train=webdataset:{dir}/{000..003}.tar",
             r"there is no file .*000\.tar"),
    override("a file for a folder", "--config.data.train=folder:{dir}/config.py",
             r"config\.py is a file, not a folder"),
    evaluate("a table that is not MMBench's", r"evaluator 'mmbench:.*table\.tsv has no column 'B'; it has index, quest",
             "--data=mmbench:{dir}/table.tsv", "--metric=choice",
             setup=write("table.tsv", "index\tquestion\tA\timage\n1\tWhich?\tcat\tiVBO\n")),
    train("an empty source", r"jsonl: .*pairs\.jsonl has no rows", write("pairs.jsonl", ""),
          "--config.data.train=jsonl:{dir}/pairs.jsonl"),
    train("a source of another format", r"pairs\.jsonl: none of its first .* lines is a JSON object; it begins with",
          write("pairs.jsonl", "image,text\na.png,b\n"), "--config.data.train=jsonl:{dir}/pairs.jsonl"),
    train("no column for the caption",
          r"no column for the caption; columns: image, words; say which with \?text=COLUMN",
          write("pairs.csv", "image,words\na.png,b\n"), "--config.data.train=csv:{dir}/pairs.csv"),
    train("a column that does not exist", r"'captoin'", write("pairs.csv", "image,caption\na.png,b\n"),
          "--config.data.train=csv:{dir}/pairs.csv?text=captoin"),
    train("an image folder without images", r"folder:.*photos", write("photos/readme.md", "none"),
          "--config.data.train=folder:{dir}/photos"),
    train("images without captions or classes", r"neither captions \(image\.txt beside image\.jpg\) nor sub-folders",
          write("photos/a.png", "-"), "--config.data.train=folder:{dir}/photos"),
    # ------------------------------------------------------------ config files and arguments
    Mistake("no such config", ("train", "--config={dir}/confg.py", "--workdir={dir}/run"),
            r"config .*confg\.py does not ex"
            r"ist; there are \[.*config\.py"),
    train("config without get_config", r"config .*config\.py: .*get_config", write("config.py", "a = 1\n")),
    train("config that raises", r"config .*: ZeroDivisionError: .* \(line 2\)",
          write("config.py", "def get_config():\n    return 1 / 0\n")),
    train("config with a syntax error", r"config .*: SyntaxError: .*line 1", write("config.py", "def get_config(:\n")),
    Mistake("unknown argument", (*TRAIN, "--steps=3"), r"unknown arguments: --steps=3"),
    Mistake("unknown command", ("trian",), r"invalid choice: 'trian'"),
    # ------------------------------------------------------------ work directories
    train("work directory of another run",
          r"run holds a run of another config.*config\.seed: 6 -> 5", run_of({"seed": 6})),
    train("work directory of a damaged run",
          r"has no step that is whole: step 1: meta/metadata: No such file", run_of({})),
    train("work directory of a model", r"holds an imported model, not a run; give another --workdir",
          lambda folder: shutil.copytree(folder / "model", folder / "run" / "checkpoints"), needs=("model",)),
    Mistake("a file for a work directory", ("train", "--config={dir}/config.py", "--workdir={dir}/config.py"),
            r"config\.py could not be written: Not a directory"),
    Mistake("a work directory in a file", ("train", "--config={dir}/config.py", "--workdir={dir}/config.py/a"),
            r"config\.py/a could not be written: Not a directory"),
    # ------------------------------------------------------------ weights to begin with
    config("no such weights", {"init": "nowhere"}, r"nowhere does not exist; a checkpoint is a folder"),
    train("weights of another size",
          r"config\.init .*model does not fit the system: .*shapes", closed, "--config.init={dir}/model",
          needs=("model",), change={"system/embed_dim": 12}),
    train("weights of another activation", r"is of another system: img\.act: 'quick_gelu' there, 'gelu' here", closed,
          "--config.init={dir}/model", needs=("model",), change={"system/img/act": "gelu"}),
    train("weights of another eps", r"is of another system: txt\.eps: 1e-05 there, 1e-06 here", closed,
          "--config.init={dir}/model", needs=("model",), change={"system/txt/eps": 1e-6}),
    train("weights of another number of heads", r"is of another system: img\.heads: 2 there, 4 here", closed,
          "--config.init={dir}/model", needs=("model",), change={"system/img/heads": 4}),
    # ------------------------------------------------------------ evaluation
    Mistake("no such checkpoint", ("eval", "--checkpoint={dir}/none", *DATA),
            r"none does not exist; a checkpoint is a folder"),
    evaluate("no such step", r"has no complete step 7; there are \[0\]", "--step=7", *DATA),
    evaluate("nothing to evaluate", r"names no evaluator; make one with --data"),
    evaluate("two sets of evaluators", r"give one of the two", *DATA, "--evaluators", "a"),
    evaluate("options of no evaluator", r"--limit: this describes an evaluator, which needs --data", "--limit=3"),
    evaluate("unknown kind", r"kind 'zero' is not one of", *DATA, "--metric=zero"),
    evaluate("no batch", r"--batch-size 0: at least 1", *DATA, "--batch-size=0"),
    evaluate("negative limit", r"limit = -3; valid: a whole number, at least 1", "--data=emoji:test", "--limit=-3"),
    evaluate("negative resamples", r"resamples = -3; valid: a whole number, at least 0", *DATA, "--resamples=-3"),
    evaluate("no templates", r"nothing\.txt", *DATA, "--metric=zeroshot", "--templates={dir}/nothing.txt"),
    evaluate("no class names", r"nothing\.txt", *DATA, "--metric=zeroshot", "--classes={dir}/nothing.txt"),
    evaluate("results to nowhere", r"--json .*there is no directory", *DATA, "--json={dir}/no/where.json"),
    evaluate("positions that do not divide", r"image size 20 is not a multiple of 8 pixels", *DATA, "--image-size=20"),
    evaluate("flipped bits", r"has no step that is whole: step 0: .*; put a copy back", *DATA, setup=flip_numbers),
    evaluate("half a description", r"mmjax\.json is not JSON", *DATA, setup=cut("model/mmjax.json")),
    evaluate("a newer format", r"mmjax\.json: format 9, this version reads 1", *DATA,
             setup=edit("model/mmjax.json", {"format": 9})),
    evaluate("half a tokenizer", r"tokenizer_config\.json is not a tokenizer's description", *DATA,
             setup=cut("model/tokenizer/tokenizer_config.json")),
    evaluate("a changed tokenizer", r"tokenizer.*digest", *DATA,
             setup=edit("model/tokenizer/tokenizer_config.json", {"digest": "0"})),
    Mistake("evaluating a run without a checkpoint", ("eval", "--checkpoint={dir}/run", *DATA),
            r"has no complete step; there are \[\]", {}, (),
            both(run_of({}), lambda folder: shutil.rmtree(folder / "run/checkpoints/1"))),
    Mistake("no tokenizer in a published model", ("eval", "--checkpoint={dir}/hf", *DATA),
            r"has no tokenizer; give its spec",
            {}, ("hf",)),
    Mistake("tokenizer too big for the published model",
            ("eval", "--checkpoint={dir}/hf", *DATA, "--tokenizer=clip_bpe"),
            r"vocab = 99, but the tokenizer has 49408 ids", {}, ("hf",)),
    # ------------------------------------------------------------ published weights
    Mistake("no GGUF file", ("convert", "--input={dir}/m.gguf", "--output={dir}/out", "--layout=hf"),
            r"m\.gguf \(12 bytes\) is no GGUF file: it begins with b'GGML'",
            setup=lambda folder: (folder / "m.gguf").write_bytes(b"GGML" + bytes(8))),
    convert("no such weights to convert", r"none does not exist", None, "--input={dir}/none"),
    convert("interrupted download",
            r"model\.safetensors \([\d,]+ bytes\) cannot be read as safetensors: .*interrupted\? Fetch",
            cut("hf/model.safetensors")),
    convert("download cut in the header",
            r"cannot be read as safetensors: .*interrupted", cut("hf/model.safetensors", 0.001)),
    convert("empty download", r"model\.safetensors is empty: fetch", write("hf/model.safetensors", "")),
    convert("unfinished download", r"an interrupted download, model\.safetensors\.incomplete: finish it",
            lambda folder: (folder / "hf/model.safetensors").rename(folder / "hf/model.safetensors.incomplete")),
    convert("pointer of Git LFS", r"is a pointer of Git LFS, not the weights: run `git lfs pull`",
            write("hf/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")),
    convert("web page for weights",
            r"is a web page, not weights", write("hf/model.safetensors", "<!DOCTYPE html><html>")),
    convert("weights that are noise",
            r"cannot be read as safetensors", write("hf/model.safetensors", bytes(range(256)) * 9)),
    convert("pickle that calls something", r"posix\.system", pickle_that_calls),
    convert("a missing shard", r"index\.json names files that are not there: part-2\.safetensors",
            both(lambda folder: (folder / "hf/model.safetensors").rename(folder / "hf/part-1.safetensors"),
                 write("hf/model.safetensors.index.json", json.dumps({"weight_map": {"a": "part-1.safetensors", "b":
                       "part-2.safetensors"}})))),
    convert("no weights", r"holds no weights: looked for model\.safetensors", empty_config_folder),
    convert("no config", r"config\.json is missing", remove("hf/config.json")),
    convert("half a config", r"config\.json is not JSON", cut("hf/config.json")),
    convert("config of another size",
            r"not as the config says .*class_embedding is \[48\], expected \[64\]",
            edit("hf/config.json", {"vision_config/hidden_size": 64})),
    convert("config of another depth",
            r"not known to this layout \(16\): text_model\.encoder\.layers\.1",
            edit("hf/config.json", {"text_config/num_hidden_layers": 1})),
    convert("activation that does not exist", r"'swish2'",
            edit("hf/config.json", {"vision_config/hidden_act": "swish2"})),
    convert("a missing tensor", r"missing.*" + QK, rename(QK, "text_model.more")),
    convert("a tokenizer that pads on the left",
            r"tokenizer_config\.json: padding_side = 'left', but CLIP's and SigLIP's text towers .* set it to 'right'",
            write("hf/tokenizer_config.json", '{"padding_side": "left"}')),
    convert("an unknown model", r"xlnet", edit("hf/config.json", {"model_type": "xlnet"})),
    convert("output that is not empty", r"out is not empty; --force replaces", write("out/a", "")),
    convert("output over the input", r"the output .* is or holds the input", None, "--output={dir}/hf"),
    convert("unknown layout", r"argument --layout: invalid choice: 'hff'", None, "--layout=hff"),
    Mistake("no fixture", ("verify", "{dir}/nowhere"), r"nowhere"),
]  # fmt: skip
