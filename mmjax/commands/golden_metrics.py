"""Fixtures of metrics: tables of texts, and arrays of features and scores."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmjax.commands.golden import CONFIG, Arrays, Runner, Table, Unable
from mmjax.data import clean
from mmjax.evals import generated
from mmjax.evals.words import answers, captions, treebank
from mmjax.weights import files

_EVALUATION_WORDS = 50  # LAVIS' processors


def caption_metrics(table: Mapping[str, Any]) -> Table:
    """Tokens of all texts, and scores of the corpus and of each caption."""
    items = table["items"]
    ours = treebank.tokenize([case["candidate"] for case in items])
    theirs = [treebank.tokenize(case["references"]) for case in items]
    scores = captions.tokenized_scores(ours, theirs)
    made = [{"tokenized_candidate": own, "tokenized_references": several,
             **{name: score.each[i] for name, score in scores.items()}}
            for i, (own, several) in enumerate(zip(ours, theirs, strict=True))]  # fmt: skip
    totals = {"tokenizer": "PTBTokenizer", **{name: score.corpus for name, score in scores.items()}}
    return Table(totals, made, ("image_id", "candidate", "references"))


def vqa_accuracy(table: Mapping[str, Any]) -> Table:
    """Normalised answers and accuracies, each, overall and by type."""
    items, made = table["items"], []
    for case in items:
        said, given = case["prediction"], case["answers"]
        made.append({
            "vqa_accuracy_percent": round(100 * answers.vqa_accuracy(said, given), 2),
            "normalised_prediction": answers.normalise_answer(said),
            "evalai_prediction": answers.evalai_answer(said),
            "evalai_accuracy": answers.evalai_accuracy(said, given),
        })  # fmt: skip
    kinds = {kind: [case[kind] for case in items] for kind in ("question_type", "answer_type")}
    overall, groups = answers.accuracy_table(
        [answers.vqa_accuracy(case["prediction"], case["answers"]) for case in items], kinds
    )
    mean = float(np.mean([case["evalai_accuracy"] for case in made]))
    totals: dict[str, Any] = {"overall": overall, "evalai_mean": mean}
    totals |= {f"per_{kind}": found for kind, found in groups.items()}
    return Table(totals, made, ("question_id", "question_type", "answer_type", "prediction", "answers"))


def pope(table: Mapping[str, Any]) -> Table:
    """What each answer counts as, and the scores."""
    items = table["items"]
    said = [case["text"] for case in items]
    scores = answers.pope(said, [case["label"] for case in items])._asdict()
    short = {"true_positive": "TP", "false_positive": "FP", "true_negative": "TN", "false_negative": "FN"}
    made = [{"parsed": "yes" if answers.says_yes(text) else "no"} for text in said]
    return Table({short.get(k, k): v for k, v in scores.items()}, made, ("question_id", "label", "text"))


def text_processors(table: Mapping[str, Any]) -> Table:
    """Captions and questions as LAVIS cleans them."""
    made = [{"pre_caption": clean.blip_caption(case["text"], _EVALUATION_WORDS),
             "pre_question": clean.blip_question(case["text"], _EVALUATION_WORDS)}
            for case in table["items"]]  # fmt: skip
    return Table({}, made, ("text",))


def open_arrays(folder: pathlib.Path) -> Runner:
    """Metrics of arrays, with the constants of the fixture's configuration."""
    config = files.read_json(folder / CONFIG)

    def run(task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        if task not in ARRAYS:
            raise Unable(f"mmjax has no metric of arrays {task!r}; it has {', '.join(ARRAYS)}")
        return ARRAYS[task](inputs, config)

    return run


def _fid_from_moments(inputs: Arrays, config: Mapping[str, Any]) -> dict[str, Any]:
    first, second = (generated.Moments(inputs[f"mean_{i}"], inputs[f"cov_{i}"]) for i in (1, 2))
    return {"fid": np.array(generated.frechet_distance(first, second))}


def _fid_from_features(inputs: Arrays, config: Mapping[str, Any]) -> dict[str, Any]:
    both = [generated.moments(inputs[f"features_{i}"]) for i in (1, 2)]
    made: dict[str, Any] = {"fid": np.array(generated.frechet_distance(*both))}
    for i, (mean, covariance) in enumerate(both, 1):
        made |= {f"mean_{i}": mean, f"cov_{i}": covariance}
    return made


def _inception_score(inputs: Arrays, config: Mapping[str, Any]) -> dict[str, Any]:
    parts = generated.inception_score(inputs["logits"], int(inputs["splits"]))
    return {"score_all": generated.inception_score(inputs["logits"])[0], "per_split": parts,
            "mean": parts.mean(), "std": parts.std()}  # fmt: skip


def _clip_score(inputs: Arrays, config: Mapping[str, Any]) -> dict[str, Any]:
    captions_, weight = inputs["caption_features"], float(config.get("clip_score_weight", generated.CLIP_SCORE_WEIGHT))
    cosine = generated.paired_cosine(inputs["image_features"], captions_)
    score = generated.clip_score(cosine, weight)
    return {
        "cosine": cosine,
        f"clip_score_w{weight:g}".replace(".", "_"): score,
        "clip_score_x100": generated.clip_score(cosine, 100.0),
        "mean_x100": generated.clip_score(cosine.mean(keepdims=True), 100.0)[0],
        "ref_clip_score": generated.reference_clip_score(score, captions_, inputs["reference_features"]),
    }


def _retrieval(inputs: Arrays, config: Mapping[str, Any]) -> dict[str, Any]:
    scores, owner = inputs["similarity"], inputs["image_of_caption"]
    right = owner[None, :] == np.arange(len(scores))[:, None]
    made: dict[str, Any] = {}
    for name, ranks in (("image_to_text", generated.strict_ranks(scores, right)),
                        ("text_to_image", generated.strict_ranks(scores.T, right.T))):  # fmt: skip
        made |= {f"{name}_rank": ranks, f"{name}_median_rank": 1 + np.median(ranks)}
        made |= {f"{name}_recall_at_{k}": (ranks < k).mean() for k in config.get("recall_at", (1, 5, 10))}
    return made


def _zero_shot(inputs: Arrays, config: Mapping[str, Any]) -> dict[str, Any]:
    labels = inputs["labels"]
    classes = generated.unit(generated.unit(inputs["prompt_embeddings"]).mean(axis=1))
    logits = generated.unit(inputs["sample_embeddings"]) @ classes.T
    right = labels[:, None] == np.arange(len(classes))[None, :]
    ranks = generated.strict_ranks(logits, right)
    each = np.array([(ranks[labels == c] < 1).mean() for c in range(len(classes))])
    return {"class_weights": classes, "logits": logits, "top1": (ranks < 1).mean(), "top5": (ranks < 5).mean(),
            "per_class_accuracy": each, "mean_per_class": each.mean()}  # fmt: skip


def _map(inputs: Arrays, config: Mapping[str, Any]) -> dict[str, Any]:
    each = np.array([generated.average_precision(s, t) for s, t in zip(inputs["scores"].T, inputs["targets"].T,
                                                                         strict=True)])  # fmt: skip
    return {"average_precision": each, "map": each.mean()}


ARRAYS: dict[str, Callable[[Arrays, Mapping[str, Any]], dict[str, Any]]] = {
    "fid_from_moments": _fid_from_moments,
    "fid_from_features": _fid_from_features,
    "inception_score": _inception_score,
    "clip_score": _clip_score,
    "retrieval": _retrieval,
    "zero_shot": _zero_shot,
    "map": _map,
}
