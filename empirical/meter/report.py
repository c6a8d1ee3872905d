"""Writing a measurement down: one JSON, PNG figures, and a page that holds everything."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.files import atomically, write_text
from analysis.style import paper
from empirical.meter.figures import gap_against_eta, gap_against_steps, rewards_side_by_side
from empirical.meter.gallery import figure_png, pictures
from empirical.meter.measure import Measurement
from empirical.meter.page import page

FIGURES = {
    "gap_against_eta": gap_against_eta,
    "gap_against_steps": gap_against_steps,
    "rewards_side_by_side": rewards_side_by_side,
}


def write_report(measurement: Measurement, title: str) -> Path:
    """Write ``report.json``, the figures and ``report.html`` into the measurement's folder; returns the page's path.

    Raises:
        ValueError: the pictures cannot be made again as they were; see ``gallery.pictures``.
    """
    folder, summary, made_by = measurement.folder, measurement.summary, measurement.provenance
    content = {"title": title, "summary": summary, "provenance": made_by}
    write_text(folder / "report.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    figures = {}
    for name, draw in FIGURES.items():
        with paper():
            figures[name] = figure_png(draw(summary))
        atomically(folder / f"{name}.png", lambda path, name=name: path.write_bytes(figures[name]))
    shown = pictures(measurement.instrument, measurement.results.plan, summary["extremes"])
    write_text(folder / "report.html", page(title, summary, made_by, figures, shown))
    return folder / "report.html"
