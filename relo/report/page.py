"""`write_report`: one self-contained HTML page for a dataset folder.

The page needs no network, is the same bytes for the same dataset, and stays below about 5 MB however large
the dataset is: pictures, table rows and list entries are bounded, and what is left out is said.
"""

from __future__ import annotations

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import jinja2
import numpy as np
from markupsafe import Markup

from relo import __version__, atomic
from relo.masks import quality
from relo.progress import Progress
from relo.report import pictures
from relo.report.collect import (
    COLUMNS,
    PairRecord,
    SceneRecord,
    choose_pairs,
    finite,
    mean,
    median,
    pair_records,
    scene_records,
    worst_first,
)
from relo.report.histogram import svg_histogram
from relo.shards import Dataset, Sample, open_dataset, schema
from relo.shards.index import read_quarantine
from relo.shards.reader import read_index

# A yardstick, no target. In per cent.
PAPER_COVERAGE = 100 * quality.PAPER_COVERAGE

MAX_PICTURED_PAIRS = 12
MAX_PICTURED_SCENES = 12
MAX_TABLE_ROWS = 3000
MAX_SCENE_ROWS = 500
MAX_QUARANTINE_ROWS = 500
DIFFERENCE_GAIN = 4.0
_TEXT_LIMIT = 400

_LARGE = (640, 480)
_SMALL = (420, 320)
_TINY = (280, 210)


def write_report(root: Path, *, threads: int = 1, progress: Progress | None = None) -> Path:
    """Write `report.html` into a dataset folder.

    Parameters
    ----------
    root : Path
        A folder with `dataset.json`.
    threads : int
        Pictures that are drawn at a time.
    progress : callable (done, total, what), optional
        Counts pictured pairs and scenes.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ShardError
        `root` is no dataset, or a shard is missing or damaged.
    """
    root = Path(root)
    index = read_index(root)
    path = root / schema.REPORT_FILE
    atomic.write_text(path, render(open_dataset(root), index, read_quarantine(root), threads, progress))
    return path


def render(
    dataset: Dataset,
    index: dict[str, Any],
    quarantine: list[dict[str, str]],
    threads: int = 1,
    progress: Progress | None = None,
) -> str:
    """HTML of the report.

    Parameters
    ----------
    dataset : Dataset
    index : dict
        Content of `dataset.json`.
    quarantine : list of dict
        See `relo.shards.index.read_quarantine`.
    threads : int
    progress : callable (done, total, what), optional
    """
    records = pair_records(dataset)
    scenes = scene_records(dataset, records)
    chosen = choose_pairs(records, MAX_PICTURED_PAIRS)
    pictured = {record.scene for record in chosen}
    pictured_scenes = [scene for scene in scenes if scene.name in pictured][:MAX_PICTURED_SCENES]
    total = len(chosen) + len(pictured_scenes)
    pair_figures, scene_figures = [], []
    with ThreadPoolExecutor(threads) as pool:
        for done, (record, figure) in enumerate(zip(chosen, pool.map(pair_figure, chosen), strict=True), 1):
            pair_figures.append(figure)
            if progress:
                progress(done, total, f"{record.scene}/{record.id}")
        drawn = zip(pictured_scenes, pool.map(scene_figure, pictured_scenes), strict=True)
        for done, (scene, figure) in enumerate(drawn, len(chosen) + 1):
            scene_figures.append(figure)
            if progress:
                progress(done, total, scene.name)
    shown = records if len(records) <= MAX_TABLE_ROWS else worst_first(records)[:MAX_TABLE_ROWS]
    columns = [column for column in COLUMNS if finite(row.values[column.key] for row in records).size]
    script, style = _package_text("report.js"), _package_text("report.css")
    count = index.get("quarantined")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=style,
            script=script,
            script_sha256=_csp_hash(script),
            relo_version=__version__,
            made_by=index.get("relo_version", ""),
            fingerprint=dataset.fingerprint,
            config_sha256=_config_hashes(dataset, index),
            config=_config_text(dataset, index),
            scene_count=len(scenes),
            pair_count=len(records),
            flagged_count=sum(bool(record.flags) for record in records),
            quarantined=max(len(quarantine), count if isinstance(count, int) else 0),
            splits=_split_counts(dataset),
            bits=sorted({shard.bits for shard in dataset.shards}),
            sizes=_sizes(dataset),
            overview=_overview(records),
            histograms=_histograms(records),
            columns=columns,
            empty_columns=[column for column in COLUMNS if column not in columns],
            rows=shown,
            row_count=len(records),
            scenes=scenes[:MAX_SCENE_ROWS],
            scene_figures=scene_figures,
            pair_figures=pair_figures,
            quarantine=[
                {key: _shortened(value) for key, value in entry.items()}
                for entry in quarantine[:MAX_QUARANTINE_ROWS]
            ],
            quarantine_count=len(quarantine),
            gain=DIFFERENCE_GAIN,
            paper_coverage=PAPER_COVERAGE,
        )
    )


def pair_figure(record: PairRecord) -> dict[str, Any]:
    """Pictures of one pair as data URIs, with its caption's numbers."""
    sample = Sample(record.shard, record.index)
    blur, sharp, mask, valid = sample.blur, sample.sharp, sample.mask, sample.valid
    large = [pictures.to_uint8(pictures.thumbnail(image, *_LARGE)) for image in (blur, sharp)]
    overlay = pictures.mask_overlay(blur, mask, valid, *_SMALL)
    difference = pictures.difference_map(blur, sharp, mask, *_SMALL, gain=DIFFERENCE_GAIN)
    return {
        "record": record,
        "blur": pictures.data_uri(large[0], 60_000),
        "sharp": pictures.data_uri(large[1], 60_000),
        "overlay": pictures.data_uri(overlay, 40_000),
        "difference": pictures.data_uri(difference, 40_000),
        "size": _size_of(large[0]),
        "small_size": _size_of(overlay),
        "numbers": [
            (column.head, _format(record.values[column.key], column.decimals, column.factor), column.unit)
            for column in COLUMNS[:5]
        ],
    }


