"""Small dataset folders without any camera: a textured background, a moving disc, known masks and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from relo.atomic import file_sha256
from relo.shards import ShardWriter, schema

CONFIG = {"shards": {"bits": 8}, "masks": {"method": "lbfmg"}}
CONFIG_SHA256 = "c0ffee" * 10 + "cafe"


def make_pair(
    size: tuple[int, int], bits: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blurred and sharp (H, W, 3) frame of `bits` depth, and the (H, W) uint8 mask of the disc."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float64)
    texture = 0.45 + 0.25 * np.sin(x / 5) * np.cos(y / 7)
    sharp = np.stack([texture, 0.9 * texture, 0.7 * texture + 0.1], axis=-1)
    centre = rng.uniform(0.3, 0.7, 2) * size
    disc = np.hypot(y - centre[0], x - centre[1]) < min(size) / 6
    blur = sharp.copy()
    sharp[disc] = (0.9, 0.3, 0.2)
    blur[disc] = (0.7, 0.35, 0.3)
    noise = rng.normal(0, 0.01, (2, *sharp.shape))
    top = 2**bits - 1
    frames = [np.rint(np.clip(frame, 0, 1) * top) for frame in (blur + noise[0], sharp + noise[1])]
    dtype = schema.image_dtype(bits)
    return frames[0].astype(dtype), frames[1].astype(dtype), np.where(disc, 255, 0).astype(np.uint8)


def known_numbers(rng: np.random.Generator) -> dict[str, float]:
    """A plausible row of /pairs."""
    return {
        "t_long": 0.04,
        "t_short": 0.001,
        "gain_r": 1.02 + 0.005 * rng.normal(),
        "gain_g": 0.98 + 0.005 * rng.normal(),
        "gain_b": 1.05 + 0.005 * rng.normal(),
        "gain_deviation": 0.01,
        "residual_before": 9 + rng.normal(),
        "residual_after": abs(0.06 + 0.02 * rng.normal()),
        "psnr_before": 19 + rng.normal(),
        "psnr": 36 + rng.normal(),
        "clipped_blur": 0.001,
        "clipped_sharp": 0.0,
        "noise_blur": 0.004,
        "noise_sharp": 0.009,
    }


def write_shard(
    path: Path,
    *,
    scene: str = "scene_00",
    split: str = "train",
    pairs: int = 3,
    size: tuple[int, int] = (48, 64),
    bits: int = 8,
    short: bool = False,
    numbers: bool = True,
    flags: dict[int, str] | None = None,
    calibration: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Write one shard and return its entry for `dataset.json`.

    `flags` maps the position of a pair to its flags; `numbers=False` leaves every number of /pairs unknown.
    """
    rng = np.random.default_rng(seed)
    valid = np.full(size, 255, np.uint8)
    valid[:, : size[1] // 16] = 0
    writer = ShardWriter(
        path,
        size=size,
        scene=scene,
        split=split,
        config=CONFIG,
        config_sha256=CONFIG_SHA256,
        sources={f"scenes/{scene}/0000_B.dng": "00" * 32},
        bits=bits,
        valid=valid,
        short=short,
    )
    with writer:
        for index in range(pairs):
            blur, sharp, mask = make_pair(size, bits, rng)
            row: dict[str, Any] = dict(known_numbers(rng)) if numbers else {}
            row["flags"] = (flags or {}).get(index, "")
            writer.append(
                f"{index:04d}",
                blur=blur,
                sharp=sharp,
                mask=mask,
                short=sharp // 2 if short else None,
                row=row,
            )
        if calibration:
            _write_calibration(writer, size)
    return {
        "file": path.name,
        "scene": scene,
        "split": split,
        "pairs": pairs,
        "sha256": file_sha256(path),
        "schema_version": schema.VERSION,
    }


def _write_calibration(writer: ShardWriter, size: tuple[int, int]) -> None:
    group = writer.file.create_group("calibration/flow")
    coefficients = np.zeros((2, 10))
    coefficients[:, 0] = (8.0, -3.0)
    coefficients[0, 1] = 0.5
    group.create_dataset("coefficients", data=coefficients)
    group.attrs.update({"shape": size, "method": "parametric", "note": ""})
    writer.file["calibration/gain"] = np.array([1.02, 0.98, 1.05])
    writer.file["calibration/white_balance"] = np.array([2.0, 1.0, 1.5])
    rng = np.random.default_rng(7)
    after = rng.integers(0, 255, (*size, 3), np.uint8)
    group = writer.file.create_group("calibration/static")
    for name, image in (("before", np.roll(after, 3, axis=1)), ("after", after), ("sharp", after)):
        group[name] = image
    for camera in "BS":
        colour = writer.file.create_dataset(f"calibration/colour_{camera}", data=np.ones((3, 10)))
        colour.attrs["residual_peak_to_peak"] = np.array([0.011, 0.012, 0.013])
        colour.attrs["residual_rms"] = np.array([0.001, 0.002, 0.003])


def make_dataset(
    root: Path,
    shards: list[dict[str, Any]] | None = None,
    quarantine: list[dict[str, str]] | None = None,
) -> Path:
    """Write a dataset folder: one shard for each entry of `shards`, the keywords of `write_shard`.

    Examples
    --------
    >>> make_dataset(tmp_path, [{"scene": "desk"}, {"scene": "door", "split": "test"}])  # doctest: +SKIP
    """
    root.mkdir(parents=True, exist_ok=True)
    shards = [{}] if shards is None else shards
    entries = [
        write_shard(root / f"shard-{number:03d}.h5", **({"seed": number} | keywords))
        for number, keywords in enumerate(shards)
    ]
    index = {
        "format": schema.DATASET_FORMAT,
        "version": schema.DATASET_VERSION,
        "relo_version": "0.1.0",
        "config_sha256": CONFIG_SHA256,
        "shards": entries,
        "quarantined": len(quarantine or []),
    }
    (root / schema.DATASET_FILE).write_text(json.dumps(index), encoding="utf-8")
    if quarantine is not None:
        lines = "".join(json.dumps(entry) + "\n" for entry in quarantine)
        (root / schema.QUARANTINE_FILE).write_text(lines, encoding="utf-8")
    return root
