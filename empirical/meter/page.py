"""The report as one HTML file that needs no other: findings first, then figures, tables, pictures and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from empirical.meter import tables
from empirical.meter.gallery import Picture, data_uri
from empirical.meter.words import headline, number, overhead, pairing, percent, place, plain, units, verdicts

STYLE = """
:root { color-scheme: light; --ink: #1c1c1e; --soft: #5b5b63; --line: #dcdce2; --paper: #ffffff; --wash: #f5f5f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p, ul { max-width: 46rem; margin: .5rem 0; }
.lead { color: var(--soft); margin-top: 0; }
.findings { background: var(--wash); border-left: .25rem solid #7a1ea1; padding: .3rem 1rem; }
.findings ul { padding-left: 1.2rem; max-width: none; }
figure { margin: 1rem 0; }
.scroll > img { width: 100%; min-width: 36rem; max-width: 52rem; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
.scroll:focus-visible { outline: 2px solid #7a1ea1; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; min-width: 100%; }
caption { text-align: left; color: var(--soft); padding: .2rem 0; }
th, td { padding: .22rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 500; } thead th { color: var(--soft); border-bottom: 1px solid var(--ink); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.settled, .settled th { font-weight: 700; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .7rem;
  margin: .4rem 0 1.4rem; }
.strip figure { margin: 0; } .strip img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--wash); }
.strip img.small { image-rendering: pixelated; }
.strip figcaption { font-size: .8rem; }
details { margin: .8rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--wash); padding: .8rem; font-size: .75rem; }
@media print { details::details-content { content-visibility: visible; display: block; }
  body { max-width: none; padding: 0; font-size: 10pt; } .scroll { overflow: visible; }
  .scroll > img { min-width: 0; }
  table { font-size: 7.5pt; } th, td { padding: .12rem .3rem; white-space: normal; }
  figure, tr, .strip { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""

FIGURES = {
    "gap_against_eta": "Gap against the eta of the SDE. Bars are {level} intervals over prompts; above 0 the ODE earns "
    "more.",
    "gap_against_steps": "Gap against the number of steps, spaced as 1/N: what is left at the far left, where stars "
    "mark the extrapolation, is no error of the integrator.",
    "rewards_side_by_side": "Mean rewards of ODE and SDE beside each other, at the guidance in use and the most steps: "
    "a gap can shrink because both improve, or because one falls.",
}


def page(
    title: str,
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
    figures: Mapping[str, bytes],
    shown: Sequence[Sequence[Picture]],
) -> str:
    """The whole document.

    Args:
        title: what was measured.
        summary: of ``summarise``.
        provenance: of the measurement.
        figures: PNG by name, names of ``FIGURES``.
        shown: the pictures of ``summary["extremes"]``.
    """
    body = "".join(
        (
            _top(title, summary, provenance),
            _section("Gap", _figure("gap_against_eta", figures, summary) + tables.gaps(summary) + _reading(summary)),
            _section("Its parts", _figure("gap_against_steps", figures, summary) + _parts(summary)),
            _section(
                "Rewards beside each other",
                _figure("rewards_side_by_side", figures, summary) + tables.verdicts(summary),
            ),
            _section("Diversity", _diversity(summary)) if summary["diversity"] else "",
            _section("Prompts with the largest gaps", _gallery(summary, provenance, shown)),
            _section("What made these numbers", _provenance(provenance)),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: reward gap</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _top(title: str, summary: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    plan = provenance["plan"]
    findings = "".join(f"<li>{escape(line)}</li>" for line in (*headline(summary), *verdicts(summary)))
    runs = f"samples per prompt: {plan['samples']}, SDE draws per sample and eta: {plan['draws']}"
    return (
        f"<header><h1>Reward gap between ODE and SDE sampling</h1>"
        f'<p class="lead">{escape(title)}, {escape(provenance["models"]["model"]["class"])}; {escape(runs)}; '
        f'{escape(units(summary["gaps"][0]))}.</p></header><div class="findings"><p>{escape(place(summary))}</p>'
        f"<ul>{findings}</ul></div>"
    )


def _figure(name: str, figures: Mapping[str, bytes], summary: Mapping[str, Any]) -> str:
    text = escape(FIGURES[name].format(level=percent(summary["level"])))
    image = f'<img src="{data_uri(figures[name])}" alt="{text}">'
    region = f'<div class="scroll" role="region" tabindex="0" aria-label="{name.replace("_", " ")}">{image}</div>'
    return f"<figure>{region}<figcaption>{text}</figcaption></figure>"


def _reading(summary: Mapping[str, Any]) -> str:
    level = percent(summary["level"])
    return (
        f"<p>Bold rows have a {level} interval that excludes 0. The intervals under “all at once” hold for all rows "
        f"of the model together with {level}: a row that is picked because it stands out is judged by these.</p>"
        f"<p>{escape(pairing(summary))} “By prompts” is what sharing prompts was worth on top.</p>"
        f"{tables.pairing(summary)}"
    )


def _parts(summary: Mapping[str, Any]) -> str:
    text = (
        "The gap of a model that was not trained holds initial mismatch, guidance, score error and the "
        "integrator together. Guidance 1 beside the guidance in use shows the second; the limit of many steps leaves "
        "out the last; a reference model, subtracted at the same step count, leaves what training added."
    )
    condition = (
        "The limit is that of a polynomial in 1/N through each prompt's gaps: of degree one with two step counts, of "
        "degree two with more. What one term less would change is its truncation; where that exceeds the sampling "
        "error the limit is not to be trusted, and larger step counts are needed. Too few steps everywhere can hide."
    )
    ladder = f"<p>{condition}</p>" if summary["limits"] else "<p>One step count has no limit.</p>"
    return f"<p>{text}</p>{tables.limits(summary)}{ladder}{tables.parts(summary)}"


def _diversity(summary: Mapping[str, Any]) -> str:
    text = (
        "Standard deviation, over the samples of a prompt, of an image's mean colours in 8 x 8 cells (1 is the range "
        "of a colour). A sampler that repeats one rewarded image loses here."
    )
    return f"<p>{text}</p>{tables.diversity(summary)}"


def _gallery(summary: Mapping[str, Any], provenance: Mapping[str, Any], shown: Sequence[Sequence[Picture]]) -> str:
    first = summary["extremes"][0]
    where = f"{first['reward']}, eta = {first['of_eta']:g}, {first['steps']} steps, guidance {first['guidance']:g}"
    text = (
        f"By the size of their mean gap in {escape(where)}. Each row starts from one x_T, the sample that shows the "
        "prompt's gap best: these are extremes, picked for being so, and stand for nothing but themselves."
    )
    rows = []
    for row, pictures in zip(summary["extremes"], shown, strict=True):
        strip = "".join(_picture(picture, row["text"], provenance["rewards"]) for picture in pictures)
        rows.append(f'<h3>“{escape(row["text"])}”: gap {number(row["gap"])}</h3><div class="strip">{strip}</div>')
    return f"<p>{text}</p>{''.join(rows)}"


def _picture(picture: Picture, prompt: str, names: Sequence[str]) -> str:
    run = f"SDE, eta = {picture.eta:g}" if picture.eta else "ODE"
    rewards = ", ".join(f"{name} {plain(value)}" for name, value in zip(names, picture.rewards, strict=True))
    alt = escape(f"{run}: image for “{prompt}”", quote=True)
    kind = ' class="small"' if picture.width < 128 else ""
    return (
        f'<figure><img{kind} src="{data_uri(picture.png)}" alt="{alt}"><figcaption>{run}<br>{escape(rewards)}'
        "</figcaption></figure>"
    )


def _provenance(provenance: Mapping[str, Any]) -> str:
    text = escape(json.dumps(provenance, indent=1, ensure_ascii=False))
    last = escape(provenance["last_step"]["convention"])
    return (
        f"<p>{escape(overhead(provenance['time']))}</p><p>Last step of the SDE: {last}. ODE: "
        f"{escape(provenance['ode'])}.</p><details><summary>Everything, as JSON</summary><pre>{text}</pre></details>"
    )
