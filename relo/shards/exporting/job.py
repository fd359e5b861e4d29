"""Shards become a folder in a public layout: PNG files, or tar files of them, and no pixel changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relo import atomic, locks
from relo.capture.session import Problem
from relo.errors import ConfigError, ReloError
from relo.images import write_image
from relo.masks.external import write_mask
from relo.progress import Progress
from relo.shards.exporting.plan import ExportPlan, Layout, make_export_plan, make_manifest
from relo.shards.folder import check_output
from relo.shards.layouts import webdataset
from relo.shards.layouts.manifest import MANIFEST, read_manifest
from relo.shards.reader import Dataset, Sample, open_dataset

# Where nobody says: of full frames of ReLoBlur 100 pairs make tar files of about 1.5 GB.
PAIRS_A_TAR = 100


@dataclass
class LayoutExport:
    """What became of a dataset.

    Attributes
    ----------
    out : Path
    done, skipped : int
        Pairs written now, and by an earlier run.
    problems : list of Problem
        Pairs that cannot be read.
    notes : list of str
    """

    out: Path
    done: int = 0
    skipped: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export_layout(
    layout: Layout,
    src: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    pairs_a_tar: int = PAIRS_A_TAR,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> LayoutExport:
    """Write the pairs of a dataset folder or a shard as PNG files in a public layout.

    `relo-export.json` in `out` keeps what the files' names cannot say; `import_layout` reads it. A run that was
    stopped continues.

    Parameters
    ----------
    layout : {"reloblur", "pairs", "webdataset"}
    src, out : path
    split : str, optional
        Only this split.
    pairs_a_tar : int
        Of webdataset.
    overwrite : bool
        Remove what an earlier export to `out` has written.
    progress : callable (pairs done, pairs in all, what), optional

    Raises
    ------
    ReloError
        `src` is no dataset, the layout cannot hold its splits, or `out` holds something else.
    """
    src, out = Path(src), Path(out)
    check_output(out, [src])
    plan = make_export_plan(open_dataset(src, split), layout, pairs_a_tar)
    manifest = make_manifest(plan, pairs_a_tar)
    with atomic.writing_to(out, "Mend that and run the same command again: it continues."), locks.locked(out):
        _prepare(out, manifest, overwrite)
        atomic.require_space(out, _needed(plan.dataset, out, manifest["files"]))
        # First, so that what a run that is stopped leaves behind is known to be ours.
        _write_manifest(out, manifest)
        result = LayoutExport(out, notes=_notes(plan))
        if plan.tars:
            incomplete = _write_tars(result, plan, progress)
            _write_manifest(out, {**manifest, "incomplete": incomplete})
        else:
            _write_files(result, plan, progress)
    return result


def _prepare(out: Path, manifest: Mapping[str, Any], overwrite: bool) -> None:
    """Let only a folder pass that is empty or holds an export of the same dataset; remove what is not whole."""
    earlier = read_manifest(out)
    if not earlier:
        foreign = [path.name for path in sorted(out.iterdir()) if path.name[0] != "."]
        if foreign and foreign != [f"{MANIFEST}.part"]:
            raise ConfigError(f"holds other files ({foreign[0]})", file=out, advice="Give a new or empty folder.")
        return
    same = all(earlier.get(key) == manifest[key] for key in ("layout", "fingerprint", "splits", "files"))
    if not same and not overwrite:
        advice = "Give another output folder, or --overwrite."
        raise ConfigError("was exported from another dataset, or in another form", file=out, advice=advice)
    for name in earlier.get("files", []):
        path = out / name
        if not path.resolve().is_relative_to(out.resolve()):
            continue  # somebody has edited the manifest
        atomic.part_name(path).unlink(missing_ok=True)  # of a run that was killed
        if overwrite or name in earlier.get("incomplete", []):
            path.unlink(missing_ok=True)


def _write_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    atomic.write_text(out / MANIFEST, text)


def _needed(dataset: Dataset, out: Path, files: list[str]) -> int:
    """Bytes still to be written, with room to spare: full frames take about 6 % more than in shards."""
    missing = sum(not (out / name).is_file() for name in files) / len(files)
    return int(missing * 1.4 * sum(shard.path.stat().st_size for shard in dataset.shards))


def _notes(plan: ExportPlan) -> list[str]:
    notes = []
    if any((shard.valid == 0).any() for shard in plan.dataset.shards):
        notes.append("/valid is not part of the layout: an import takes all pixels as seen by both cameras")
    if plan.layout == "reloblur" and any(shard.bits == 16 for shard in plan.dataset.shards):
        notes.append("frames of 16 bits become PNG files of 16 bits; ReLoBlur's own loader expects 8")
    return notes


def _write_files(result: LayoutExport, plan: ExportPlan, progress: Progress | None) -> None:
    """Write what is not there yet, one file an image."""
    total = len(plan.dataset)
    for done, sample in enumerate(plan.dataset, 1):
        missing = {role: path for role, path in plan.paths(sample).items() if not (result.out / path).is_file()}
        try:
            # All of them first, so that a pair that cannot be read leaves no half behind.
            images = {role: getattr(sample, role) for role in missing}
        except ReloError as error:
            result.problems.append(_problem(error, sample))
        else:
            for role, image in images.items():
                _write_png(result.out / missing[role], image)
            result.done += bool(missing)
            result.skipped += not missing
        if progress:
            progress(done, total, f"{sample.scene}/{sample.id}")


def _write_png(path: Path, image: np.ndarray) -> None:
    if image.ndim == 2:
        write_mask(path, image)
    else:
        write_image(path, image)


def _write_tars(result: LayoutExport, plan: ExportPlan, progress: Progress | None) -> list[str]:
    """Write the tar files that are not there yet; return those that lack a pair."""
    done = 0

    def members(samples: list[Sample]) -> Iterator[webdataset.Member]:
        nonlocal done
        for sample in samples:
            try:
                content = _members(sample, plan)
            except ReloError as error:
                result.problems.append(_problem(error, sample))
            else:
                yield from content
                result.done += 1
            done += 1
            if progress:
                progress(done, len(plan.dataset), f"{sample.scene}/{sample.id}")

    incomplete = []
    for name, samples in plan.tars.items():
        if (result.out / name).is_file():
            result.skipped += len(samples)
            done += len(samples)
            continue
        before = len(result.problems)
        webdataset.write_tar(result.out / name, members(list(samples)))
        if len(result.problems) > before:
            incomplete.append(name.as_posix())
    return incomplete


def _members(sample: Sample, plan: ExportPlan) -> list[webdataset.Member]:
    """Images of a sample and a JSON object: its names, the version of its mask, its row of /pairs."""
    row = {name: value for name, value in sample.row.items() if name not in ("id", "sha256")}
    names = {"scene": sample.scene, "id": sample.id, "split": sample.split}
    about = row | names | {"mask_version": sample.shard.attrs.get("mask_version", "")}
    key = plan.key(sample)
    content = [(f"{key}.{role}.png", webdataset.png(getattr(sample, role))) for role in plan.roles(sample)]
    return [*content, (f"{key}.json", webdataset.json_member(about))]


def _problem(error: ReloError, sample: Sample) -> Problem:
    return Problem.from_error(error, sample.shard.path, sample.scene, sample.id, "export")
