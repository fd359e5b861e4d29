"""Score a checkpoint on a dataset by the published metrics, input beside output."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from relo.errors import ConfigError, TrainingError
from relo.models.restoration import takes_short
from relo.parallel import one_opencv_thread
from relo.progress import Progress
from relo.resources import usable_cores
from relo.shards import Dataset
from relo.training import metrics, no_reference
from relo.training.checkpoint import Checkpoint, load_checkpoint
from relo.training.crops import Window, blurred_crops, whole_windows
from relo.training.data import Item, WholeImages
from relo.training.detector_evaluation import require_restoration
from relo.training.evaluation_pictures import Picture, Worst, draw_comparison
from relo.training.evaluation_result import PLACE, Evaluation, Row
from relo.training.inference.memory_estimate import choose_tile, device_of, memory_at_hand
from relo.training.inference.whole_image import on_device, restore
from relo.training.protocols import PROTOCOLS, Crops
from relo.training.sampling import Box
from relo.training.sources import scored_split
from relo.training.structure import WINDOW

SIDES = ("input", "output")


def evaluate(
    checkpoint: str | os.PathLike[str] | Checkpoint,
    src: str | Path,
    *,
    split: str = "test",
    protocol: str = "reloblur",
    aligned: bool = False,
    model: str | None = None,
    worst: int = 10,
    device: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a trained model on every image of a split.

    Whole images are restored one by one, and only numbers and the worst pictures are kept. Where a frame has
    invalid borders, blurred and sharp image and mask are first cropped to a large valid rectangle; where memory
    does not suffice for a whole image, it is restored in windows; the result says so. But for that, the same call
    on the same machine gives the same numbers. Under a protocol of crops, each is restored by itself, as if it were
    a whole image: so the networks of the paper saw them.

    Parameters
    ----------
    checkpoint : path or Checkpoint
        What `load_checkpoint` takes: a run folder, a .safetensors file or published weights; or what it gives.
    src : path
        Dataset folder or shard.
    split : str
        A dataset without a split "test" is scored as a whole, and the result says so.
    protocol : str
        One of `relo.training.protocols.PROTOCOLS`.
    aligned : bool
        Also PSNR_a, which costs seconds of one core for each image; images are aligned side by side.
    model : str, optional
        See `load_checkpoint`; without meaning for a Checkpoint.
    worst : int
        How many of the worst images to keep as pictures.
    device : str, optional
        "cpu", "cuda", …; the GPU if there is one.
    progress : callable, optional
        Called with (images done, images in all, name of the image).

    Raises
    ------
    TrainingError
        The checkpoint cannot be read or is of a blur detector, a frame has no valid part large enough for SSIM, no
        crop of any has enough blur, the network is given short exposures and there are none, or it gives values
        that are not finite.
    ShardError
        The dataset cannot be read or has no split of that name.
    ConfigError
        There is no such protocol or device, or `worst` is negative.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"there is no protocol '{protocol}'", advice=f"Known: {', '.join(PROTOCOLS)}.")
    if worst < 0:
        raise ConfigError(f"the number of worst images must not be negative, got {worst}")
    rules = PROTOCOLS[protocol]
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint, model=model)
    require_restoration(loaded)
    dataset, scored = scored_split(src, split)
    notes = list[str]()
    if scored != split:
        found = ", ".join(dataset.splits)
        notes.append(f"there is no split 'test': all {len(dataset)} images were scored (splits: {found})")
    images = _whole_images(dataset, src, loaded, notes)
    windows, crops = _choose_windows(images, rules.crops, src, notes)
    versions = tuple(sorted({str(shard.attrs.get("mask_version", "unknown")) for shard in dataset.shards}))
    if len(versions) > 1:
        notes.append(f"the masks are of different versions ({', '.join(versions)}): look at the scenes one by one")
    network = on_device(loaded.model, device)
    scorers: no_reference.Scorers = {}
    if rules.without_reference:
        scorers, missing = no_reference.load_scorers(device_of(network))
        notes += missing
    count = sum(map(len, windows))
    rows: list[Row] = []
    pictures = Worst(worst)
    for row in _rows(loaded.path, network, images, windows, protocol, scorers, aligned, pictures, notes):
        rows.append(row)
        if progress:
            progress(len(rows), count, _name(row))
    means, excluded = _means(rows)
    infinite = {name: sum(math.isinf(row[name]) for row in rows) for name in means}
    by_scene = {scene: [row for row in rows if row["scene"] == scene] for scene in dataset.scenes}
    return Evaluation(
        checkpoint=loaded.path,
        model=loaded.name,
        dataset=dataset.fingerprint,
        split=scored,
        protocol=protocol,
        mask_versions=versions,
        rows=rows,
        scenes={scene: _means(rows)[0] for scene, rows in by_scene.items() if rows},
        overall=means,
        excluded=excluded,
        infinite={name: count for name, count in infinite.items() if count},
        notes=tuple(notes),
        pictures=tuple(pictures.pictures),
        crops=crops,
    )


def _whole_images(dataset: Dataset, src: str | Path, loaded: Checkpoint, notes: list[str]) -> WholeImages:
    """Valid parts of all frames, as the network is given them; what is cropped is noted."""
    if len(dataset) == 0:
        raise TrainingError("holds no images", file=src)
    images = WholeImages(dataset, len(dataset), short=takes_short(loaded.model))
    small = next((path for path, box in images.areas.items() if min(box.height, box.width) < WINDOW), None)
    if small:
        raise TrainingError(f"has no valid area of at least {WINDOW} x {WINDOW} px to evaluate on", file=small)
    cropped = sum(images.areas[sample.shard.path][2:] != sample.size for sample in dataset)
    if cropped:
        notes.append(f"{cropped} of {len(dataset)} images were cropped to the area that both cameras see")
    return images


def _choose_windows(
    images: WholeImages, rules: Crops | None, src: str | Path, notes: list[str]
) -> tuple[list[list[Window]], dict[str, float] | None]:
    """What is scored of each image and, of crops, how they were chosen, which is noted."""
    if rules is None:
        return whole_windows(images), None
    try:
        windows, count = blurred_crops(images, rules)
    except TrainingError as error:
        raise TrainingError(error.reason, file=src, advice=error.advice) from error
    side, kept = rules.side, sum(map(len, windows))
    notes.append(
        f"{kept} of {count} crops of {side} px were scored ({kept / count:.0%}): those of which more than "
        f"{100 * rules.blurred_share:g} % is blurred"
    )
    sizes = [images.areas[sample.shard.path][2:] for sample in images.dataset]
    small = sum(min(size) < side for size in sizes)
    if small:
        notes.append(f"{small} of {len(sizes)} images have sides below {side} px: their crops are as small")
    return windows, {"side": side, "blurred_share": rules.blurred_share, "kept": kept, "all": count}


def _rows(
    checkpoint: Path,
    network: nn.Module,
    images: WholeImages,
    windows: Sequence[Sequence[Window]],
    protocol: str,
    scorers: no_reference.Scorers,
    aligned: bool,
    pictures: Worst,
    notes: list[str],
) -> Iterator[Row]:
    """Rows in the order of the images, a few at most in the making: alignments run beside the network."""
    device, cores = device_of(network), usable_cores()
    running: deque[tuple[Row, Future[Tensor]]] = deque()
    in_windows = 0

    @cache
    def tile_for(channels: int, height: int, width: int) -> int:
        """Once for each size: an estimate takes some 50 ms."""
        return choose_tile(network, (1, channels, height, width), memory_at_hand(device))

    with one_opencv_thread(), ThreadPoolExecutor(cores) as pool:
        for place, item in _parts(images, windows, PROTOCOLS[protocol].crops is not None):
            given, sharp, mask = (item[key][None].to(device) for key in ("blur", "sharp", "mask"))
            tile = tile_for(*given.shape[1:])
            restored = restore(network, given, tile=tile)
            in_windows += tile > 0
            blur, output = given[:, :3], restored.image.float()
            if not torch.isfinite(output).all():
                raise TrainingError(f"gives values that are not finite for {_name(place)}", file=checkpoint)
            row = place | _measure(blur, output, sharp, mask, protocol) | _score(scorers, blur, output)
            if restored.masks:
                row["mask_iou"] = metrics.mask_iou(restored.masks[-1], mask).item()
            score = row["psnr_output"] if math.isnan(row["psnr_w_output"]) else row["psnr_w_output"]
            if pictures.wants(score):
                pixels = draw_comparison(blur[0], output[0], sharp[0], mask[0])
                pictures.add(Picture(score, row["scene"], _name(row).removeprefix(f"{row['scene']}/"), pixels))
            if not aligned:
                yield row
                continue
            both = torch.cat([blur, output]).cpu()
            running.append((row, pool.submit(metrics.aligned_psnr, both, sharp.cpu().expand_as(both), protocol)))
            if len(running) > cores:
                yield _with_alignment(*running.popleft())
        while running:
            yield _with_alignment(*running.popleft())
    if in_windows:
        unit = "crops" if PROTOCOLS[protocol].crops else "images"
        count = sum(map(len, windows))
        notes.append(f"{in_windows} of {count} {unit} were restored in windows: memory did not suffice")


def _parts(images: WholeImages, windows: Sequence[Sequence[Window]], cropped: bool) -> Iterator[tuple[Row, Item]]:
    """What a row says of its place, and the images there; one frame in memory at a time."""
    for index, parts in enumerate(windows):
        if not parts:
            continue
        sample, whole = images.dataset[index], images[index]
        area = images.areas[sample.shard.path]
        for number, (box, blurred) in enumerate(parts):
            place: Row = {"scene": sample.scene, "id": sample.id}
            if cropped:
                corner = {"crop": number, "y": int(area.y + box.y), "x": int(area.x + box.x)}
                place |= corner | {"height": int(box.height), "width": int(box.width), "blurred": blurred}
            yield place, _cut(whole, box)


def _cut(item: Item, box: Box) -> Item:
    rows, columns = slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)
    blur, sharp, mask = (item[key][:, rows, columns] for key in ("blur", "sharp", "mask"))
    return {"blur": blur, "sharp": sharp, "mask": mask, "name": item["name"]}


def _name(row: Row) -> str:
    """scene/id of an image; of a crop also where it is."""
    name = f"{row['scene']}/{row['id']}"
    return f"{name}_y{row['y']}_x{row['x']}" if "crop" in row else name


def _with_alignment(row: Row, alignment: Future[Tensor]) -> Row:
    return row | {f"psnr_a_{side}": value for side, value in zip(SIDES, alignment.result().tolist(), strict=True)}


def _measure(blur: Tensor, output: Tensor, sharp: Tensor, mask: Tensor, protocol: str) -> dict[str, float]:
    row: dict[str, float] = {}
    both = dict(zip(SIDES, (blur, output), strict=True))
    for name, metric in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
        row |= {f"{name}_{side}": metric(image, sharp, protocol).item() for side, image in both.items()}
    for name, weighted in (
        ("psnr_w", metrics.weighted_psnr),
        ("ssim_w", metrics.weighted_ssim),
        ("psnr_static", metrics.static_psnr),
    ):
        row |= {f"{name}_{side}": weighted(image, sharp, mask, protocol).item() for side, image in both.items()}
    return row


def _score(scorers: no_reference.Scorers, blur: Tensor, output: Tensor) -> Row:
    """Metrics without reference, of input and output."""
    values = {
        side: no_reference.score(scorers, image[0]) for side, image in zip(SIDES, (blur, output), strict=True)
    }
    return {f"{name}_{side}": values[side][name] for name in scorers for side in SIDES}


def _means(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, int]]:
    """Mean of each column, and how many images were left out of those of each metric."""
    means: dict[str, float] = {}
    excluded: dict[str, int] = {}
    scored = [name for name, value in rows[0].items() if name not in PLACE and value is not None]
    for metric in dict.fromkeys(name.removesuffix("_input").removesuffix("_output") for name in scored):
        columns = [metric] if metric in rows[0] else [f"{metric}_{side}" for side in SIDES]
        kept = [row for row in rows if not any(math.isnan(row[name]) for name in columns)]
        means |= {name: metrics.mean_and_excluded(row[name] for row in kept)[0] for name in columns}
        excluded[metric] = len(rows) - len(kept)
    return means, excluded
