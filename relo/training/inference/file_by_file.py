"""Photographs into a folder, one by one: what is there is left, and one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from relo.atomic import writing_to
from relo.errors import ReloError, TrainingError
from relo.training.inference.file_names import Format, Names, find_photographs, result_files
from relo.training.inference.in_memory import RegionReport, Restored
from relo.training.inference.photographs import Photograph, write_mask, write_photograph

_NO_ROOM = "Make room there, or give another folder with -o; what is done is not done again."


@dataclass(frozen=True)
class DeblurResult:
    """What became of the photographs.

    Attributes
    ----------
    written : tuple of Path
        Restored photographs.
    skipped : tuple of Path
        Results that were there already.
    failed : tuple of (Path, str)
        Inputs that could not be restored, each with its reason on one line.
    notes : tuple of (Path, str)
        Inputs of which something was not kept or had to be assumed.
    regions : tuple of (Path, RegionReport)
        Inputs that were restored only where they are blurred.
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    notes: tuple[tuple[Path, str], ...]
    regions: tuple[tuple[Path, RegionReport], ...]


def find_work(paths: Iterable[str | Path], out: Path) -> list[Path]:
    """Photographs among `paths`; the folder for their results is made before hours of work, not after.

    Raises
    ------
    TrainingError
        There is no photograph.
    ReloError
        A folder cannot be listed, or `out` cannot be made.
    """
    sources = find_photographs(paths)
    if not sources:
        raise TrainingError("no PNG, TIFF, JPEG or RAW image among the given paths")
    with writing_to(out, _NO_ROOM):
        out.mkdir(parents=True, exist_ok=True)
    return sources


def restore_each(
    restore: Callable[[Path], tuple[Photograph, Restored, tuple[str, ...]]],
    sources: Sequence[Path],
    out: Path,
    *,
    inputs: Iterable[Path],
    again: bool,
    image_format: Format | None,
    masks: bool,
    progress: Callable[[int, int, str], None] | None,
) -> DeblurResult:
    """Restore photographs and write the results.

    Parameters
    ----------
    restore : callable
        Maps a file to what it holds, what it became, and notes. Where `masks`, it has a mask.
    sources : sequence of Path
    out : Path
        An existing folder.
    inputs : iterable of Path
        Files that no result may overwrite.
    again : bool
        Restore what is there already.
    image_format, masks, progress
        See `relo.training.deblur_files`.

    Raises
    ------
    ReloError
        `out` cannot be written; a full disk, for example.
    """
    names = Names(inputs)
    written, skipped = list[Path](), list[Path]()
    failed, notes = list[tuple[Path, str]](), list[tuple[Path, str]]()
    regions = list[tuple[Path, RegionReport]]()
    for number, source in enumerate(sources, start=1):
        results = result_files(source, out, image_format, masks)
        try:
            names.require_free(results, source)
            there = not again and all(result.exists() for result in results)
            if not there:
                photograph, restored, told = restore(source)
        except (ReloError, OSError) as error:
            failed.append((source, " ".join(str(error).split())))
        else:
            names.take(results, source)
            if there:
                skipped.append(results[0])
            else:
                with writing_to(out, _NO_ROOM):
                    left = _write(results, restored, photograph)
                if restored.report is not None:
                    regions.append((source, restored.report))
                    if results[0].suffix in (".jpg", ".jpeg"):
                        left += ("JPEG changes the pixels outside of the blur too: write PNG or TIFF to keep them",)
                notes += [(source, note) for note in (*told, *left)]
                written.append(results[0])
        if progress:
            progress(number, len(sources), source.name)
    return DeblurResult(tuple(written), tuple(skipped), tuple(failed), tuple(notes), tuple(regions))


def _write(results: list[Path], restored: Restored, photograph: Photograph) -> tuple[str, ...]:
    """Write the image, and the mask where its path follows; return what of the metadata does not fit."""
    for path in results[1:]:
        assert restored.mask is not None, "networks without masks were refused"
        write_mask(path, restored.mask)
    return write_photograph(results[0], restored.image, photograph.metadata)
