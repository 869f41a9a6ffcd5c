"""`mmjax eval`: evaluates a checkpoint of any layout, with the evaluators of its config or one made from arguments."""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from mmjax.commands import distributed

# Fields of an evaluator's spec that have an argument of the same name.
SPEC = ("data", "gallery", "match", "pixel_match", "duplicates", "classes", "label", "templates", "limit", "resamples",
        "per_class", "train_data", "validation_data", "features")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, metavar="DIR",
                        help="a work directory, or a checkpoint of any layout")  # fmt: skip
    parser.add_argument("--step", type=int, metavar="N", help="of a training run; the last one unless told")
    parser.add_argument("--evaluators", nargs="+", metavar="NAME", help="only these of the checkpoint's config")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="over all devices (default 256)")
    parser.add_argument("--image-size", type=int, metavar="N", help="resize the positions for images of N pixels")
    parser.add_argument("--tokenizer", metavar="SPEC", help="for a checkpoint that has none")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write {metric: value}")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help="also write figures (PNG), metrics.json and report.html")  # fmt: skip

    distributed.add_argument(parser)

    own = parser.add_argument_group("an evaluator of your own, instead of those of the checkpoint's config")
    own.add_argument("--data", metavar="SPEC", help="source of the pictures, such as 'emoji:test?style=fluent'")
    own.add_argument("--metric", metavar="METRIC", help="kind: retrieval (default), zeroshot, linear_probe, rerank, "
                     "matching, caption, vqa, verdict, pope, choice, freeform")  # fmt: skip
    own.add_argument("--option", action="append", default=[], metavar="KEY=VALUE",
                     help="a further option of that kind, as in a config, such as nearest=64 or mode=rank; VALUE is "
                     "JSON or a text; may be given again")  # fmt: skip
    own.add_argument("--name", help="prefix of its metrics (default: the source's name)")
    own.add_argument("--limit", type=int, metavar="N", help="at most N examples, spread evenly over the source")
    own.add_argument("--templates", metavar="NAME|FILE", help="prompts: a built-in set, or a file of them")
    own.add_argument("--resamples", type=int, metavar="N", help="of the bootstrap intervals; 0: none")
    own.add_argument("--gallery", metavar="SPEC", help="retrieval: source of the labels (default: the pictures' texts)")
    own.add_argument("--match", metavar="KEY", help="retrieval: key by which pictures and gallery belong together")
    own.add_argument("--pixel-match", metavar="SPEC", help="retrieval: pictures for the baseline of equal pixels")
    own.add_argument("--duplicates", help="retrieval: what becomes of texts that read the same")
    own.add_argument("--classes", metavar="FILE", help="zeroshot, linear_probe: class names, one on each line")
    own.add_argument("--label", metavar="KEY", help="zeroshot, linear_probe: key of the class in an example")
    own.add_argument("--per-class", action="store_true", default=None,
                     help="zeroshot, linear_probe: accuracy of every class, too")  # fmt: skip
    own.add_argument("--train-data", metavar="SPEC", help="linear_probe: source of the labelled pictures to fit")
    own.add_argument("--validation-data", metavar="SPEC", help="linear_probe: pictures to choose the penalty by "
                     "(default: a fifth of the training ones)")  # fmt: skip
    own.add_argument("--features", metavar="NAME", help="linear_probe: pooled (default; before the projection), "
                     "projected, or unit (of length one)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Prints a table of metrics, and what needs no model scores; of several processes, the first one prints and writes.

    Raises:
      UserError: no checkpoint, nothing to evaluate, or arguments that do not fit together.
    """
    from mmjax.core import processes

    with processes.job(args.distributed, lambda: "start the same command again"):
        return evaluate(args)


def evaluate(args: argparse.Namespace) -> int:
    """`run`, in a job that is joined already."""
    import jax
    from absl import logging

    from mmjax import model
    from mmjax.commands.left_out import tell
    from mmjax.core import files
    from mmjax.core.errors import UserError
    from mmjax.evals.build import build_evaluator
    from mmjax.evals.report.contents import ReportData
    from mmjax.evals.report.examine import Examined, examine
    from mmjax.evals.report.write import stem, write_report
    from mmjax.train.progress import print_table

    logging.set_verbosity(logging.ERROR)
    spec = own_spec(args)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: at least 1")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no directory {args.json.absolute().parent}")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file; give a directory")
    loaded = model.load(args.checkpoint, step=args.step, image_size=args.image_size, tokenizer=args.tokenizer,
                        batch_size=args.batch_size)  # fmt: skip
    specs = {args.name or args.data.partition("?")[0]: spec} if spec else chosen(loaded.config, args.evaluators)
    evaluators = {name: build_evaluator(name, each, loaded.tools) for name, each in specs.items()}
    first = jax.process_index() == 0
    if first:
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        print(f"{args.checkpoint}: {loaded.account}, on {devices}", flush=True)
        tell(loaded.tools.left_out)
    found = [
        examine(each, loaded.predictor) if args.out else Examined(dict(each.run(loaded.predictor)), [], [])
        for each in evaluators.values()
    ]
    if not first:
        return 0
    metrics = {name: value for each in found for name, value in each.metrics.items()}
    baselines: dict[str, dict[str, float]] = {}
    for evaluator in evaluators.values():
        for kind, values in evaluator.baselines().items():
            baselines.setdefault(kind, {}).update(values)
    print_table({**metrics, **{f"{kind}: {name}": value for kind, values in baselines.items()
                               for name, value in values.items()}})  # fmt: skip
    if args.json is not None:
        files.write_text(args.json, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    if args.out is not None:
        data = ReportData(
            title=", ".join(specs),
            summary=f"{args.checkpoint}: {loaded.account}.",
            metrics=metrics,
            baselines=baselines,
            panels=[panel for each in found for panel in each.panels],
            settings={"Evaluators": specs, "System": loaded.system},
        )
        print(f"report: {write_report(args.out, data, [picture for each in found for picture in each.pictures])}")
        for name, each in zip(specs, found, strict=True):
            if each.written:
                lines = [json.dumps(dataclasses.asdict(text), ensure_ascii=False) for text in each.written]
                files.write_text(args.out / f"{stem(name)}_written.jsonl", "\n".join(lines) + "\n")
    return 0


def own_spec(args: argparse.Namespace) -> dict[str, Any]:
    """The spec of the evaluator that the arguments describe; empty if they describe none.

    Raises:
      UserError: options of an evaluator without --data, or --data with --evaluators.
    """
    from mmjax.core.errors import UserError

    given = {name: getattr(args, name) for name in SPEC if getattr(args, name) is not None}
    if args.metric is not None:
        given["kind"] = args.metric
    for each in args.option:
        key, equals, value = each.partition("=")
        if not key or not equals or key in given:
            raise UserError(f"--option {each}: give KEY=VALUE, each key once")
        try:
            given[key] = json.loads(value)
        except ValueError:
            given[key] = value
    if "data" in given and args.evaluators:
        raise UserError("--data makes an evaluator and --evaluators chooses some of the config: give one of the two")
    said = {"kind": "metric"} | {each.partition("=")[0]: "option" for each in args.option}
    idle = sorted({*(said.get(name, name) for name in given), *(("name",) if args.name else ())})
    if idle and "data" not in given:
        named = ", ".join("--" + name.replace("_", "-") for name in idle)
        raise UserError(f"{named}: this describes an evaluator, which needs --data SOURCE")
    return {"kind": "retrieval", **given} if given else {}


def chosen(config: Any, names: list[str] | None) -> dict[str, Any]:
    """The evaluators of a config, or those of them that are named.

    Raises:
      UserError: the config has none, or not this one.
    """
    from mmjax.core.errors import UserError

    there = config.get("evals", {})
    if not there:
        raise UserError("the checkpoint's config names no evaluator; make one with --data SOURCE")
    unknown = sorted(set(names or ()) - set(there))
    if unknown:
        raise UserError(f"--evaluators {' '.join(unknown)}: the checkpoint's config has {', '.join(there)}")
    return {name: spec for name, spec in there.items() if not names or name in names}
