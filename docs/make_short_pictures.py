"""Draw docs/short.jpg: a photograph, its short exposure, and what each step makes of them.

python docs/make_short_pictures.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "benchmarks"))

from instant import displaced, expose, papers_filter, psnr_w, simulated  # noqa: E402

from relo.training.instant.config import InstantConfig  # noqa: E402
from relo.training.instant.matching import match_gain  # noqa: E402
from relo.training.instant.restore import align_short, restore_from_short  # noqa: E402

SEED, RATIO, SHOT, SHIFT = 101, 1 / 8, 1e-3, 4
WINDOW = 168  # side of what is shown [px]; twice as large in the picture


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Float image in [0, 1] to uint8."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """Image with a line of text above it."""
    band = np.zeros((24, image.shape[1], 3), np.uint8)
    cv2.putText(band, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([band, image])


def main() -> None:
    """Simulate a pair, and draw the stages around its largest blurred area."""
    pair = max(simulated(SEED, 4), key=lambda found: found.mask.sum())
    short = displaced(expose(pair.sharp, RATIO, SHOT, SEED), SHIFT)
    aligned, _ = align_short(pair.blur, short, pair.mask)
    matched, _ = match_gain(pair.blur, aligned, ~pair.mask)
    prefiltered = restore_from_short(pair.blur, short, pair.mask, InstantConfig(method="prefiltered")).image
    instant = restore_from_short(pair.blur, short, pair.mask).image
    stages = [
        ("photograph", pair.blur, True),
        (f"short exposure, 1/{1 / RATIO:.0f}", short, False),
        ("aligned, gain matched", to_bytes(matched), True),
        ("mask", np.repeat(255 * pair.mask[..., None].astype(np.uint8), 3, axis=2), False),
        ("the paper's filter", to_bytes(papers_filter(pair.blur, to_bytes(aligned), pair.mask)), True),
        ("fitted on smoothed images", prefiltered, True),
        ("exprdiff-instant", instant, True),
        ("sharp", pair.sharp, False),
    ]
    rows, columns = np.nonzero(pair.mask)
    height, width = pair.mask.shape
    top = int(np.clip(np.median(rows) - WINDOW / 2, 0, height - WINDOW))
    left = int(np.clip(np.median(columns) - WINDOW / 2, 0, width - WINDOW))
    cells = []
    for name, image, scored in stages:
        cut = image[top : top + WINDOW, left : left + WINDOW]
        cut = cv2.resize(cut, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        cells.append(captioned(cut, f"{name}, {psnr_w(image, pair):.1f} dB" if scored else name))
    sheet = np.concatenate([np.concatenate(cells[row : row + 4], axis=1) for row in (0, 4)], axis=0)
    cv2.imwrite(str(DOCS / "short.jpg"), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
