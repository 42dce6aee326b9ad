"""The audit's report: what it says is in every form of it, and it can be read back."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from math import hypot, inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equiwrap.audit import Curve, Finding, Layer, Remedy, Report
from equiwrap.audit.columns import WIDTH, paragraph
from equiwrap.audit.text import verdict, worst

VOID = {"meta", "br", "img", "link", "hr", "input"}


def layers(count=70):
    """Own errors that rise and fall, shares that sum to 1, some of them negative."""
    own = [0.01 + (7 * i % 11) / 100 for i in range(count)]
    signed = [-x if i % 6 == 5 else x for i, x in enumerate(own)]
    status = ("weights", "exact", "misaligned", "unsound", "untyped")
    return tuple(
        Layer(
            f"layer{i // 18}.{i % 2}.conv{i}",
            "Conv2d",
            "b c h w",
            status[i % 5],
            min(0.9, 0.02 * i),
            own[i],
            signed[i] / sum(signed),
            1000 * i,
            f"reason {i}",
            f"fix {i}",
        )
        for i in range(count)
    )


FULL = Report(
    "resnet18",
    "C4",
    "b c h w -> b k",
    "8 random inputs",
    0.6134,
    0.0214,
    4.8e-7,
    "misaligned",
    layers(),
    (
        Finding("conv1", "stride", "Stride 2 on an even grid (224).", "Use 225, or blur-pool."),
        Finding("layer3.0.conv1", "stride", "Stride 2 on an even grid (28).", "Use 29."),
        Finding("fc", "flatten", 'A grid is flattened: "<b>" & more.', ""),
    ),
    (
        Remedy("key", 'ew.equivariantize(model, "C4")', 1.05, True, "One call.", False),
        Remedy(
            "prior", 'ew.equivariantize(model, "C4", calibrate=x)', 1.06, True, "Upright.", True
        ),
    ),
    Curve("error against angle", (0.0, 90.0, 180.0, 270.0), (0.0, 0.4, 0.6, 0.4)),
    {"model_error": 0.41, "alpha": (0.31, 0.22, 0.4)},
    ("The inputs are noise.",),
    (("C2", 0.2, 0.01), ("C4", 0.6, 0.02)),
)
BARE = Report("net", "SO(3)", "b n v -> b k", "", 0.0, None, 0.0)


class Wellformed(HTMLParser):
    """Every element is closed by its own end tag, in turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.said = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.said.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def columns(text):
    """As a terminal counts, by the table of Unicode."""
    shown = [c for c in text if not unicodedata.combining(c)]
    return len(shown) + sum(unicodedata.east_asian_width(c) in ("W", "F") for c in shown)


def read_page(report, tmp_path):
    out = tmp_path / "deep" / "audit.html"
    report.save(out)
    text = out.read_text(encoding="utf-8")
    return text, Wellformed(text)


def test_a_page_with_a_torn_tag_is_not_well_formed():
    for text in ("<p><b></p>", "<p>", "</p>"):
        with pytest.raises(AssertionError):
            Wellformed(text)


# -- plain data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [FULL, BARE])
def test_a_report_survives_json(report, tmp_path):
    assert Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report
    report.save(tmp_path / "audit.json")
    assert Report.from_dict(json.loads((tmp_path / "audit.json").read_text())) == report


def test_numbers_that_overflow_are_written_as_none_and_said(tmp_path):
    torn = (replace(FULL.layers[0], error=nan, own=inf, share=-inf), *FULL.layers[1:])
    curve = Curve("c", (0.0, 90.0, 180.0), (0.1, nan, inf))
    report = replace(FULL, error=inf, half_width=nan, layers=torn, curve=curve)
    back = Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert back.error is None
    assert back.layers[0].share is None
    for one in (report, back):
        assert "no finite error" in str(one)
        text, _ = read_page(one, tmp_path)
        assert not re.search(r"(x|y|d|height|points)=\"[^\"]*(nan|inf)", text)
        if find_spec("matplotlib"):
            one.plot()


