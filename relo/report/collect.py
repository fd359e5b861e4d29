"""Numbers of a dataset, its scenes and its pairs, gathered without decoding an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from relo.shards import Dataset, Shard
from relo.shards.inspect import split_flags


@dataclass(frozen=True)
class Column:
    """A column of the pair table: value of /pairs x `factor`, shown with `decimals`."""

    key: str
    head: str
    unit: str
    decimals: int
    factor: float
    explanation: str


COLUMNS = (
    Column("blur_fraction", "mask coverage", "%", 2, 100, "share of the valid pixels that the mask covers"),
    Column("residual_before", "residual before", "px", 3, 1, "misalignment of the static area before correction"),
    Column("residual_after", "residual after", "px", 3, 1, "misalignment of the static area after correction"),
    Column("bump", "bump", "px", 3, 1, "how far camera B has moved as a whole since the static pair"),
    Column("psnr_before", "PSNR before", "dB", 2, 1, "static area, demosaiced and developed only"),
    Column("psnr", "PSNR after", "dB", 2, 1, "static area, after all corrections"),
    Column("gain_r", "gain R", "×", 4, 1, "factor applied to camera B's red"),
    Column("gain_g", "gain G", "×", 4, 1, "factor applied to camera B's green"),
    Column("gain_b", "gain B", "×", 4, 1, "factor applied to camera B's blue"),
    Column(
        "gain_deviation",
        "gain deviation",
        "%",
        2,
        100,
        "this pair's own gain against the applied one, largest",
    ),
    Column(
        "mask_agreement", "mask agreement", "", 2, 1, "overlap of what the pair and the background tell of motion"
    ),
    Column("mask_fragments", "mask parts", "", 0, 1, "connected parts of the mask"),
    Column("mask_border", "mask at border", "%", 0, 100, "share of the mask whose part touches the border"),
    Column("t_long", "exposure B", "ms", 3, 1000, "exposure of the blurred frame"),
    Column("t_short", "exposure S", "ms", 3, 1000, "exposure of the sharp frame"),
    Column("clipped_blur", "clipped B", "%", 2, 100, "saturated RAW sites of the blurred frame"),
    Column("clipped_sharp", "clipped S", "%", 2, 100, "saturated RAW sites of the sharp frame"),
    Column("noise_blur", "noise B", "1/255", 2, 255, "standard deviation in flat areas of the blurred frame"),
    Column("noise_sharp", "noise S", "1/255", 2, 255, "standard deviation in flat areas of the sharp frame"),
    Column("short_scale", "short scale", "×", 4, 1, "HSV value factor of the synthetic short exposure"),
    Column("short_noise", "short noise", "1/255", 2, 255, "noise sigma of the synthetic short exposure"),
    Column("short_ratio", "short ratio", "×", 4, 1, "exposure ratio of the synthetic short exposure"),
    Column("short_shot", "short shot noise", "10⁻³", 3, 1000, "variance per unit of signal, in linear light"),
    Column("short_read", "short read noise", "10⁻³", 3, 1000, "standard deviation, of full scale in linear light"),
    Column("short_gain", "short gain", "×", 3, 1, "digital gain after the noise of the synthetic short exposure"),
    Column("short_red", "short red", "×", 3, 1, "colour shift of the synthetic short exposure"),
    Column("short_blue", "short blue", "×", 3, 1, "colour shift of the synthetic short exposure"),
)


@dataclass(frozen=True)
class PairRecord:
    """One row of /pairs, and where its images are."""

    shard: Shard
    index: int
    values: dict[str, float]
    flags: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name of the pair within its scene."""
        return self.shard.ids[self.index]

    @property
    def scene(self) -> str:
        """Name of the scene."""
        return self.shard.scene


@dataclass(frozen=True)
class SceneRecord:
    """One scene: its shards and what their pairs have in common."""

    name: str
    shards: tuple[Shard, ...]
    pairs: int
    flagged: int
    medians: dict[str, float]
    mean_coverage: float
    valid_share: float
    calibration: tuple[tuple[str, str], ...]


def pair_records(dataset: Dataset) -> list[PairRecord]:
    """Rows of /pairs of every shard, in order of the dataset."""
    records = []
    for shard in dataset.shards:
        table = shard.pairs
        names = set(table.dtype.names or ())
        for index, row in enumerate(table):
            values = {
                column.key: float(row[column.key]) if column.key in names else float("nan") for column in COLUMNS
            }
            flags = row["flags"].decode(errors="replace") if "flags" in names else ""
            records.append(PairRecord(shard, index, values, split_flags(flags)))
    return records


