"""The pictures that a search found, as one HTML file that asks nothing of the network."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmjax.commands.index import Found, Gallery
from mmjax.data.example import BadExample
from mmjax.data.image import check, composite

_SIDE = 240  # pixels of a thumbnail's longer side
_CSS = """
*{box-sizing:border-box}
body{margin:0;background:#f5f7fa;color:#1c2430;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:40px 24px 80px}
h1{font-size:26px;letter-spacing:-.02em;margin:0 0 4px}
h1 img{max-height:120px;border-radius:8px;vertical-align:middle}
p{color:#6b7686;margin:0 0 24px}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:16px}
figure{margin:0;background:#fff;border:1px solid #e3e8ee;border-radius:12px;padding:12px}
figure img{display:block;width:100%;height:190px;object-fit:contain;border-radius:6px}
figcaption{margin-top:8px;font-size:12.5px;overflow-wrap:anywhere}
b{font-variant-numeric:tabular-nums}
.bar{height:4px;border-radius:2px;background:#e3e8ee;margin:4px 0 2px}
.bar i{display:block;height:4px;border-radius:2px;background:#2f6fde}
"""


def contact_sheet(gallery: Gallery, found: Sequence[Found], asked: str | np.ndarray) -> str:
    """The document.

    Args:
      gallery: where the pictures are.
      found: what to show, the best first.
      asked: the text, or the picture uint8[Y, X, C], that was looked for.
    """
    title = html.escape(asked) if isinstance(asked, str) else f'<img alt="the picture asked for" src="{_data(asked)}">'
    cards = "".join(_card(gallery, rank, each) for rank, each in enumerate(found, 1))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(asked) if isinstance(asked, str) else 'Search by a picture'}</title>"
        f"<style>{_CSS}</style></head>\n<body><main><h1>{title}</h1>"
        f"<p>The {len(found)} most similar of {len(gallery.stamps):,} pictures in {html.escape(gallery.name)}; "
        f'numbers are cosine similarities.</p>\n<div class="sheet">{cards}</div></main></body></html>\n'
    )


def _card(gallery: Gallery, rank: int, found: Found) -> str:
    try:
        picture = f'<img alt="" src="{_data(gallery.picture(found.index))}">'
    except BadExample as error:  # it was there when it was embedded
        picture = f"<p>{html.escape(str(error))}</p>"
    width = f"{100 * min(max(found.similarity, 0.0), 1.0):.0f}%"
    return (
        f'<figure>{picture}<figcaption><b>{rank}. {found.similarity:.3f}</b><div class="bar">'
        f'<i style="width:{width}"></i></div>{html.escape(found.key)}</figcaption></figure>\n'
    )


def _data(picture: np.ndarray) -> str:
    """A small JPEG of the picture on white, as a URL that holds it."""
    small = Image.fromarray(composite(check(picture)))
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    small.save(out, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