@pytest.mark.parametrize("junk", [{}, {"layers": 3}, [], {**BARE.to_dict(), "colour": "red"}])
def test_what_is_no_report_is_refused(junk):
    with pytest.raises(ValueError, match="not an audit report"):
        Report.from_dict(junk)


def test_another_suffix_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"end in \.html or \.json"):
        FULL.save(tmp_path / "new" / "audit.pdf")
    assert not (tmp_path / "new").exists()


# -- text ------------------------------------------------------------------------------------------


def test_the_text_says_everything_that_was_found():
    text = " ".join(str(FULL).split())
    for found in FULL.findings:
        assert found.name in text
        assert found.reason in text
        assert found.fix in text
    for remedy in FULL.remedies:
        assert remedy.call in text
        assert remedy.why in text
    for said in (
        *FULL.notes,
        FULL.signature,
        FULL.inputs,
        "0.613 ± 0.021",
        "0.310 (0.220 to 0.400)",
    ):
        assert said in text
    marked = [line for line in str(FULL).splitlines() if "▶" in line]
    assert len(marked) == 1
    assert "prior" in marked[0]
    assert repr(FULL) == str(FULL)


def test_a_report_without_parts_has_no_empty_headings():
    assert str(BARE).splitlines() == [*paragraph(verdict(BARE)), "b n v -> b k"]


def test_layers_are_ordered_by_share_then_own_then_error():
    by_share = [abs(layer.share) for layer in worst(FULL)]
    assert by_share == sorted(by_share, reverse=True)
    for gone, key in ((("share",), "own"), (("share", "own"), "error")):
        bare = [replace(layer, **dict.fromkeys(gone)) for layer in FULL.layers]
        sizes = [getattr(layer, key) for layer in worst(replace(FULL, layers=tuple(bare)))]
        assert sizes == sorted(sizes, reverse=True)


def test_text_bars_are_as_long_as_their_shares():
    rows = [line for line in str(FULL).splitlines() if line.startswith("  layer")]
    lengths = [line.count("█") + line.count("▒") for line in rows if "%" in line]
    shares = [abs(layer.share) for layer in worst(FULL, 15)]
    assert len(lengths) == 15
    for length, share in zip(lengths, shares, strict=True):
        assert abs(length - 8 * share / shares[0]) <= 1


@pytest.mark.parametrize(
    ("error", "said"),
    [(4e-7, "is equivariant to rounding"), (0.01, "nearly"), (0.6, "is not"), (nan, "no finite")],
)
def test_the_verdict_follows_the_error(error, said):
    assert said in verdict(replace(FULL, error=error))


names = st.one_of(
    st.text(max_size=300),
    st.text("層宽🦊e\u0301ﬀ.", min_size=40, max_size=300),
    st.text("ab._/", min_size=100, max_size=300),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(names, min_size=5, max_size=5), st.floats(), st.integers(1, 40))
def test_text_fits_its_columns_and_the_page_is_whole_whatever_the_names(drawn, number, count):
    a, b, c, d, e = drawn
    odd = tuple(Layer(a, b, c, d, number, number, number, 1, e, a) for _ in range(count))
    report = Report(
        a, b, c, d, number, number, 1e-7, e, odd, (Finding(*drawn[:4]),),
        (Remedy(a, b, number, True, c, True),), Curve(a, (0.0, 9.0), (number, 1.0), unit=b),
        {a: number, b: (1.0, number, 2.0)}, (c, d), ((e, number, None),),
    )  # fmt: skip
    for line in str(report).splitlines():
        assert columns(line) <= WIDTH, line
        assert line.isprintable()
    Wellformed(report._repr_html_()).all("div")
    report._repr_html_().encode("utf-8")


def test_long_names_keep_their_ends_in_the_table():
    far = replace(FULL.layers[0], name="trunk." * 40 + "final_conv", share=9.0)
    assert any(
        line.startswith("  …") and "final_conv" in line
        for line in str(replace(FULL, layers=(far, *FULL.layers))).splitlines()
    )


