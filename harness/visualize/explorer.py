"""A token explorer: a page, or a part of one, in which a click on a token shows what it reads.

Nothing is fetched: image and maps are in the page, each map as N × N bytes, scaled by its query's largest.
"""

import base64
import html
import io
import json

import numpy as np
from torch import Tensor

from attnbench.harness.visualize.view import View

_CANVAS = 360


def page(view: View) -> str:
    """The explorer as a whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{html.escape(view.title)}</title>\n"
        "<style>body{font:15px/1.4 system-ui,sans-serif;margin:2em;max-width:60em}</style>\n"
        f"{fragment(view)}</html>\n"
    )


def fragment(view: View) -> str:
    """The explorer as an element that any page may hold, more than once.

    Args:
        view: of all tokens of a map; see :func:`~.view.every_token`.
    """
    data = {
        "rows": view.size[0],
        "columns": view.size[1],
        "image": "data:image/png;base64," + _png(view),
        "reads": pack(_bytes(view.reads.weights)),
    }
    canvases = [("reads", f"What it reads: {view.reads.definition}")]
    if view.routed:
        data["routed"] = pack(np.stack([_ranks(masks) for masks in view.routed]))
        canvases.insert(0, ("routed", "Regions that it is routed to, best darkest"))
    figures = "".join(
        f'<figure style="margin:0"><canvas data-map="{name}" width="{_CANVAS}" height="{_CANVAS}" '
        f'style="cursor:crosshair;max-width:100%"></canvas><figcaption>{html.escape(caption)}</figcaption>'
        "</figure>"
        for name, caption in canvases
    )
    return (
        f'<div class="attnbench-explorer"><p><strong>{html.escape(view.title)}</strong>. '
        "Click a token, or move with the arrow keys. <span data-told></span></p>\n"
        f'<div tabindex="0" style="display:flex;gap:1.5em;flex-wrap:wrap">{figures}</div>\n'
        f'<script type="application/json">{json.dumps(data)}</script>\n<script>{_SCRIPT}</script></div>\n'
    )


def pack(values: np.ndarray) -> str:
    """Bytes (N, N) as text."""
    return base64.b64encode(values.tobytes()).decode()


def unpack(text: str, name: str) -> np.ndarray:
    """The map ``name`` (N, N) of a page, as bytes."""
    start = text.index('<script type="application/json">') + len('<script type="application/json">')
    data = json.loads(text[start : text.index("</script>", start)])
    tokens = data["rows"] * data["columns"]
    return np.frombuffer(base64.b64decode(data[name]), dtype=np.uint8).reshape(-1, tokens)


def _bytes(weights: Tensor) -> np.ndarray:
    """(Q, H·W) from 0 to 255; what is read at all is at least 1."""
    flat = weights.flatten(1).numpy()
    scaled = flat / np.maximum(flat.max(1, keepdims=True), np.finfo(flat.dtype).tiny)
    return np.where(flat > 0, np.maximum(1, np.round(255 * scaled)), 0).astype(np.uint8)


def _ranks(masks: Tensor) -> np.ndarray:
    """(H·W,) bytes: 255 for the best region, less for each other, 0 elsewhere."""
    found = np.zeros(masks.shape[1:], dtype=np.uint8)
    for rank, mask in enumerate(masks.cpu().numpy()):
        found[mask] = 255 - round(155 * rank / max(1, len(masks) - 1))
    return found.flatten()


def _png(view: View) -> str:
    buffer = io.BytesIO()
    view.image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


_SCRIPT = """
(() => {
  const root = document.currentScript.parentElement;
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const {rows, columns} = data, tokens = rows * columns;
  const bytes = name => Uint8Array.from(atob(data[name]), c => c.charCodeAt(0));
  const canvases = [...root.querySelectorAll('canvas')]
    .map(canvas => ({canvas, map: bytes(canvas.dataset.map)}));
  const image = new Image();
  let token = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
  const heat = v => [255, v, 30];
  const colour = {reads: heat, routed: v => [20, 150, 60]};
  const draw = () => {
    for (const {canvas, map} of canvases) {
      const pen = canvas.getContext('2d'), w = canvas.width / columns, h = canvas.height / rows;
      pen.filter = 'grayscale(1) brightness(0.8)';
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      pen.filter = 'none';
      for (let j = 0; j < tokens; j++) {
        const v = map[token * tokens + j];
        if (!v) continue;
        const [r, g, b] = colour[canvas.dataset.map](v);
        pen.fillStyle = `rgba(${r},${g},${b},${0.15 + 0.7 * v / 255})`;
        pen.fillRect(j % columns * w, Math.floor(j / columns) * h, w + 0.5, h + 0.5);
      }
      pen.lineWidth = 3;
      pen.strokeStyle = 'cyan';
      pen.strokeRect(token % columns * w, Math.floor(token / columns) * h, w, h);
    }
    const read = canvases[canvases.length - 1].map.subarray(token * tokens, (token + 1) * tokens);
    const place = `${token % columns},${Math.floor(token / columns)}`;
    root.querySelector('[data-told]').textContent = `Token ${place} ` +
      `reads ${read.filter(v => v > 0).length} of ${tokens} tokens.`;
  };
  for (const {canvas} of canvases) canvas.addEventListener('click', event => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / box.width * columns);
    token = Math.floor((event.clientY - box.top) / box.height * rows) * columns + column;
    draw();
  });
  root.querySelector('[tabindex]').addEventListener('keydown', event => {
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
    if (step === undefined || token + step < 0 || token + step >= tokens) return;
    event.preventDefault();
    token += step;
    draw();
  });
  image.onload = draw;
  image.src = data.image;
})();
"""
