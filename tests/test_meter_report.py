"""The report: what it says follows from the numbers, it needs no other file, and a real browser shows it."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pipelines as tiny
import pytest
from PIL import Image
from rich.console import Console

from empirical.meter import measure_gap, write_report
from empirical.meter import page as page_module
from empirical.meter.figures import looks
from empirical.meter.gallery import Picture, pictures
from empirical.meter.page import page
from empirical.meter.statistics import mean
from empirical.meter.summary import extremes, shrinkage
from empirical.meter.terminal import show
from empirical.meter.words import headline, number, overhead, pairing, verdicts

PROMPTS = ["red", "two <b>dogs</b>", "a 'bird'", "four", "five"]
TITLE = "a tiny <random> model"
VOID = {"meta", "img", "br"}


def noisy_luck(images, prompts):
    """A reward with no gap to find: what is behind the last bits of the pixels."""
    return (1e4 * images.mean((1, 2, 3))) % 1


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Every part of a report: two rewards, a reference, guidance, three step counts, two samples."""
    return measure_gap(
        tiny.stable_diffusion(),
        PROMPTS,
        {"red": tiny.redness, "luck <&>": noisy_luck},
        [0.5, 1.0],
        [2, 3, 5],
        2,
        guidance=3.0,
        reference=tiny.stable_diffusion(seed=1),
        out=tmp_path_factory.mktemp("report"),
    )


