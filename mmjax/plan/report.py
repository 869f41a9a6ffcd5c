"""A whole plan: every stage estimated, compiled where that can be had, and what to change; as a mapping and as text."""

import time
from collections.abc import Mapping
from typing import Any

from mmjax import checks
from mmjax.core.errors import UserError
from mmjax.plan import advice, compiled, roofline
from mmjax.plan.estimate import USABLE, estimate, memory_of, model_flops
from mmjax.plan.step import for_platform
from mmjax.plan.topology import Topology

# The estimate's peak has to fit with this factor. CPU: it was 0.73 to 0.97 of what steps took that ran
# (experiments/benchmarks/README.md). Its temporaries over the compiler's: libtpu 0.0.42, CLIP's demo, B/32 and L/14 at
# 336 pixels, 0.84 or more, the lowest for the demo's narrow heads; XLA's for CUDA, the demo on one A100 and on one and
# four H100 and B/32 on eight, 0.85 to 0.92.
MARGIN = {"cpu": 1.4, "gpu": 1.2, "tpu": 1.2}
SECONDS = {"compile": 88.0, "all": 100.0}  # from the start: no compilation goes on after, and nothing more is tried


def plan(config: Mapping[str, Any], topology: Topology, compile: str = "auto") -> dict[str, Any]:
    """The plan of a config (plain mappings) on a topology.

    Args:
      compile: "auto" asks the compiler where there is one, "always" insists, "never" estimates only.

    Raises:
      UserError: a mistake in the config; `compile="always"` without a compiler, or one that fails.
    """
    checks.check_config(config)
    config = for_platform(config, topology.spec.platform)
    name = compiled.source(topology)
    if compile == "always" and name is None:
        extra = {"tpu": "; pip install 'mmjax[tpu]'", "gpu": "; pip install 'jax[cuda12]'"}[topology.spec.platform]
        raise UserError(f"--compile=always: no compiler for {topology.name} here{extra}")
    usable, margin, start = memory_of(topology), MARGIN[topology.spec.platform], time.monotonic()
    stages = []
    for stage in config["stages"]:
        found = estimate(config, stage, topology)
        found["flops"]["model"] = model_flops(config, stage, topology)
        found["memory_source"], bound = "estimate", found["peak"] * margin
        if compile != "never" and name is not None:
            left = start + SECONDS["compile"] - time.monotonic()
            answer = compiled.compile_stage(config, stage, topology, left)
            if "error" in answer and compile == "always":
                raise UserError(f"--compile=always: {name}, stage {stage}: {answer['error']}")
            found["compiled"] = answer
            if "error" not in answer:
                found["memory_source"] = name
                found["peak"] = bound = (
                    answer["arguments"] + answer["temporaries"] + answer["outputs"] - answer["aliased"]
                )
        found["fits"] = bound <= usable
        found["changes"] = []
        if not found["fits"]:
            until = start + SECONDS["all"]
            found["changes"] = advice.try_changes(config, stage, topology, usable, margin, until)
        stages.append(found)
    worst = max(stages, key=lambda found: found["peak"])
    return {
        "topology": topology.name,
        "devices": topology.devices,
        "rates_source": topology.spec.source or "recalled, not confirmed",
        "usable": usable,
        "usable_share": USABLE[topology.spec.platform],
        "compiler": name,
        "margin": margin,
        "utilisation": roofline.UTILISATION,
        "stages": stages,
        "peak": worst["peak"],
        "peak_stage": worst["stage"],
        "fits": all(found["fits"] for found in stages),
    }


def text(plan: Mapping[str, Any]) -> str:
    """The plan as a table."""
    lines = [f"{plan['topology']}: {plan['devices']} devices, {_gb(plan['usable'])} usable each "
             f"({plan['usable_share']:.0%} of what there is)"]  # fmt: skip
    lines.append(f"  {'peaks of the device':22} {plan['rates_source']}")
    for stage in plan["stages"]:
        lines += _stage(stage, plan)
    if len(plan["stages"]) > 1:
        lines += ["", f"peak of all stages: {_gb(plan['peak'])} ({plan['peak_stage']})"]
    return "\n".join(lines)


def _stage(s: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    mesh = " ".join(f"{axis}={size}" for axis, size in s["mesh"].items())
    rows = [("mesh", mesh), ("batch", f"{s['batch_size']:,} samples, {s['dtype']}"),
            ("trainable, frozen", f"{s['count']['trainable']:,}, {s['count']['frozen']:,} parameters")]  # fmt: skip
    rows += [(f"{name} / device", f"{_gb(size)}   exact, from the shardings") for name, size in s["bytes"].items()
             if name not in ("temporaries", "gradients")]  # fmt: skip
    rows += [("gradients / device", f"{_gb(s['bytes']['gradients'])}   part of the temporaries"),
             ("temporaries / device", f"{_gb(s['bytes']['temporaries'])}   estimate, with gradients")]  # fmt: skip
    answer = s.get("compiled")
    if answer and "error" in answer:
        rows.append((plan["compiler"], f"{answer['error']}; the figures are the estimate's"))
    elif answer:
        rows.append(("temporaries / device", f"{_gb(answer['temporaries'])}   {plan['compiler']}"))
    elif plan["compiler"] is None:
        rows.append(("compiler", "none here for this kind; the figures are the estimate's"))
    room = plan["usable"] - s["peak"]
    margin = f", fits with a margin of {plan['margin']}" if s["memory_source"] == "estimate" else ""
    verdict = f"fits{margin.replace('fits ', '')}" if s["fits"] else f"DOES NOT FIT{margin.replace('fits ', '')}"
    rows.append(("peak / device", f"{_gb(s['peak'])}   {s['memory_source']}; {verdict}; headroom {_gb(room)}"))
    f = s["flops"]
    rows.append(("FLOPs a step", f"{f['model']:.4g} model, {f['executed']:.4g} executed, {f['a_device']:.4g} a device"))
    rows.append(("exchanged / device", _sent(s["collectives"]) + "   from the shardings"))
    if answer and answer.get("collectives_error"):
        rows.append(("exchanged / device", f"not told by {plan['compiler']}: {answer['collectives_error']}"))
    elif answer and "error" not in answer:
        rows.append(("exchanged / device", _sent(answer["collectives"]) + f"   {plan['compiler']}'s program"))
    t = s["seconds"]
    rows.append(("roofline", f"compute {t['compute']:.3g} s, memory {t['memory']:.3g} s, network {t['network']:.3g} s"))
    rows.append(("step", f"{t['step']:.3g} s, {s['samples_per_second']:,.0f} samples/s; {s['binds']} binds "
                         f"(assumed: {plan['utilisation']:.0%} of the peak FLOP/s, all overlapping)"))  # fmt: skip
    lines = ["", f"stage {s['stage']}", *(f"  {name:22} {words}" for name, words in rows)]
    if s["changes"]:
        lines.append("  what would change it, each by the estimate:")
        for change in s["changes"]:
            words = change.get("error")
            if words is None:
                verdict = "fits" if change["fits"] else "does not fit"
                words = f"{_gb(change['peak'])}  {verdict:12}  {change['seconds']:.3g} s a step"
            lines.append(f"    {change['change']:44} {words}")
    return lines


def _sent(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {_gb(size)}" for kind, size in sorted(kinds.items())) or "nothing"


def _gb(size: float | int) -> str:
    return f"{size / 1e9:.2f} GB" if abs(size) >= 1e8 else f"{size / 1e6:.2f} MB"
