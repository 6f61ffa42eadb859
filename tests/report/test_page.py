import base64
import itertools
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from contramask.report.page import ReportConfig, ReportInputs, build_report
from contramask.results import COLUMNS, StageOutput
from contramask.typed import ConfigError, parse

NASTY = "<script>alert(1)</script>"
BRIEF = ReportConfig(pictures=1)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Outline(HTMLParser):
    """What of a page can be counted: tags, ids, headings, and whether tags close in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attrs, self.open, self.wrong = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def all(self, tag):
        return [attrs for name, attrs in self.attrs if name == tag]


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page.html)


def words(html):
    """The page's text without tags, white space joined."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_tags_are_balanced_and_ids_are_unique(outline):
    assert outline.wrong == []
    assert outline.open == []
    ids = [attrs["id"] for _, attrs in outline.attrs if "id" in attrs]
    assert len(ids) == len(set(ids))
    linked = {a["href"][1:] for a in outline.all("a") if a["href"].startswith("#")}
    assert linked <= set(ids)


def test_headings_are_in_order_under_one_title(outline):
    levels = [int(tag[1]) for tag in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_order_is_verdict_first(page):
    found = re.findall(r'<section id="(\w+)"', page.html)
    assert found == [
        *("verdict", "results", "fair", "training", "boxes", "looks"),
        *("transfer", "data", "normal", "provenance"),
    ]


def test_pictures_speak_and_are_embedded(outline):
    images = outline.all("img")
    assert len(images) >= 10
    assert all(image["alt"].strip() for image in images)
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    charts = [svg for svg in outline.all("svg") if svg.get("role") == "img"]
    assert charts
    assert all(svg["aria-label"].strip() for svg in charts)
    others = [svg for svg in outline.all("svg") if svg.get("role") != "img"]
    assert all(svg["aria-hidden"] == "true" for svg in others)


def test_tables_are_captioned_and_headed(outline, page):
    assert outline.tags.count("caption") == outline.tags.count("table")
    assert {head["scope"] for head in outline.all("th")} == {"col", "row"}
    for region in (d for d in outline.all("div") if d.get("class") == "scroll"):
        assert (region["role"], region["tabindex"]) == ("region", "0")
        assert region["aria-label"]


def test_nothing_is_loaded_and_nothing_runs(outline, page):
    assert "script" not in outline.tags
    assert "link" not in outline.tags
    assert not any(name.startswith("on") for _, attrs in outline.attrs for name in attrs)
    assert not re.search(r'src="(?!data:)', page.html)
    linked = set(re.findall(r'href="(?!#)([^"]*)"', page.html))
    assert linked == {"https://host/#/runs/1?a=b&amp;c=d"}  # a tracked run, never a script
    assert "default-src 'none'" in page.html


def test_names_from_outside_are_escaped(page):
    assert NASTY not in page.html
    assert page.html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3  # file, class, config
    assert "no semantic masks &lt;b&gt;here&lt;/b&gt;" in page.html
    assert "16 bit grey &amp; more" in page.html


def test_the_verdict_names_the_best_and_its_gain(page):
    text = words(page.html)
    assert "CMAE is the encoder to take: best in 6 of 8 measured tasks" in text
    assert "55.8 %: +24.2 points over random init" in text


def test_the_main_table_shows_mean_interval_and_difference(page):
    row = page.html.partition('<table class="main">')[2].partition("</table>")[0]
    text = words(row.split("<tr")[-1])
    assert "CMAE 2 seeds" in text
    assert "55.8 ± 9.5 best difference to random init +24.2 ± 3.2" in text
    assert "not measured" in words(row)  # mae has no segmentation


def test_one_seed_is_admitted(one_seed):
    text = words(build_report(one_seed, BRIEF).html)
    assert "Measured with one seed, so read it as a hint, not as proof." in text
    assert "One seed: differences under about 3.1 points may be noise." in text
    assert "±" not in text.partition("Pre-training")[2].partition("Random init is the anchor")[0]


def test_what_a_detector_got_wrong_is_shown_with_its_class_and_score(page):
    part = page.html.partition("Where detectors were wrong")[2].partition("</section>")[0]
    assert re.findall("<h4>(.*?)</h4>", part) == ["random init", "MAE"]  # CMAE kept none
    text = words(part.replace("\N{NO-BREAK SPACE}", " "))
    assert "Invented, the surest 3, 96 % sure" in text
    assert "Missed, the largest 2, " in text
    chart = page.html.partition("Detection by class")[2].partition("Where detectors")[0]
    assert "Over random init, MAE gains most on" in chart
    assert chart.count('<path class="bar') == 2 * 2 * 10  # measures, variants, classes


def test_what_was_skipped_is_listed_with_its_reason(page):
    listed = words(page.html).partition("Not run, and why")[2][:200]
    assert "Segmentation : no semantic masks" in listed
    assert "(mae-a1b2-s0, mae-a1b2-s1)" in listed


def test_protocol_box_quality_and_provenance_are_told(page):
    text = words(page.html)
    assert "k = 20, temperature = 0.07" in text
    assert "41 % of the boxes touch all four edges" in text
    assert "How well the boxes hit the true objects" in text
    assert "abc123def456" in text
    assert "kedro run --params pretrain.method.name=cmae,seed=1" in text
    assert "2 cores, 8 GB, no accelerator" in text


def test_odd_numbers_that_are_seen_are_marked(page):
    notes = page.html.partition('id="normal"')[2].partition("</section>")[0]
    assert notes.count("seen here") == 4
    assert "MAE, kNN: \N{MINUS SIGN}2.4 points to random init" in words(notes)


def test_encoders_are_shown_looking_and_finding(page):
    part = page.html.partition('id="looks"')[2].partition("</section>")[0]
    text = words(part)
    assert "Attention of the class token image random init MAE CMAE" in text
    assert "Patch features as colours image random init MAE CMAE" in text
    assert "CMAE: 6 of 8 are of the query&#39;s class" in text
    assert "query of class &lt;script&gt;alert(1)&lt;/script&gt;: 3 of 4" in part


def test_costs_are_compared_beside_scores(page):
    text = words(page.html.partition('id="fair"')[2].partition("</section>")[0])
    assert "MAE 20 240,000 0.080 19.2 210 20" in text
    assert "At equal epochs: 20" in text
    assert "At equal compute, within 10 %: 19.2 to 19.2 TFLOP" in text
    assert "CMAE +26.6 ± 1.6" in text  # paired: the two seeds differ by 0.25 points
    assert "Energy is not known" in text


def test_fine_tuned_classifiers_are_judged(page):
    text = words(page.html)
    assert "Expected calibration error in percent points (0 is best): random init 3.0; MAE" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; taken for 1, 97 % sure" in text
    assert "Calibration: random init is 52 % sure and 42 % right" in page.html


def test_runs_are_named_and_linked_where_they_are_on_the_web(page):
    part = page.html.partition("MLflow run")[2].partition("</table>")[0]
    assert "run-of-mae-0" in words(part)
    assert part.count("<a href") == 2  # of cmae's two seeds
    assert "2026-11-02 10:00:00" in page.html


def test_results_and_figures_come_along(page):
    assert list(page.results.columns) == COLUMNS
    assert not page.results.duplicated(["experiment", "protocol", "readout", "metric"]).any()
    for png in page.figures.values():
        assert png.startswith(b"\x89PNG")
        assert base64.b64encode(png).decode() in page.html
    assert {name.partition("-")[0] for name in page.figures} == {
        *("contact_sheet", "views", "reconstruction", "boxes", "segmentation", "detection"),
        *("attention", "colours", "probe_attention", "nearest"),
    }


def test_equal_inputs_give_equal_bytes(inputs, page):
    again = build_report(inputs, ReportConfig(pictures=2))
    assert again.html == page.html
    assert again.figures == page.figures


def test_the_page_stays_small(page):
    assert len(page.html.encode()) < 3_000_000


def test_an_empty_folder_says_that_nothing_was_measured(tmp_path):
    made = build_report(ReportInputs(tmp_path), ReportConfig())
    outline = Outline(made.html)
    assert (outline.wrong, outline.open) == ([], [])
    assert outline.tags.count("h1") == 1
    assert "Nothing was measured yet" in made.html
    assert "No crop boxes were made" in made.html
    assert made.results.empty
    assert made.figures == {}


def test_missing_and_broken_stages_do_not_fail(inputs, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(inputs.results_folder, folder)
    for path in folder.glob("*/pretrain"):
        shutil.rmtree(path)
    (folder / "cmae-c3d4-s1/probe/results.parquet").write_bytes(b"no parquet")
    (folder / "cmae-c3d4-s0/detection/arrays.npz").write_bytes(b"")
    made = build_report(ReportInputs(folder, inputs.card), BRIEF)
    text = words(made.html)
    assert "No pre-training has left a curve" in text
    assert "cannot be read" in text
    assert str(tmp_path) not in made.html
    assert not made.results.empty


def test_only_the_anchor_gives_no_verdict_but_a_page(inputs, tmp_path):
    source = inputs.results_folder / "mae-a1b2-s0/probe"
    target = tmp_path / "random_init-s0/probe"
    shutil.copytree(source, target)
    rows = pd.read_parquet(target / "results.parquet")
    rows[rows["method"] == "random_init"].to_parquet(target / "results.parquet", index=False)
    made = build_report(ReportInputs(tmp_path), BRIEF)
    assert "Only one encoder was measured: no comparison is possible." in words(made.html)


def test_a_probe_without_labels_is_shown_and_explained(inputs, tmp_path):
    output = StageOutput.read(inputs.results_folder / "mae-a1b2-s0/probe")
    first = output.rows.drop_duplicates("method")
    rows = pd.concat(
        first.assign(protocol="spectrum", readout="mean", metric=metric, value=value)
        for metric, value in (("rankme", 17.25), ("alignment", 0.125))
    )
    tables = {n: t.assign(truth=-1, label=-1, same=False) for n, t in output.tables.items()}
    arrays = {n: -1 + 0 * a if n.endswith("/labels") else a for n, a in output.arrays.items()}
    facts = {**output.facts, "without_labels": "the images have no class labels", "classes": []}
    StageOutput(rows, tables, arrays, facts).write(tmp_path / "mae-a1b2-s0/probe")
    made = build_report(ReportInputs(tmp_path), BRIEF)
    text = words(made.html)
    assert re.search("Frozen features, with labels.{1,5}the images have no class labels", text)
    assert "Shape of the frozen features, readout mean (means over seeds)" in text
    assert "RankMe Alignment random init 17.2 0.125 MAE 17.2 0.125" in text
    assert "nearest-mae-a1b2-s0-mae" in made.figures


def test_a_title_of_ones_own_and_the_other_readout(one_seed):
    config = ReportConfig(title="Ours & yours", readout="cls", pictures=1)
    made = build_report(one_seed, config)
    assert "<h1>Ours &amp; yours</h1>" in made.html
    assert "50.0 %: +24.0 points" in words(made.html)  # by cls 5 points lower than by mean


def test_boxes_without_a_preview_are_told_in_words(inputs, tmp_path):
    shutil.copy(inputs.boxes / "manifest.json", tmp_path / "manifest.json")
    made = build_report(ReportInputs(tmp_path / "none", boxes=tmp_path), ReportConfig())
    assert "41 % of the boxes touch all four edges" in made.html
    assert "data:image" not in made.html


def test_the_config_refuses_what_it_does_not_know():
    with pytest.raises(ConfigError, match="did you mean `readout`"):
        parse(ReportConfig, {"readot": "cls"}, "report")
    with pytest.raises(ConfigError, match=r"report\.min_score"):
        parse(ReportConfig, {"min_score": 2}, "report")
