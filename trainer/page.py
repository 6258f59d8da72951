"""A report as one page for the browser, with plots and the worst mistakes; nothing in it is loaded from elsewhere."""

import base64
import html
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trainer import plots, tables
from trainer.data import decode
from trainer.evaluate import WITHOUT_MASK
from trainer.models import LABELS
from trainer.sections import Section, cell
from trainer.tables import Run

WORST = 24
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2b33;max-width:1500px;margin:2em auto;padding:0 1em}
h1{font-size:1.7em}h2{margin-top:2.2em;border-bottom:1px solid #d5dbde}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:.6em 0}
th{text-align:left;background:#eef2f4}td,th{padding:.25em .6em;border-bottom:1px solid #e3e8ea;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}
.row{display:flex;flex-wrap:wrap;gap:1em}.faces figure{margin:0;width:128px;font-size:11px;line-height:1.25;overflow-wrap:anywhere}
.faces img{width:128px;height:128px}p.note{color:#55646c;max-width:60em}
"""


def as_html(found: list[Section], finished: tuple[Run, ...], data: Path | None) -> str:
    """The page: tables, plots, and the worst mistakes of the best small model."""
    body = ["<h1>Compression study</h1>", f"<p class=note>{len(finished)} finished runs.</p>"]
    latency = tables.read_json(finished[0].folder.parent / tables.LATENCY_FILE)
    figures = {
        "Models": plots.pareto([row for row in tables.models(finished, latency) if not row["name"].startswith("small-")]),
        "Sources": plots.sources(tables.sources(finished), "source"),
        "A source never seen": plots.sources(tables.folds(finished), "held_out"),
    }
    for section in found:
        if section.rows:
            body += [f"<h2>{html.escape(section.title)}</h2>", f"<p class=note>{html.escape(section.note)}</p>", _html_table(section.rows)]
            plot = figures.get(section.title)
            if plot:
                body.append(f"<img alt='{html.escape(section.title)}' src='{plot.uri}'>")
    for key, same in tables.by_key(finished).items():
        body += _closer_look(key, same[0], data)
    title = "<title>Compression study</title><meta name=viewport content='width=device-width,initial-scale=1'>"
    return f"<!doctype html><html lang=en><meta charset=utf-8>{title}<style>{STYLE}</style>\n" + "\n".join(body) + "</html>\n"


def _closer_look(key: str, run: Run, data: Path | None) -> list[str]:
    """One run's confusion, reliability, precision and recall, and its worst mistakes."""
    after, classes = tables.probabilities(run)
    if not len(after):
        return []
    before, _ = tables.probabilities(run, is_calibrated=False)
    threshold = run.results.threshold
    says = (after >= threshold).astype(int)
    confusion = [
        {"true": true, **{f"said {said}": int(((classes == i) & (says == j)).sum()) for j, said in enumerate(LABELS)}}
        for i, true in enumerate(LABELS)
    ]
    images = (plots.reliability(before, after, classes), plots.precision_recall(after, classes, threshold))
    unsure = f"unsure {run.results.unsure[0]} to {run.results.unsure[1]}"
    made = f"{html.escape(run.how)}; seed {run.config.recipe.seed}, temperature {run.results.temperature}, threshold {threshold}, {unsure}."
    return [
        f"<h2>{html.escape(key)}</h2><p class=note>{made}</p>",
        _html_table(confusion),
        "<div class=row>" + "".join(f"<img alt='' src='{plot.uri}'>" for plot in images) + "</div>",
        _mistakes(run, after, classes, data),
    ]


def _mistakes(run: Run, p_N: np.ndarray, classes_N: np.ndarray, data: Path | None) -> str:
    """The wrong answers that were given with most confidence, as pictures."""
    answers = run.predictions()
    files = [file for file, split in zip(answers.files, answers.splits, strict=True) if split == "test"]
    wrong = np.flatnonzero((p_N >= run.results.threshold) != (classes_N == WITHOUT_MASK))
    worst = wrong[np.argsort(-np.abs(p_N[wrong] - run.results.threshold))][:WORST]
    figures = []
    for i in worst if data else ():
        assert data is not None
        image = decode(data / files[i])
        if image is not None:
            _, png = cv2.imencode(".jpg", cv2.resize(image, (128, 128)), [cv2.IMWRITE_JPEG_QUALITY, 85])
            uri = "data:image/jpeg;base64," + base64.b64encode(png.tobytes()).decode()
            text = f"{LABELS[classes_N[i]]}, p(bare) {p_N[i]:.2f}<br>{html.escape(files[i].rsplit('/', 1)[-1])}"
            figures.append(f"<figure><img alt='' src='{uri}'><figcaption>{text}</figcaption></figure>")
    return f"<p class=note>{len(wrong)} of {len(p_N)} wrong.</p><div class='row faces'>{''.join(figures)}</div>"


def _html_table(rows: list[dict[str, Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    lines = ["".join(f"<td{' class=n' if isinstance(v, int | float) else ''}>{html.escape(cell(v))}</td>" for v in row.values()) for row in rows]
    return f"<div class=wide><table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"
