"""A contact sheet: small pictures blur | sharp | mask of pairs spread over a dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import cv2
import numpy as np

from relo.report.pictures import mask_overlay, thumbnail, to_uint8
from relo.shards.mask_stores import MaskPair

P_co = TypeVar("P_co", bound=MaskPair, covariant=True)

_GAP = 6
_CAPTION = 16
_BACKGROUND = 24


class Pairs(Protocol[P_co]):
    """Pairs by number: a `relo.shards.Dataset`, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> P_co: ...


def contact_sheet(
    pairs: Pairs[MaskPair],
    limit: int = 40,
    width: int = 200,
    columns: int = 2,
    *,
    overlay: bool = False,
    remark: Callable[[MaskPair], str] = lambda pair: "",
) -> np.ndarray:
    """Draw up to `limit` pairs, evenly spread over all, `columns` pairs a line.

    Parameters
    ----------
    pairs : Dataset or list of MaskPair
        At least one pair.
    limit : int
        Most pairs to draw.
    width : int
        Of one picture [px]; portrait frames are narrower.
    columns : int
        Pairs a line.
    overlay : bool
        Show the mask on the blurred frame instead of by itself.
    remark : callable (pair) -> str
        What follows the coverage in a pair's caption.

    Returns
    -------
    (H, W, 3) uint8 array
        RGB.
    """
    count = min(limit, len(pairs))
    if count == 0:
        raise ValueError("a contact sheet needs at least one pair")
    chosen = np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int))
    cells = [_cell(pairs[int(index)], width, overlay, remark) for index in chosen]
    cell_width = max(cell.shape[1] for cell in cells)
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return np.concatenate([_line(line, min(columns, len(cells)), cell_width) for line in lines], axis=0)


def _line(cells: list[np.ndarray], columns: int, cell_width: int) -> np.ndarray:
    height = max(cell.shape[0] for cell in cells)
    line = np.full((height + 2 * _GAP, columns * (cell_width + 2 * _GAP), 3), _BACKGROUND, np.uint8)
    for number, cell in enumerate(cells):
        left = _GAP + number * (cell_width + 2 * _GAP)
        line[_GAP : _GAP + cell.shape[0], left : left + cell.shape[1]] = cell
    return line


def _cell(pair: MaskPair, width: int, overlay: bool, remark: Callable[[MaskPair], str]) -> np.ndarray:
    frame, mask = pair.blur, pair.mask
    # Portrait frames are narrower, never higher than the cell is wide.
    blur, sharp = (to_uint8(thumbnail(image, width, width)) for image in (frame, pair.sharp))
    if overlay:
        third = mask_overlay(frame, mask, pair.valid, width, width)
    else:
        third = np.repeat(thumbnail(mask, width, width)[..., None], 3, axis=-1)
    gap = np.full((blur.shape[0], 2, 3), _BACKGROUND, np.uint8)
    strip = np.concatenate([blur, gap, sharp, gap, third], axis=1)
    caption = np.full((_CAPTION, strip.shape[1], 3), _BACKGROUND, np.uint8)
    covered = f"mask {100 * float((mask > 0).mean()):.1f} %"
    text = f"{pair.scene} {pair.id}  blur | sharp | {covered} {remark(pair)}"
    # The font has ASCII only.
    ascii_text = text.encode("ascii", "replace").decode()
    cv2.putText(caption, ascii_text, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (220, 220, 220), 1, cv2.LINE_AA)
    return np.concatenate([caption, strip], axis=0)