@pytest.fixture(scope="module")
def written(measured):
    return write_report(measured, TITLE)


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, text):
        """Reads all of it."""
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """See HTMLParser."""
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """See HTMLParser."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """See HTMLParser."""
        self.text.append(data)


def test_the_page_is_well_formed_and_needs_no_other_file(written):
    reader = Reader(written.read_text(encoding="utf-8"))
    assert reader.open == []
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    sources = [value for _, name, value in reader.attributes if name in ("src", "href", "srcset")]
    assert len(sources) == 3 + 5 * 3  # figures; five prompts with one ODE and two SDE images
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "url(" not in page_module.STYLE
    assert "@import" not in page_module.STYLE


def test_text_from_outside_is_escaped(written):
    content = written.read_text(encoding="utf-8")
    assert "<b>dogs</b>" not in content
    assert "two &lt;b&gt;dogs" in content
    assert "<random>" not in content
    assert "luck <" not in content
    assert "luck &lt;&amp;&gt;" in content


def test_the_page_serves_screen_readers_phones_and_paper(written):
    content = written.read_text(encoding="utf-8")
    reader = Reader(content)
    attributes = reader.attributes
    images = [dict((name, value) for t, name, value in attributes if t == "img")]
    assert all(images)
    assert sum(name == "alt" and bool(value) for tag, name, value in attributes if tag == "img") == reader.tags.count(
        "img"
    )
    assert ("html", "lang", "en") in attributes
    assert reader.tags.count("h1") == 1
    assert reader.tags.count("caption") == reader.tags.count("table")
    assert all(name != "scope" or value in ("col", "row") for tag, name, value in attributes if tag == "th")
    assert sum(name == "scope" for tag, name, _ in attributes if tag == "th") == reader.tags.count("th")
    assert 'name="viewport" content="width=device-width' in content
    assert "@media print" in content


def contrast(one, other):
    def luminance(color):
        parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_is_readable_on_its_background():
    colors = dict(re.findall(r"--(\w+): (#\w{6})", page_module.STYLE))
    for text in ("ink", "soft"):
        for ground in ("paper", "wash"):
            assert contrast(colors[text], colors[ground]) > 4.5


def test_the_json_holds_the_summary_and_full_provenance(measured, written):
    content = json.loads((written.parent / "report.json").read_text(encoding="utf-8"))
    assert content["summary"] == json.loads(json.dumps(measured.summary))
    made_by = content["provenance"]
    assert made_by["plan"]["prompts"] == PROMPTS
    assert made_by["plan"]["sampler"] == "gddim"
    assert made_by["models"]["model"]["class"] == "StableDiffusionPipeline"
    assert len(made_by["models"]["reference"]["weights_sha256"]) == 64
    assert made_by["models"]["model"]["scheduler_config"]["set_alpha_to_one"] is False
    assert made_by["last_step"]["convention"] == "noise is left in"
    assert {"torch", "diffusers", "gapbound", "python"} <= made_by["versions"].keys()


def test_the_figures_are_written_with_something_on_them(written):
    for name in ("gap_against_eta", "gap_against_steps", "rewards_side_by_side"):
        pixels = np.asarray(Image.open(written.parent / f"{name}.png").convert("L"))
        assert min(pixels.shape) > 300
        assert 0.005 < (pixels < 200).mean() < 0.5


def test_the_pictures_are_the_scored_images_of_the_prompts_with_the_largest_gaps(measured, written):
    rows = measured.summary["extremes"]
    gaps = measured.results.gap(
        "red", next(c for c in reversed(measured.results.cells) if c[:2] == ("model", 3.0)), 1.0
    )
    assert [abs(row["gap"]) for row in rows] == pytest.approx(sorted(np.abs(gaps.mean(1)), reverse=True))
    shown = pictures(measured.instrument, measured.results.plan, rows)
    found = re.findall(r'class="small" src="data:image/png;base64,([^"]*)"', written.read_text(encoding="utf-8"))
    assert [base64.b64decode(text) for text in found] == [picture.png for strip in shown for picture in strip]
    red = np.asarray(Image.open(io.BytesIO(shown[0][0].png)))[..., 0].mean() / 255
    assert red == pytest.approx(rows[0]["ode"][0], abs=2e-3)


def test_pictures_of_another_model_are_refused(measured):
    rows = [{**measured.summary["extremes"][0], "ode": [0.9, 0.0]}]
    with pytest.raises(ValueError, match=r"red of prompt .* is 0\.\d+ now and was 0.9 when it was recorded"):
        pictures(measured.instrument, measured.results.plan, rows)


def test_the_findings_say_what_the_intervals_say(measured):
    rows = [r for r in measured.summary["gaps"] if (r["role"], r["guidance"], r["steps"]) == ("model", 3.0, 5)]
    lines = headline(measured.summary)
    for row in rows:
        (line,) = [line for line in lines if line.startswith(row["reward"]) and number(row["value"]) in line]
        low, high = row["interval"]
        expected = "earns more" if low > 0 else "earns less" if high < 0 else "no gap is established"
        assert expected in line


@pytest.mark.parametrize(
    ("interval", "words"),
    [((0.1, 0.3), "red: the ODE earns more than the SDE at eta = 1, +0.2 (+0.1 to +0.3)."),
     ((-0.3, -0.1), "red: the ODE earns less than the SDE at eta = 1, −0.2 (−0.3 to −0.1)."),
     ((-0.1, 0.3), "red: no gap is established between ODE and SDE at eta = 1, +0.1 (−0.1 to +0.3).")],
)  # fmt: skip
def test_a_finding_in_words(interval, words):
    row = {"reward": "red", "role": "model", "guidance": 1.0, "steps": 10, "eta": 1.0}
    row |= {"value": sum(interval) / 2, "interval": interval}
    assert headline({"gaps": [row], "level": 0.95}) == [words]


def test_the_terminal_shows_every_gap_and_the_findings(measured):
    console = Console(width=200, record=True, file=io.StringIO())
    show(measured.summary, measured.provenance["time"], console)
    text = console.export_text()
    for row in measured.summary["gaps"]:
        assert number(row["value"]) in text
    for line in (*verdicts(measured.summary), overhead(measured.provenance["time"])):
        assert line[:60] in text


def test_little_is_expected_of_pairing_from_eta_1_on(measured):
    text = pairing(measured.summary)
    assert "theory on N(0, 1)" in text
    assert "From eta = 1 on theory expects little" in text


@pytest.mark.parametrize(
    ("gap", "reference", "word"),
    [(0.5, 0.2, "grew"), (0.1, 0.4, "shrank"), (0.0, 0.4, "shrank"), (-0.3, 0.4, "turned around"),
     (0.4, 0.0, "appeared"), (0.2, 0.2, "unchanged within its interval")],
)  # fmt: skip
def test_what_became_of_the_gap_is_one_word(gap, reference, word):
    rng = np.random.default_rng(0)
    own, other = (value + 0.01 * rng.standard_normal((20, 2)) for value in (gap, reference))
    own, other = own - own.mean() + gap, other - other.mean() + reference
    assert shrinkage(own, own - other, mean(other), 0.95) == word


def test_one_pair_and_one_step_count_make_a_report_too(tmp_path):
    found = measure_gap(tiny.stable_diffusion(), ["a cat"], tiny.redness, [0.7], [2], 1, guidance=1.0, out=tmp_path)
    content = write_report(found, "one pair").read_text(encoding="utf-8")
    assert "one pair, which has no interval" in content
    assert "One step count has no limit" in content
    assert Reader(content).open == []


def test_any_etas_have_looks_that_differ():
    for etas in ([0.0, 0.5, 1.0], [0.1, 0.2, 0.3, 0.7], list(np.linspace(0.1, 2, 9))):
        shades = looks(etas)
        assert list(shades) == etas
        assert len({(look.color, look.marker) for look in shades.values()}) == len(etas)


def test_extremes_are_no_more_than_there_are_prompts(measured):
    assert len(extremes(measured.results, 3)) == 3
    assert len(extremes(measured.results, 99)) == len(PROMPTS)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_real_browser_shows_the_page(written, tmp_path, width):
    picture = tmp_path / "page.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600"]  # fmt: skip
    address = written.as_uri()
    dom = subprocess.run(
        [*command, "--dump-dom", address], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "Reward gap between ODE and SDE sampling" in dom
    assert dom.count("<tr") == written.read_text(encoding="utf-8").count("<tr")
    subprocess.run([*command, f"--screenshot={picture}", address], capture_output=True, timeout=60, check=True)
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (1600, width)
    assert 0.01 < (pixels < 128).mean() < 0.5
    assert (pixels[:, -4:] > 250).all()  # nothing runs over the right edge


def test_a_picture_that_is_large_is_shown_smooth(measured):
    shown = [[Picture(b"png", 512, 0.0, [0.1, 0.2])]] * len(measured.summary["extremes"])
    figures = dict.fromkeys(page_module.FIGURES, b"")
    assert 'class="small"' not in page("t", measured.summary, measured.provenance, figures, shown)
