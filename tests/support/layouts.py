"""Small folders in public layouts, of noise: every pixel has to come through."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from relo.images import write_image
from relo.masks.external import write_mask

SIZE = (20, 28)


def noise(seed: int, size: tuple[int, int] = SIZE, bits: int = 8) -> np.ndarray:
    """(H, W, 3) image of `bits`."""
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, (*size, 3)).astype(dtype)


def blob(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W) mask of 0 and 255."""
    mask = np.zeros(size, np.uint8)
    mask[3 : 8 + seed % 5, 4:17] = 255
    return mask


def reloblur(
    base: Path,
    scenes: dict[str, int] | None = None,
    *,
    bits: int = 8,
    masks: bool = True,
    size: tuple[int, int] = SIZE,
    short: bool = False,
) -> Path:
    """`scenes` maps "split/sNN/MM" to a number of pairs."""
    seed = 0
    for place, count in (scenes or {"train/s01/00": 3, "train/s02/00": 2, "test/s03/01": 2}).items():
        for index in range(count):
            seed += 3
            frames = base / "dataset" / place
            write_image(frames / f"{index:02d}_blur.png", noise(seed, size, bits))
            write_image(frames / f"{index:02d}_sharp.png", noise(seed + 1, size, bits))
            if masks:
                write_mask(base / "masks" / place / f"{index:02d}.png", blob(seed, size))
            if short:
                write_image(base / "short" / place / f"{index:02d}.png", noise(seed + 2, size, bits))
    return base


def two_folders(root: Path, names: list[str], roles: tuple[str, str] = ("blur", "sharp"), seed: int = 100) -> Path:
    """`root/blur/NAME.png` and `root/sharp/NAME.png`."""
    for number, name in enumerate(names):
        for which, role in enumerate(roles):
            write_image(root / role / f"{name}.png", noise(seed + 2 * number + which))
    return root


def content(path: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
    }
