"""The order of an epoch: a permutation of all pairs, at random or one that spreads scenes and spares the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

if TYPE_CHECKING:
    from relo.shards import Dataset


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

    def part(self, first: int, count: int) -> Groups:
        """Groups of `count` pairs from pair `first` on, which share no shard with others."""
        shard = self.shard[first : first + count]
        return Groups(self.scene[first : first + count], shard - shard[:1], self.shards_at_once)


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
