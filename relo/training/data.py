"""Patches and whole images from shards, as torch datasets.

A patch is decided by seed and draw alone: neither the number of loader processes nor an interruption changes what
is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from relo.errors import TrainingError
from relo.training.blurred import AllBlurred, BlurredPixels
from relo.training.mixture import Mixture
from relo.training.order import Groups, spread_order
from relo.training.recipe import PatchStage
from relo.training.sampling import Box, blur_aware_corner, interior, mirror, published_corner, turn, valid_box

if TYPE_CHECKING:
    from relo.shards import Dataset, Sample
    from relo.training.diffusion.recipe import DiffusionRecipe
    from relo.training.recipe import Recipe


class Draw(NamedTuple):
    """Which patch.

    Attributes
    ----------
    epoch : int
    pair : int
    crop : int
        Side of the patch [px]; 0 for that of the recipe.
    """

    epoch: int
    pair: int
    crop: int = 0


class Item(TypedDict):
    """One patch or image; a batch of them has a leading N and a list of names.

    Attributes
    ----------
    blur : (3, H, W) float32 tensor in [0, 1], or uint8
        (6, H, W) for networks that are given a short exposure: it lies behind the blurred image.
    sharp : (3, H, W) tensor like that
    mask : (1, H, W) float32 tensor of 0 and 1, or uint8 of 0 and 255
    name : str
        scene/id.
    """

    blur: Tensor
    sharp: Tensor
    mask: Tensor
    name: str


class Patches(TorchDataset[Item]):
    """Patches of a dataset by draw, cut within the valid part of each frame.

    Where all frames are of 8 bits, patches are uint8, a quarter of what has to go from a loader process to the one
    that trains; `to_float` belongs there.

    Parameters
    ----------
    dataset : relo.shards.Dataset
        At least one pair.
    recipe : Recipe or DiffusionRecipe
        Its crop, bapc, hflip, vflip, rotate and seed.
    all_blurred : collection of int
        Numbers of the pairs that are taken for blurred everywhere, whatever their masks.

    Raises
    ------
    TrainingError
        The valid part of some frame is smaller than a patch, or the short exposures that are wanted are not there.
    """

    def __init__(
        self, dataset: Dataset, recipe: Recipe | DiffusionRecipe, all_blurred: Collection[int] = ()
    ) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.all_blurred = all_blurred
        self._blurred = BlurredPixels()
        self._names = image_names(dataset, recipe.takes_short)
        # One dtype for all: a batch may have frames of several shards.
        self._as_bytes = all(shard.bits == 8 for shard in dataset.shards)
        self.areas = {shard.path: valid_box(shard.valid) for shard in dataset.shards}
        largest = max(recipe.crops)
        for path, area in self.areas.items():
            if min(area.height, area.width) < largest:
                fits = min(area.height, area.width) // 4 * 4
                one_size = " and --set progressive=[]" if recipe.progressive else ""
                raise TrainingError(
                    f"patches of {largest} px do not fit into its valid {area.width} x {area.height} px",
                    file=path,
                    advice=f"Use --set crop={fits} or less{one_size}.",
                )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw | tuple[int, int]) -> Item:
        epoch, pair, crop = Draw(*draw)
        sample, recipe, size = self.dataset[pair], self.recipe, crop or self.recipe.crop
        if pair in self.all_blurred:
            sample = AllBlurred(sample.shard, sample.index)
        rng = default_rng([recipe.seed, epoch, pair])
        window = Box(*self._corner(sample, size, rng), size, size)
        images = [sample.crop(name, *window) for name in self._names]
        sharp, mask, *blur = turn(mirror(images, rng, recipe.hflip, recipe.vflip), rng, recipe.rotate)
        if not self._as_bytes:
            return to_item(sample, blur, sharp, mask)
        return {
            "blur": torch.from_numpy(np.concatenate([image.transpose(2, 0, 1) for image in blur])),
            "sharp": torch.from_numpy(np.ascontiguousarray(sharp.transpose(2, 0, 1))),
            "mask": torch.from_numpy(np.where(mask[None] > 0, np.uint8(255), np.uint8(0))),
            "name": f"{sample.scene}/{sample.id}",
        }

    def _corner(self, sample: Sample, size: int, rng: Generator) -> tuple[int, int]:
        area, blurred = self.areas[sample.shard.path], self._blurred
        if self.recipe.bapc_form == "clean":
            return blur_aware_corner(
                area, size, rng, lambda share: blurred.pick(sample, area, share), self.recipe.bapc
            )
        centres = interior(area, size)
        return published_corner(
            area,
            size,
            rng,
            lambda: 255 * blurred.count(sample, area) / (area.height * area.width),
            lambda share: blurred.pick(sample, centres, share),
            self.recipe.bapc,
        )


class WholeImages(TorchDataset[Item]):
    """Whole frames, cropped to their valid part, for validation.

    Parameters
    ----------
    dataset : relo.shards.Dataset
    limit : int
        At most so many, evenly spread.
    short : bool
        Whether the short exposures lie behind the blurred images.

    Raises
    ------
    TrainingError
        There are none.
    """

    def __init__(self, dataset: Dataset, limit: int, short: bool = False) -> None:
        self.dataset = dataset
        self._names = image_names(dataset, short)
        self.indices = np.unique(np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).round().astype(int))
        self.areas = {shard.path: valid_box(shard.valid) for shard in dataset.shards}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        sample = self.dataset[int(self.indices[index])]
        area = self.areas[sample.shard.path]
        sharp, mask, *blur = (sample.crop(name, *area) for name in self._names)
        return to_item(sample, blur, sharp, mask)


class EndlessBatches(Sampler[list[Draw]]):
    """Batches of draws without end: every epoch of a source is a new permutation of all its pairs.

    Parameters
    ----------
    pairs : int or Mixture
        Number of pairs, or those of several sources.
    batch : int
        Draws per batch; a batch may reach into the next epoch.
    seed : int
    start : int
        Number of batches to leave out: where a resumed run goes on.
    groups : Groups, optional
        Scene and shard of each pair, for an order that spreads scenes and reads few shards at a time.
    share : (k, n)
        Give only part k of n of each batch, of batch / n draws: what one of n processes trains on. The parts
        together are the batch, whatever n is; with several sources, parts need not have the same of each.
    progressive : sequence of PatchStage
        The first batches, where they are of another size and of patches of another size.
    """

    def __init__(
        self,
        pairs: int | Mixture,
        batch: int,
        seed: int,
        start: int = 0,
        groups: Groups | None = None,
        share: tuple[int, int] = (0, 1),
        progressive: Sequence[PatchStage] = (),
    ) -> None:
        self.mixture = pairs if isinstance(pairs, Mixture) else Mixture((pairs,))
        self.batch, self.seed, self.start, self.groups = batch, seed, start, groups
        self.share, self.progressive = share, progressive

    def __iter__(self) -> Iterator[list[Draw]]:
        first = self._draws_before_start()
        part, parts = self.share
        orders = [(-1, np.empty(0, np.int64))] * len(self.mixture.counts)  # epoch and order that each source is at
        for step in count(self.start):
            batch, crop = self._batch_and_crop(step)
            draws = []
            for number in range(first + part, first + batch, parts):
                source, position = self.mixture.place(number)
                epoch, position = divmod(position, self.mixture.counts[source])
                if orders[source][0] != epoch:
                    orders[source] = epoch, self._order(source, epoch)
                draws.append(Draw(epoch, int(orders[source][1][position]), crop))
            yield draws
            first += batch

    def _draws_before_start(self) -> int:
        batches, draws = self.start, 0
        for stage in self.progressive:
            draws += min(batches, stage.steps) * stage.batch
            batches -= min(batches, stage.steps)
        return draws + batches * self.batch

    def _batch_and_crop(self, step: int) -> tuple[int, int]:
        for stage in self.progressive:
            if step < stage.steps:
                return stage.batch, stage.crop
            step -= stage.steps
        return self.batch, 0

    def _order(self, source: int, epoch: int) -> NDArray[np.int64]:
        first, pairs = self.mixture.firsts[source], self.mixture.counts[source]
        rng = default_rng([self.seed, epoch, 0, source] if source else [self.seed, epoch])
        if self.groups is None:
            return first + rng.permutation(pairs)
        return first + spread_order(self.groups.part(first, pairs), rng)


def hold_out_scenes(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Split a dataset by scenes into what is trained on and what validates.

    Parameters
    ----------
    dataset : relo.shards.Dataset
    fraction : float
        Share of the scenes to hold out: rounded, at least one, never all; 0 for none.
    seed : int
        A scene's place in line depends on it and on the scene's name only.

    Returns
    -------
    (Dataset, Dataset or None)
        None where nothing can be held out: a single scene, or fraction 0.
    """
    scenes = dataset.scenes
    if fraction == 0 or len(scenes) < 2:
        return dataset, None
    count = min(max(1, round(fraction * len(scenes))), len(scenes) - 1)
    in_line = sorted(scenes, key=lambda scene: hashlib.sha256(f"{seed}/{scene}".encode()).digest())
    return dataset.select(scenes=in_line[count:]), dataset.select(scenes=in_line[:count])