def worst_first(records: Iterable[PairRecord]) -> list[PairRecord]:
    """Sort by doubt: most flags, largest residual after correction, lowest PSNR; NaN is no doubt."""

    def doubt(record: PairRecord) -> tuple[float, float, float, str, str]:
        residual, psnr = record.values["residual_after"], record.values["psnr"]
        return (
            -len(record.flags),
            -(residual if np.isfinite(residual) else 0.0),
            psnr if np.isfinite(psnr) else np.inf,
            record.scene,
            record.id,
        )

    return sorted(records, key=doubt)


def choose_pairs(records: list[PairRecord], limit: int) -> list[PairRecord]:
    """Up to `limit` pairs for a close look, worst first: one of each scene, then the worst of the others."""
    ranked = worst_first(records)
    seen: set[str] = set()
    first: list[PairRecord] = []
    rest: list[PairRecord] = []
    for record in ranked:
        (rest if record.scene in seen else first).append(record)
        seen.add(record.scene)
    return worst_first((first + rest)[:limit])


def median(values: Iterable[float]) -> float:
    """Median of the finite values; NaN where there is none."""
    array = finite(values)
    return float(np.median(array)) if array.size else float("nan")


def mean(values: Iterable[float]) -> float:
    """Mean of the finite values; NaN where there is none."""
    array = finite(values)
    return float(array.mean()) if array.size else float("nan")


def finite(values: Iterable[float]) -> np.ndarray:
    """Those of `values` that are finite, as a float64 array."""
    array = np.fromiter(values, np.float64)
    return array[np.isfinite(array)]


def scene_records(dataset: Dataset, records: list[PairRecord]) -> list[SceneRecord]:
    """One record a scene, sorted by name; reads /valid and /calibration of the scene's first shard."""
    shards_of: dict[str, list[Shard]] = {}
    for shard in dataset.shards:
        shards_of.setdefault(shard.scene, []).append(shard)
    rows_of: dict[str, list[PairRecord]] = {}
    for record in records:
        rows_of.setdefault(record.scene, []).append(record)
    scenes = []
    for name, shards in sorted(shards_of.items()):
        rows = rows_of.get(name, [])
        scenes.append(
            SceneRecord(
                name=name,
                shards=tuple(shards),
                pairs=len(rows),
                flagged=sum(bool(row.flags) for row in rows),
                medians={column.key: median(row.values[column.key] for row in rows) for column in COLUMNS},
                mean_coverage=mean(row.values["blur_fraction"] for row in rows),
                valid_share=float((shards[0].valid > 0).mean()),
                calibration=tuple(calibration_facts(shards[0])),
            )
        )
    return scenes


def calibration_facts(shard: Shard) -> list[tuple[str, str]]:
    """(name, text) of what /calibration holds; groups and attributes that are not there are left out."""
    facts = []
    group = shard.file.get("calibration/flow")
    if group is not None:
        parts = [str(group.attrs.get("method", "")), str(group.attrs.get("note", ""))]
        for key, unit in (("misalignment", "px"), ("psnr", "dB")):
            if f"{key}_before" in group.attrs and f"{key}_after" in group.attrs:
                before, after = (float(group.attrs[f"{key}_{when}"]) for when in ("before", "after"))
                parts.append(f"static pair {before:.2f} → {after:.2f} {unit}")
        facts.append(("flow", "; ".join(part for part in parts if part)))
    for key, name in (("gain", "gain R, G, B"), ("white_balance", "white balance R, G, B")):
        dataset = shard.file.get(f"calibration/{key}")
        if isinstance(dataset, h5py.Dataset):
            source = dataset.attrs.get("source", "")
            facts.append((name, _numbers(dataset[()]) + (f" ({source})" if source else "")))
    for camera in ("B", "S"):
        dataset = shard.file.get(f"calibration/colour_{camera}")
        if dataset is None:
            continue
        parts = [
            f"{words} {_numbers(100 * np.asarray(dataset.attrs[key], np.float64), 3)} %"
            for key, words in (("residual_peak_to_peak", "peak to peak"), ("residual_rms", "rms"))
            if key in dataset.attrs
        ]
        facts.append((f"colour cast left, camera {camera}", "; ".join(parts) or "corrected"))
    return facts


def _numbers(values: Any, decimals: int = 4) -> str:
    return ", ".join(f"{value:.{decimals}f}" for value in np.ravel(values).astype(np.float64))