def scene_figure(scene: SceneRecord) -> dict[str, Any]:
    """Flow picture of a scene with the range of its lengths [px], and its static pair before and after."""
    shard = scene.shards[0]
    figure: dict[str, Any] = {"scene": scene, "flow": None, "static": static_figure(shard.file)}
    if shard.flow_model is not None:
        picture, low, high = pictures.flow_picture(shard.flow, shard.valid, *_TINY)
        figure |= {
            "flow": pictures.data_uri(picture, 15_000),
            "size": _size_of(picture),
            "low": low,
            "high": high,
        }
    return figure


def static_figure(file: h5py.File) -> dict[str, Any] | None:
    """Static pair of a shard only developed and corrected, as data URIs; None where it is not recorded."""
    group = file.get("calibration/static")
    if group is None or not {"before", "after", "sharp"} <= set(group):
        return None
    before, after, sharp = (pictures.thumbnail(group[name][()], *_LARGE) for name in ("before", "after", "sharp"))
    nothing = np.zeros(sharp.shape[:2], np.uint8)
    differences = [
        pictures.difference_map(image, sharp, nothing, *_SMALL, gain=DIFFERENCE_GAIN) for image in (before, after)
    ]
    return {
        "before": pictures.data_uri(before, 50_000),
        "after": pictures.data_uri(after, 50_000),
        "difference_before": pictures.data_uri(differences[0], 40_000),
        "difference_after": pictures.data_uri(differences[1], 20_000),
        "size": _size_of(before),
        "small_size": _size_of(differences[0]),
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("relo.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _format
    return environment


def _package_text(name: str) -> Markup:
    """One of the page's own style and script files: ours, so not escaped."""
    text = (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)


def _csp_hash(script: str) -> str:
    """Allow this text to run in the page's content security policy, and nothing that slipped in."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _format(value: float, decimals: int = 2, factor: float = 1.0) -> str:
    """Write a number for people; a dash where there is none."""
    return f"{value * factor:.{decimals}f}" if np.isfinite(value) else "–"


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"


def _size_of(picture: np.ndarray) -> tuple[int, int]:
    """(width, height) for the attributes of an `<img>`."""
    return picture.shape[1], picture.shape[0]


def _overview(records: list[PairRecord]) -> list[tuple[str, str, str]]:
    """Name, value with unit and remark of the numbers at the top of the page."""

    def typical(key: str, decimals: int) -> str:
        return _format(median(record.values[key] for record in records), decimals)

    coverage = mean(record.values["blur_fraction"] for record in records)
    return [
        ("mean mask coverage", f"{_format(coverage, 2, 100)} %", f"ReLoBlur: {PAPER_COVERAGE} %"),
        (
            "static residual",
            f"{typical('residual_before', 2)} → {typical('residual_after', 2)} px",
            "median before → after",
        ),
        (
            "static PSNR",
            f"{typical('psnr_before', 1)} → {typical('psnr', 1)} dB",
            "median, developed only → corrected",
        ),
    ]


def _histograms(records: list[PairRecord]) -> list[tuple[str, Markup]]:
    values = {column.key: [column.factor * row.values[column.key] for row in records] for column in COLUMNS}
    drawn = [
        (
            "Mask coverage",
            svg_histogram(
                {"coverage": values["blur_fraction"]},
                title="Mask coverage",
                unit="% of valid pixels",
                marker=(PAPER_COVERAGE, f"ReLoBlur {PAPER_COVERAGE}"),
            ),
        ),
        (
            "Static residual",
            svg_histogram(
                {"before": values["residual_before"], "after": values["residual_after"]},
                title="Static residual",
                unit="px",
            ),
        ),
        (
            "Gain of camera B",
            svg_histogram(
                {"R": values["gain_r"], "G": values["gain_g"], "B": values["gain_b"]},
                title="Gain of camera B",
                unit="×",
                classes=("r", "g", "b"),
            ),
        ),
    ]
    return [(title, svg) for title, svg in drawn if svg]


def _split_counts(dataset: Dataset) -> list[tuple[str, int, int]]:
    """(split, scenes, pairs), sorted by split."""
    result = []
    for split in dataset.splits:
        shards = [shard for shard in dataset.shards if shard.split == split]
        result.append((split, len({shard.scene for shard in shards}), sum(shard.count for shard in shards)))
    return result


def _sizes(dataset: Dataset) -> list[str]:
    return [f"{width} × {height}" for height, width in sorted({shard.size for shard in dataset.shards})]


def _config_hashes(dataset: Dataset, index: dict[str, Any]) -> list[str]:
    hashes = {str(shard.file.attrs["config_sha256"]) for shard in dataset.shards}
    return sorted(hashes) or [str(index.get("config_sha256", ""))]


def _config_text(dataset: Dataset, index: dict[str, Any]) -> str:
    """Write the resolved configuration of the dataset, else of its first shard, as indented JSON."""
    config = index.get("config")
    if not config and dataset.shards:
        config = dataset.shards[0].attrs.get("config")
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) if config else ""