def image_names(dataset: Dataset, short: bool) -> tuple[str, ...]:
    """What is read of each pair: the sharp image, the mask, then what the network is given.

    Raises
    ------
    TrainingError
        A shard lacks the short exposures.
    """
    if not short:
        return "sharp", "mask", "blur"
    for shard in dataset.shards:
        if "short" not in shard.file:
            raise TrainingError(
                "has no short exposures, which the network is to be given",
                file=shard.path,
                advice="Make them with `relo short SRC OUT`.",
            )
    return "sharp", "mask", "blur", "short"


def to_item(sample: Sample, blur: Sequence[NDArray[Any]], sharp: NDArray[Any], mask: NDArray[np.uint8]) -> Item:
    """Turn uint8 or uint16 images and a mask into tensors; the images of `blur` lie one behind the other."""
    return {
        "blur": torch.cat([to_tensor(image) for image in blur]),
        "sharp": to_tensor(sharp),
        "mask": torch.from_numpy((mask > 0).astype(np.float32)[None]),
        "name": f"{sample.scene}/{sample.id}",
    }


def to_float(batch: Item) -> Item:
    """Bring the uint8 tensors of an item or a batch to float32 in [0, 1]; others stay as they are."""
    floats = {key: batch[key] for key in ("blur", "sharp", "mask")}
    floats = {
        key: value.float().div_(255) if value.dtype == torch.uint8 else value for key, value in floats.items()
    }
    return {**batch, **floats}  # type: ignore[typeddict-item]


def to_tensor(image: NDArray[Any]) -> Tensor:
    """(H, W, 3) image to a (3, H, W) float32 tensor; unsigned integers are divided by their maximum."""
    scale = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))  # before it becomes four times as large
    return torch.from_numpy(np.divide(planes, np.float32(scale), dtype=np.float32))
