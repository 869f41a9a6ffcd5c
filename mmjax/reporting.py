"""The report of a training run, from its evaluators and its logs."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax

import mmjax
from mmjax.core import processes, trees
from mmjax.data.ledger import FILE, Ledger, describe
from mmjax.evals.base import Evaluator, Predictor
from mmjax.evals.report.contents import ReportData, retrieval_panel
from mmjax.evals.report.examine import WRITERS, examine
from mmjax.evals.report.write import write_report
from mmjax.evals.retrieval import Retrieval
from mmjax.train.progress import print_table
from mmjax.train.writers import MetricWriter, read_history


class Evaluation:
    """Runs a run's evaluators, logs what they find and keeps the latest.

    Attributes:
      metrics: of the latest evaluation.
      predictor: with the weights of the latest evaluation, which training may overwrite after it.

    Args:
      resumed: the step that the run goes on from. If metrics.jsonl holds its evaluation, that is not logged twice, and
        only made again at the last step, for the report.
      total: the last step.
      every: steps between evaluations; 0: at the last one alone, whatever stages end before.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        system: Any,
        mesh: Any,
        evaluators: Mapping[str, Evaluator],
        logs: MetricWriter,
        resumed: int | None,
        total: int,
        every: int = 0,
    ) -> None:
        self.metrics: dict[str, float] = {}
        self.predictor = Predictor(system, {}, mesh=mesh)
        self._evaluators, self._logs, self._total, self._every = evaluators.values(), logs, total, every
        rows = read_history(workdir / "metrics.jsonl") if resumed is not None else []
        names = [name for row in rows if row["step"] == resumed for name in row]
        logged = all(any(name.startswith(f"{e.name}/") for name in names) for e in self._evaluators)
        self._logged = processes.agree(resumed if logged else None)  # all evaluate, or none

    def __call__(self, step: int, variables: Mapping[str, Any]) -> None:
        if step != self._total and (step == self._logged or not self._every):
            return
        self.predictor = self.predictor.replace(variables)
        self.metrics = {name: value for e in self._evaluators for name, value in e.run(self.predictor)}
        if self.metrics and step != self._logged:
            self._logs.write(step, self.metrics)


def write(
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    evaluators: Mapping[str, Evaluator],
    predictor: Predictor,
    metrics: Mapping[str, float],
    dropped: Ledger,
) -> None:
    """Writes metrics.json, PNGs and report.html to the work directory and prints the table of metrics.

    Every process takes part in the predictions; process 0 writes.
    """
    shown = [evaluators[name] for name in config.get("report", ())]
    panels = [retrieval_panel(each, *each.embed(predictor)) for each in shown if isinstance(each, Retrieval)]
    found = [examine(each, predictor) for each in shown if isinstance(each, WRITERS)]
    if jax.process_index():
        return
    baselines: dict[str, dict[str, float]] = {}
    for evaluator in evaluators.values():
        for kind, values in evaluator.baselines().items():
            baselines.setdefault(kind, {}).update(values)
    history = read_history(workdir / "metrics.jsonl")
    data = ReportData(
        title=config.get("title") or f"{config['system']['name']} on {config['data']['train']}",
        summary=_summary(config, predictor, history),
        metrics=metrics,
        baselines=baselines,
        history=history,
        panels=panels,
        settings={
            "Run": _run(history),
            **_dropped(dropped),
            "Config": {k: v for k, v in config.items() if k != "title"},
        },
    )
    path = write_report(workdir, data, [picture for each in found for picture in each.pictures])
    print_table(metrics)
    print(f"report: {path}\nmetrics: {path.with_name('metrics.json')}")


def _summary(config: Mapping[str, Any], predictor: Predictor, history: list[dict[str, Any]]) -> str:
    size = config["data"]["batch_size"]
    steps = max((row["step"] for row in history), default=0)
    return (
        f"{trees.count(predictor.variables['params']):,} parameters, {steps:,} steps of {size:,} pairs from "
        f"{config['data']['train']}."
    )


def _dropped(dropped: Ledger) -> dict[str, dict[str, Any]]:
    """The section on data that could not be used; none if all could."""
    totals = dropped.totals()
    if not totals:
        return {}
    first = [describe(item) for item in dropped.first]
    return {"Data that could not be used": {**totals, "total": sum(totals.values()), "first": first, "all": FILE}}


def _run(history: list[dict[str, Any]]) -> dict[str, Any]:
    speeds = sorted(row["samples_per_s"] for row in history if "samples_per_s" in row)
    waits = sorted(row["input_wait"] for row in history if "input_wait" in row)
    out: dict[str, Any] = {
        "mmjax": mmjax.__version__,
        "jax": jax.__version__,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "finished": time.strftime("%Y-%m-%d %H:%M %Z"),
    }
    if speeds:
        out |= {"samples per second (median)": speeds[len(speeds) // 2], "input wait (median)": waits[len(waits) // 2]}
    return out
