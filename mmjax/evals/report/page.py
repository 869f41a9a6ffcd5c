"""The HTML of a report: one file, images inside it, no request to anywhere."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mmjax.evals.report.curves import pretty

_CSS = """
:root{--ink:#1c2430;--muted:#6b7686;--line:#e3e8ee;--blue:#2f6fde;--orange:#d9622b;--green:#1a8f5a}
*{box-sizing:border-box}
body{margin:0;background:#f5f7fa;color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:48px 24px 80px}
h1{font-size:30px;line-height:1.2;letter-spacing:-.02em;margin:0 0 8px}
h2{font-size:19px;letter-spacing:-.01em;margin:0 0 4px}
h3{font-size:14px;margin:22px 0 6px}
p{margin:0 0 14px;max-width:76ch}
.muted{color:var(--muted)}
.card{background:#fff;border:1px solid var(--line);border-radius:12px;padding:22px 26px;margin-top:22px}
.tiles{display:flex;flex-wrap:wrap;gap:14px;margin-top:26px}
.tile{background:#fff;border:1px solid var(--line);border-radius:12px;padding:14px 18px;flex:1 1 215px}
.tile b{display:block;font-size:29px;line-height:1.25;letter-spacing:-.02em;font-weight:650}
.tile span{display:block;color:var(--muted);font-size:13px;line-height:1.4}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-size:12px;font-weight:600;color:var(--muted);text-align:right;padding:6px 10px}
thead{border-bottom:1px solid var(--line)}
td{padding:6px 10px;text-align:right;border-bottom:1px solid #f0f3f6;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
td.plot{width:230px;padding-right:0}
tr.group td{font-weight:650;padding-top:16px;border-bottom:1px solid var(--line)}
td.value{font-weight:650}
img{max-width:100%;height:auto;display:block}
figure{margin:10px 0 0}
figcaption{color:var(--muted);font-size:13px;margin-bottom:8px;max-width:80ch}
.key i{display:inline-block;width:9px;height:9px;margin:0 5px 0 14px;border-radius:50%}
.key i.tick{width:3px;height:13px;border-radius:1px;vertical-align:-2px}
.settings{columns:2 380px;column-gap:34px}
.settings section{break-inside:avoid}
dl{display:grid;grid-template-columns:minmax(90px,max-content) 1fr;gap:2px 16px;margin:0;font-size:13px}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,SFMono-Regular,Menlo,monospace;font-size:12px;line-height:1.65}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""
_TICKS = ("#9aa5b4", "#d9622b", "#8a5cd6", "#b8860b")  # baselines, in order


class Picture(NamedTuple):
    """A figure of the report."""

    file: str  # name of the PNG beside the report
    section: str  # figures of one section stand together
    caption: str
    png: bytes


def page(
    title: str,
    summary: str,
    metrics: Mapping[str, float | int],
    baselines: Mapping[str, Mapping[str, float]],
    settings: Mapping[str, Mapping[str, Any]],
    pictures: Sequence[Picture],
) -> str:
    """The whole document."""
    parts = [f"<h1>{_text(title)}</h1>", f'<p class="muted">{_text(summary)}</p>' if summary else ""]
    parts += [_tiles(metrics, baselines), _metrics_card(metrics, baselines)]
    for section in dict.fromkeys(picture.section for picture in pictures):
        figures = "".join(_figure(picture) for picture in pictures if picture.section == section)
        parts.append(f'<section class="card"><h2>{_text(section)}</h2>{figures}</section>')
    parts.append(_settings_card(settings))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_CSS}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def is_share(name: str) -> bool:
    """Whether a metric is a share of queries, shown in percent: recall and accuracy."""
    last = name.rsplit("/", 1)[-1]
    return "R@" in last or last.startswith(("top", "mean_per_class", "accuracy")) or "/class/" in name


def _number(name: str, value: float | int) -> str:
    if is_share(name):
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


def named_metrics(metrics: Mapping[str, float | int]) -> list[str]:
    """Names of the metrics themselves, without the bounds of their intervals."""
    bounds = {f"{name}{end}" for name in metrics for end in ("_lo", "_hi")}
    return [name for name in metrics if name not in bounds]


def _interval(metrics: Mapping[str, float | int], name: str) -> tuple[float, float] | None:
    lo, hi = metrics.get(f"{name}_lo"), metrics.get(f"{name}_hi")
    return None if lo is None or hi is None else (float(lo), float(hi))


def _tiles(metrics: Mapping[str, float | int], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """The first recall (or accuracy) of each evaluator, large."""
    first = {name.rpartition("/")[0]: name for name in reversed(named_metrics(metrics)) if is_share(name)}
    tiles = []
    for name in list(reversed(first.values()))[:8]:
        known = [f"{label} {_number(name, scores[name])}" for label, scores in baselines.items() if name in scores]
        tiles.append(
            f'<div class="tile"><b>{_number(name, metrics[name])}</b><span>{_text(pretty(name))}</span>'
            f"<span>{_text(', '.join(known))}</span></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _metrics_card(metrics: Mapping[str, float | int], baselines: Mapping[str, Mapping[str, float]]) -> str:
    names = named_metrics(metrics)
    if not names:
        return ""
    shares = any(is_share(name) for name in names)
    labels = list(baselines)
    head = ["<th>metric</th><th>value</th><th>95&nbsp;% interval</th>"]
    head += [f"<th>{_text(label)}</th>" for label in labels] + (["<th>0 … 100&nbsp;%</th>"] if shares else [])
    rows, group = [], None
    width = 3 + len(labels) + shares
    order = list(dict.fromkeys(map(_group, names)))
    for name in sorted(names, key=lambda n: order.index(_group(n))):
        if _group(name) != group:
            group = _group(name)
            rows.append(
                f'<tr class="group"><td colspan="{width}">{_text((group or "run").replace("_", " "))}</td></tr>'
            )
        bounds = _interval(metrics, name)
        cells = [f"<td>{_text(pretty(name.rpartition('/')[2]))}</td>"]
        cells += [f'<td class="value">{_number(name, metrics[name])}</td>']
        cells += ["<td></td>" if bounds is None else f"<td>{' – '.join(_number(name, b) for b in bounds)}</td>"]
        known = [baselines[label].get(name) for label in labels]
        cells += [f"<td>{'' if score is None else _number(name, score)}</td>" for score in known]
        if shares:
            plot = _plot(float(metrics[name]), bounds, known) if is_share(name) else ""
            cells.append(f'<td class="plot">{plot}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    key = "".join(
        f'<i class="tick" style="background:{_TICKS[i % len(_TICKS)]}"></i>{_text(label)}'
        for i, label in enumerate(labels)
    )
    note = '<p class="muted key"><i style="background:var(--blue);margin-left:0"></i>value, with its bootstrap interval'
    return (
        f'<section class="card"><h2>Metrics</h2>{f"{note}{key}</p>" if shares else ""}'
        f'<div class="scroll"><table><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _group(name: str) -> str:
    return name.rpartition("/")[0]


def _plot(value: float, bounds: tuple[float, float] | None, baselines: Iterable[float | None]) -> str:
    """Value, interval and baselines on a line from 0 to 1, as inline SVG."""

    def at(share: float) -> str:
        return f"{5 + 210 * min(max(share, 0.0), 1.0):.1f}"

    marks = ['<line x1="5" x2="215" y1="9" y2="9" stroke="#e3e8ee" stroke-width="2"/>']
    for i, score in enumerate(baselines):
        if score is not None:
            color = _TICKS[i % len(_TICKS)]
            marks.append(
                f'<line x1="{at(score)}" x2="{at(score)}" y1="2" y2="16" stroke="{color}" stroke-width="2.5"/>'
            )
    if bounds is not None:
        ends = f'x1="{at(bounds[0])}" x2="{at(bounds[1])}"'
        marks.append(f'<line {ends} y1="9" y2="9" stroke="#2f6fde" stroke-width="5" stroke-opacity=".35"/>')
    marks.append(f'<circle cx="{at(value)}" cy="9" r="4.5" fill="#2f6fde"/>')
    return f'<svg width="220" height="18" role="img" aria-label="{value:.1%}">{"".join(marks)}</svg>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    width = int.from_bytes(picture.png[16:20], "big")  # of the PNG's header; drawn at 150 dpi, shown at 96 and more
    return (
        f'<figure><figcaption>{_text(picture.caption)}</figcaption><img width="{round(width / 1.5)}" '
        f'alt="{_text(picture.caption)}" src="data:image/png;base64,{data}"></figure>'
    )


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names with printable values."""
    out: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            out[f"{prefix}{key}"] = ", ".join(map(str, value))
        else:
            out[f"{prefix}{key}"] = str(value)
    return out


def _settings_card(settings: Mapping[str, Mapping[str, Any]]) -> str:
    sections = []
    for name, values in settings.items():
        rows = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in flatten(values).items())
        sections.append(f"<section><h3>{_text(name)}</h3><dl>{rows}</dl></section>")
    if not sections:
        return ""
    return f'<section class="card"><h2>What was run</h2><div class="settings">{"".join(sections)}</div></section>'