# -- the page --------------------------------------------------------------------------------------


def test_the_page_is_well_formed_self_contained_and_complete(tmp_path):
    text, page = read_page(FULL, tmp_path)
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert not [a for _, attrs in page.tags for a in attrs if a in ("src", "href")]
    said = " ".join(page.said)
    for found in FULL.findings:
        assert found.name in said
        assert found.reason in said
        assert found.fix in said
    for layer in FULL.layers:
        assert layer.name in page.said
        assert layer.reason in said
    for remedy in FULL.remedies:
        assert remedy.call in said
    assert len(page.all("tr")) == 1 + len(FULL.layers) + len(FULL.ranking)
    assert "prefers-color-scheme:dark" in text
    assert any(a.get("name") == "viewport" for a in page.all("meta"))


def test_names_cannot_write_into_the_page(tmp_path):
    evil = '"><script>alert(1)</script><img src=x onerror=y>'
    layer = replace(FULL.layers[0], name=evil, status=evil, reason=evil)
    report = replace(FULL, model=evil, layers=(layer,), notes=(evil,))
    _, page = read_page(report, tmp_path)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert evil in page.said


def test_bars_of_the_page_are_as_high_as_the_own_errors(tmp_path):
    _, page = read_page(FULL, tmp_path)
    heights = [float(bar["height"]) for bar in page.all("rect")]
    own = [layer.own for layer in FULL.layers]
    unit = max(heights) / max(own)
    assert len(heights) == len(own)
    for height, x in zip(heights, own, strict=True):
        assert height == pytest.approx(unit * x, abs=0.11)


def test_planar_errors_are_radii_over_their_angles(tmp_path):
    _, page = read_page(FULL, tmp_path)
    dots = [(float(a["cx"]), float(a["cy"])) for a in page.all("circle")]
    centre, up, left, down = dots  # the error at 0 degrees is 0
    assert up[0] == down[0] == centre[0]
    assert up[1] < centre[1] < down[1]
    assert left[1] == centre[1]
    radii = [hypot(x - centre[0], y - centre[1]) for x, y in (up, left, down)]
    assert radii[0] / radii[1] == pytest.approx(0.4 / 0.6, rel=1e-2)
    assert radii[2] == pytest.approx(radii[0])


def test_other_errors_are_a_line_with_a_band(tmp_path):
    curve = Curve(
        "c", (0.0, 1.0, 4.0), (0.1, 0.2, 0.4), (0.1, 0.1, 0.3), (0.2, 0.3, 0.5), "rapidity"
    )
    _, page = read_page(replace(FULL, group="SO+(1,3)", curve=curve), tmp_path)
    (a, b, c) = [(float(d["cx"]), float(d["cy"])) for d in page.all("circle")]
    assert (c[0] - a[0]) == pytest.approx(4 * (b[0] - a[0]), abs=0.5)
    assert (a[1] - c[1]) == pytest.approx(3 * (a[1] - b[1]), abs=0.5)
    assert any(p.get("class") == "band" for p in page.all("path"))
    assert "rapidity" in page.said


# -- figures ---------------------------------------------------------------------------------------


def test_the_figure_shows_the_shares_and_the_curve(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "deep" / "audit.png"
    bars, curve = FULL.plot(out).axes
    assert out.stat().st_size > 10_000
    drawn = [bar.get_width() for bar in bars.containers[0]][::-1]
    assert drawn == pytest.approx([100 * layer.share for layer in worst(FULL, 20)])
    assert curve.name == "polar"
    assert replace(FULL, group="SO(3)").plot().axes[1].name == "rectilinear"
    assert len(BARE.plot().axes) == 1


def test_a_missing_matplotlib_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "equiwrap\[plots\]"'):
        FULL.plot()
    assert "<svg" in FULL._repr_html_()
