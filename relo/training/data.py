"""Patches and whole images from shards, as torch datasets.

A patch is decided by (seed, epoch, index) alone: neither the number of loader processes nor an
interruption changes what is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from relo.errors import TrainingError
from relo.training.blurred import BlurredPixels
from relo.training.recipe import Recipe
from relo.training.sampling import Box, blur_aware_corner, interior, mirror, published_corner, valid_box

if TYPE_CHECKING:
    from relo.shards import Dataset, Sample

Draw = tuple[int, int]  # epoch, index


class Item(TypedDict):
    """One patch or image; a batch of them has a leading N and a list of names.

    Attributes
    ----------
    blur, sharp : (3, H, W) float32 tensor in [0, 1], or uint8
    mask : (1, H, W) float32 tensor of 0 and 1, or uint8 of 0 and 255
    name : str
        scene/id.
    """

    blur: Tensor
    sharp: Tensor
    mask: Tensor
    name: str


class Patches(TorchDataset[Item]):
    """Patches of a dataset by (epoch, index), cut within the valid part of each frame.

    Patches of 8-bit frames are uint8, a quarter of what has to go from a loader process to the one that trains;
    `to_float` belongs there.

    Parameters
    ----------
    dataset : relo.shards.Dataset
        At least one pair.
    recipe : Recipe
        Its crop, bapc, bapc_form, hflip, vflip and seed.

    Raises
    ------
    TrainingError
        The valid part of some frame is smaller than a patch.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self._blurred = BlurredPixels()
        self.areas = {shard.path: valid_box(shard.valid) for shard in dataset.shards}
        for path, area in self.areas.items():
            if min(area.height, area.width) < recipe.crop:
                raise TrainingError(
                    f"patches of {recipe.crop} px do not fit into its valid {area.width} x {area.height} px",
                    file=path,
                    advice=f"Use --set crop={min(area.height, area.width) // 4 * 4} or less.",
                )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Item:
        epoch, index = draw
        sample, recipe = self.dataset[index], self.recipe
        rng = default_rng([recipe.seed, epoch, index])
        window = Box(*self._corner(sample, rng), recipe.crop, recipe.crop)
        images = [sample.crop(name, *window) for name in ("blur", "sharp", "mask")]
        blur, sharp, mask = mirror(images, rng, recipe.hflip, recipe.vflip)
        if blur.dtype != np.uint8:
            return to_item(sample, blur, sharp, mask)
        return {
            "blur": torch.from_numpy(np.ascontiguousarray(blur.transpose(2, 0, 1))),
            "sharp": torch.from_numpy(np.ascontiguousarray(sharp.transpose(2, 0, 1))),
            "mask": torch.from_numpy(np.where(mask[None] > 0, np.uint8(255), np.uint8(0))),
            "name": f"{sample.scene}/{sample.id}",
        }

    def _corner(self, sample: Sample, rng: Generator) -> tuple[int, int]:
        area, size, blurred = self.areas[sample.shard.path], self.recipe.crop, self._blurred
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
    """

    def __init__(self, dataset: Dataset, limit: int) -> None:
        self.dataset = dataset
        self.indices = np.unique(np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).round().astype(int))
        self.areas = {shard.path: valid_box(shard.valid) for shard in dataset.shards}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        sample = self.dataset[int(self.indices[index])]
        area = self.areas[sample.shard.path]
        return to_item(sample, *(sample.crop(name, *area) for name in ("blur", "sharp", "mask")))


class EndlessBatches(Sampler[list[Draw]]):
    """Batches of (epoch, index) without end: every epoch is a new permutation of all pairs.

    Parameters
    ----------
    count : int
        Number of pairs.
    batch : int
        Draws per batch; a batch may reach into the next epoch.
    seed : int
    start : int
        Number of batches to leave out: where a resumed run goes on.
    groups : Groups, optional
        Scene and shard of each pair, for an order that spreads scenes and reads few shards at a time.
    share : (k, n)
        Give only part k of n of each batch, of batch / n draws: what one of n processes trains on. The parts
        together are the batch, whatever n is.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        start: int = 0,
        groups: Groups | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.count, self.batch, self.seed, self.start, self.groups = count, batch, seed, start, groups
        self.share = share

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, position = divmod(self.start * self.batch, self.count)
        order = self._order(epoch)
        while True:
            draws = []
            for _ in range(self.batch):
                if position == self.count:
                    epoch, position = epoch + 1, 0
                    order = self._order(epoch)
                draws.append((epoch, int(order[position])))
                position += 1
            part, parts = self.share
            yield draws[part::parts]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = default_rng([self.seed, epoch])
        return rng.permutation(self.count) if self.groups is None else spread_order(self.groups, rng)


class Groups(NamedTuple):
    """What `spread_order` needs to know of the pairs.

    Attributes
    ----------
    scene, shard : (N,) int array
        Numbers of each pair's scene and shard.
    shards_at_once : int
        Shards that the order draws from at a time; 0 for all.
    """

    scene: NDArray[np.int64]
    shard: NDArray[np.int64]
    shards_at_once: int

    @classmethod
    def of(cls, dataset: Dataset, shards_at_once: int) -> Groups:
        """Groups of a dataset's pairs."""
        counts = [shard.count for shard in dataset.shards]
        scenes = np.unique([shard.scene for shard in dataset.shards], return_inverse=True)[1]
        return cls(np.repeat(scenes, counts), np.repeat(np.arange(len(counts)), counts), shards_at_once)


def spread_order(groups: Groups, rng: Generator) -> NDArray[np.int64]:
    """Permutation of all pairs in which neighbours seldom share a scene, and few shards are read at a time.

    Shards are drawn into groups of `shards_at_once`. Within a group the pairs of each scene are shuffled and laid
    out evenly, with a random offset for each: pair k of n of a scene comes at (k + u) / n of the way.
    """
    shards = rng.permutation(int(groups.shard.max(initial=-1)) + 1)
    size = groups.shards_at_once or max(1, len(shards))
    order = []
    for first in range(0, len(shards), size):
        pairs = rng.permutation(np.flatnonzero(np.isin(groups.shard, shards[first : first + size])))
        place = np.empty(len(pairs))
        scenes = groups.scene[pairs]
        for scene in np.unique(scenes):
            mine = np.flatnonzero(scenes == scene)
            place[mine] = (np.arange(len(mine)) + rng.random(len(mine))) / len(mine)
        order.append(pairs[np.argsort(place, kind="stable")])
    return np.concatenate(order) if order else np.empty(0, np.int64)


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


def to_item(sample: Sample, blur: NDArray[Any], sharp: NDArray[Any], mask: NDArray[np.uint8]) -> Item:
    """Turn uint8 or uint16 images and a mask into tensors."""
    return {
        "blur": to_tensor(blur),
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
