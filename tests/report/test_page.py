from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from relo.errors import ShardError
from relo.report import page, write_report
from relo.shards.reader import close_files

HOSTILE = "<script>alert(1)</script>\"'&"
VOID = {"meta", "link", "img", "input", "br"}
# Noise does not compress: the worst that pictures can be.
SIZE_LIMIT = 5_000_000


class Page(HTMLParser):
    """Checks that elements nest, and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.cells: list[str] = []
        self.ids: list[str] = []
        self.in_cell = False
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    @property
    def pictured_pairs(self) -> int:
        return sum((image["alt"] or "").startswith("Blurred frame") for image in self.images)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [values[name] for name in ("src", "href") if values.get(name)]
        if values.get("id"):
            self.ids.append(values["id"])
        if tag == "img":
            self.images.append(values)
        if tag == "td":
            self.in_cell = True
            self.cells.append("")
        if tag not in VOID and tag not in ("path", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("path", "rect"):
            return
        assert self.open.pop() == tag
        if tag == "td":
            self.in_cell = False

    def handle_data(self, data):
        if self.in_cell:
            self.cells[-1] += data
        self.text += data


def read(root) -> tuple[str, Page]:
    text = write_report(root).read_text(encoding="utf-8")
    return text, Page(text)


def test_page_is_self_contained(make_dataset):
    text, parsed = read(make_dataset([{"scene": "a"}, {"scene": "b", "split": "test"}]))
    assert text.startswith("<!DOCTYPE html>")
    assert all(link.startswith(("data:", "#")) for link in parsed.links)
    assert not re.search(r"https?://|url\(|@import", text)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.counts["script"] == 1
    assert all(image["alt"] and image["width"] and image["height"] for image in parsed.images)


def test_every_pair_is_in_the_table(make_dataset):
    _, parsed = read(make_dataset([{"scene": "a", "pairs": 5}, {"scene": "b", "pairs": 20, "size": (24, 32)}]))
    table = {(scene, pair) for scene, pair in zip(parsed.cells, parsed.cells[1:], strict=False)}
    expected = {("a", f"{k:04d}") for k in range(5)} | {("b", f"{k:04d}") for k in range(20)}
    assert expected <= table
    assert parsed.pictured_pairs == page.MAX_PICTURED_PAIRS


def test_hostile_names_stay_text(make_dataset):
    entry = dict.fromkeys(("scene", "pair", "file", "stage", "reason", "advice"), HOSTILE)
    root = make_dataset([{"scene": HOSTILE, "split": HOSTILE, "flags": {0: HOSTILE}}], [entry])
    text, parsed = read(root)
    assert "<script>alert" not in text
    assert parsed.counts["script"] == 1
    assert HOSTILE in parsed.cells


def test_only_our_own_script_may_run(make_dataset):
    import base64
    import hashlib

    text, _ = read(make_dataset())
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    allowed = re.search(r"script-src 'sha256-([^']+)'", text)
    assert script and allowed
    assert base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode() == allowed[1]


def test_same_dataset_gives_the_same_bytes(make_dataset, tmp_path):
    first = write_report(make_dataset(name="one")).read_bytes()
    close_files()
    assert write_report(make_dataset(name="two")).read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_unknown_numbers_are_dashes(make_dataset):
    text, parsed = read(make_dataset([{"scene": "a"}, {"scene": "b", "numbers": False, "calibration": False}]))
    assert "–" in parsed.cells
    assert "nan" not in parsed.text.lower().replace("isnan", "")
    assert "No flow is recorded" in text


def test_columns_without_any_number_are_named_and_left_out(make_dataset):
    text, parsed = read(make_dataset([{"numbers": False}]))
    assert "Not recorded for any pair: residual before" in text
    assert "scene_00" in parsed.cells


@pytest.mark.parametrize("keywords", [{"bits": 16}, {"short": True}, {"size": (64, 48)}, {"size": (7, 9)}])
def test_other_kinds_of_shards(make_dataset, keywords):
    _, parsed = read(make_dataset([keywords]))
    assert parsed.pictured_pairs == 3


def test_no_shards(make_dataset):
    text, parsed = read(make_dataset([], [{"scene": "a", "file": "x_B.dng", "reason": "is 0 bytes"}]))
    assert "The dataset holds no pair" in text
    assert "is 0 bytes" in parsed.cells


def test_empty_quarantine(make_dataset):
    text, _ = read(make_dataset())
    assert "Nothing was left out." in text


def test_flagged_pairs_stand_out(make_dataset):
    text, parsed = read(make_dataset([{"flags": {1: "misaligned,mask-large"}}]))
    assert text.count('class="flagged"') == 1
    assert "misaligned, mask-large" in parsed.cells
    assert "1 flagged as doubtful" in text


def test_numbers_of_the_overview(make_dataset):
    _, parsed = read(make_dataset([{"pairs": 9}]))
    assert "ReLoBlur: 11.75 %" in parsed.text
    assert re.search(r"\d\.\d\d → 0\.0\d px", parsed.text)
    assert parsed.counts["svg"] == 3


def test_configuration_is_shown(make_dataset):
    _, parsed = read(make_dataset())
    assert '"method": "lbfmg"' in parsed.text


def test_size_is_bounded_by_pictures_of_noise(make_dataset, monkeypatch):
    import numpy as np
    from support import datasets

    def noise(size, bits, rng):
        frames = rng.integers(0, 256, (2, *size, 3), np.uint8)
        return frames[0], frames[1], np.where(rng.random(size) < 0.5, 255, 0).astype(np.uint8)

    monkeypatch.setattr(datasets, "make_pair", noise)
    root = make_dataset([{"scene": f"s{k:02d}", "pairs": 1, "size": (480, 640)} for k in range(14)])
    assert write_report(root).stat().st_size < SIZE_LIMIT


def test_rows_are_bounded_and_the_rest_is_told(make_dataset, monkeypatch):
    monkeypatch.setattr(page, "MAX_TABLE_ROWS", 2)
    monkeypatch.setattr(page, "MAX_QUARANTINE_ROWS", 1)
    monkeypatch.setattr(page, "MAX_SCENE_ROWS", 1)
    monkeypatch.setattr(page, "MAX_PICTURED_PAIRS", 1)
    entries = [{"scene": "a", "reason": "x" * 10_000}, {"scene": "b", "reason": "y"}]
    text, parsed = read(make_dataset([{"scene": "a", "flags": {2: "x"}}, {"scene": "b"}], entries))
    assert "The 2 most doubtful of 6 pairs are shown" in text
    assert "The first 1 of 2 scenes" in text
    assert "the first 1 are shown" in text
    assert parsed.pictured_pairs == 1
    assert "x" * 500 not in text


def test_progress_counts_to_its_total(make_dataset):
    calls = []
    write_report(make_dataset(), progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == [1, 2, 3, 4]
    assert {call[1] for call in calls} == {4}


def test_no_dataset(tmp_path):
    with pytest.raises(ShardError, match=r"dataset\.json"):
        write_report(tmp_path)


def test_missing_shard_is_named_and_the_old_report_stays(make_dataset):
    root = make_dataset()
    before = write_report(root).read_bytes()
    close_files()
    (root / "shard-000.h5").unlink()
    with pytest.raises(ShardError, match=r"shard-000\.h5"):
        write_report(root)
    assert (root / "report.html").read_bytes() == before


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_browser_reports_no_error(make_dataset, tmp_path):
    path = write_report(make_dataset([{"flags": {0: "x"}}]))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    options += ["--disable-quic", "--disable-component-update", "--disable-sync"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *options, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    assert re.search(r'style="max-width: \d+px; --cut: 50%;"', done.stdout)  # our script has run


def test_the_static_pair_is_shown_before_and_after(make_dataset):
    root = make_dataset([{"scene": "a"}, {"scene": "b", "calibration": False}])
    shards = page.open_dataset(root).shards
    figure = page.static_figure(shards[0].file)
    assert figure is not None
    # after correction the two cameras agree: the difference is black, and small as a JPEG
    assert len(figure["difference_after"]) < len(figure["difference_before"]) / 2
    assert page.static_figure(shards[1].file) is None
    _, parsed = read(root)
    assert sum("only developed" in (image["alt"] or "") for image in parsed.images) == 1
