"""Blur masks that somebody else has made, as files that belong to photographs."""

from __future__ import annotations

from pathlib import Path

from relo.errors import ConfigError
from relo.images import read_image
from relo.masks.external import ExternalMask, MaskFileError, read_mask

MASK_ENDING = "_mask.png"  # of the file beside a result, and of the one that is looked for first
_FORM = "Give a grey PNG of the photograph's size, 255 where it is blurred."


def read_given_mask(place: Path, photograph: Path, size: tuple[int, int]) -> ExternalMask:
    """Read the mask of a photograph.

    Parameters
    ----------
    place : Path
        A file, the mask of every photograph; or a folder with NAME_mask.png or NAME.png for NAME.*, the first of
        these that is there. The photograph itself is never taken as its mask.
    photograph : Path
    size : (H, W)
        Of the upright photograph.

    Returns
    -------
    ExternalMask
        As `relo.masks.external.read_mask` understands it.

    Raises
    ------
    MaskFileError
        There is no such file, or it is damaged, not grey or of another size.
    """
    path = find_mask(place, photograph)
    if path is None:
        told = f"holds no mask of {photograph.name}, neither {' nor '.join(_names(photograph))}"
        raise MaskFileError(told, file=place, advice=_FORM)
    mask = read_mask(path, size)  # says best what is wrong with a file
    colours = read_image(path)
    if (colours != colours[..., :1]).any():
        raise MaskFileError("is no mask: it has colours", file=path, advice=_FORM)
    return mask


def require_masks(place: Path) -> None:
    """Refuse a place for masks that is not there.

    Raises
    ------
    ConfigError
    """
    if not place.exists():
        raise ConfigError("does not exist", file=place, advice="--mask-from takes a mask, or a folder of masks.")


def find_mask(place: Path, photograph: Path) -> Path | None:
    """File that `read_given_mask` reads, None where a folder holds none."""
    if not place.is_dir():
        return place
    files = (place / name for name in _names(photograph))
    return next((file for file in files if file.is_file() and file.resolve() != photograph.resolve()), None)


def _names(photograph: Path) -> tuple[str, str]:
    return f"{photograph.stem}{MASK_ENDING}", f"{photograph.stem}.png"
