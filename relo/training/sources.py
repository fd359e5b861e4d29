"""What a run is trained on: the train split of one dataset, and of further ones in fixed shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from relo.atomic import file_sha256
from relo.errors import TrainingError
from relo.shards import Dataset, open_dataset
from relo.shards.reader import read_index
from relo.shards.schema import DATASET_FILE
from relo.training.data import hold_out_scenes
from relo.training.mixture import Mixture
from relo.training.recipe import Recipe, Source


@dataclass(frozen=True)
class TrainingPairs:
    """The pairs of all sources, one source after the other.

    Attributes
    ----------
    dataset : relo.shards.Dataset
    mixture : Mixture
    all_blurred : frozenset of int
        Numbers of the pairs that are taken for blurred everywhere.
    """

    dataset: Dataset
    mixture: Mixture
    all_blurred: frozenset[int]


@dataclass(frozen=True)
class TrainingData:
    """What a run draws from.

    Attributes
    ----------
    dataset : relo.shards.Dataset
        The train split that the run was given.
    trained_on, held_out : relo.shards.Dataset
        Its scenes that are trained on, and those that validate; None where nothing can be held out.
    others : tuple of (Source, relo.shards.Dataset)
        Further sources, and their train splits.
    pairs : TrainingPairs
        Of `trained_on` and the others.
    """

    dataset: Dataset
    trained_on: Dataset
    held_out: Dataset | None
    others: tuple[tuple[Source, Dataset], ...]
    pairs: TrainingPairs


def open_training_data(recipe: Recipe, src: str | Path) -> TrainingData:
    """Open the train split of `src` and of the recipe's sources, and hold out what validates.

    Raises
    ------
    ShardError, TrainingError
        As `training_split` and `open_sources` do.
    """
    dataset = training_split(src)
    others = open_sources(recipe.sources, dataset)
    trained_on, held_out = hold_out_scenes(dataset, recipe.val_fraction, recipe.seed)
    pairs = combine(trained_on, others, recipe.sources)
    return TrainingData(dataset, trained_on, held_out, tuple(zip(recipe.sources, others, strict=True)), pairs)


def training_split(src: str | Path) -> Dataset:
    """Open the train split of a dataset.

    Raises
    ------
    ShardError
        It is no dataset.
    TrainingError
        It has no train split.
    """
    dataset = open_dataset(src)
    train_split = dataset.select(split="train")
    if len(train_split) == 0:
        splits = ", ".join(dataset.splits) or "none"
        raise TrainingError(f"has no pairs to train on: no split 'train' (splits: {splits})", file=src)
    return train_split


def scored_split(src: str | Path, split: str) -> tuple[Dataset, str]:
    """Open the split of a dataset that is to be scored.

    Returns
    -------
    (Dataset, str)
        What was opened, and its name: a dataset without a split "test" is taken as a whole, as "all".

    Raises
    ------
    ShardError
        It is no dataset, or has no other split of that name.
    """
    dataset = open_dataset(src)
    if split == "test" and "test" not in dataset.splits:
        return dataset, "all"
    return open_dataset(src, split=split), split


def open_sources(sources: Sequence[Source], first: Dataset) -> list[Dataset]:
    """Open the train splits of further datasets.

    Parameters
    ----------
    sources : sequence of Source
    first : relo.shards.Dataset
        What `relo train` is given.

    Raises
    ------
    ShardError, TrainingError
        One is missing or has no train split, or is named twice: with that of `first`, the scenes held out for
        validation would be trained on.
    """
    datasets = [first]
    for source in sources:
        if not Path(source.path).exists():
            raise TrainingError(
                "does not exist, but the recipe draws from it",
                file=source.path,
                advice=f"Give its place: --set 'sources=[{{path: FOLDER, share: {source.share:g}}}]', "
                "or do without: --set sources=[].",
            )
        datasets.append(training_split(source.path))
        paths = [shard.path.resolve() for dataset in datasets for shard in dataset.shards]
        copied = datasets[-1].fingerprint in [dataset.fingerprint for dataset in datasets[:-1]]
        if copied or len(set(paths)) < len(paths):
            raise TrainingError(
                "is trained on already",
                file=source.path,
                advice="Name each dataset once, and not SRC in `sources`.",
            )
    return datasets[1:]


def combine(first: Dataset, others: Sequence[Dataset], sources: Sequence[Source]) -> TrainingPairs:
    """Number the pairs of all sources; `others` are the datasets of `sources`."""
    datasets = [first, *others]
    mixture = Mixture([len(dataset) for dataset in datasets], [source.exact_share for source in sources])
    ones = [
        range(start, start + pairs)
        for source, start, pairs in zip(sources, mixture.firsts[1:], mixture.counts[1:], strict=True)
        if source.masks == "ones"
    ]
    shards = [shard for dataset in datasets for shard in dataset.shards]
    dataset = Dataset(first.root, shards, first.fingerprint) if others else first
    return TrainingPairs(dataset, mixture, frozenset(chain(*ones)))


def describe(dataset: Dataset) -> dict[str, Any]:
    """What run.json tells of a dataset: fingerprint, hashes of the shards, versions of the masks."""
    masks = {shard.attrs.get("mask_version", "unknown") for shard in dataset.shards}
    return {
        "fingerprint": dataset.fingerprint,
        "shards": _shard_hashes(dataset),
        "mask_versions": sorted(masks, key=str),
    }


def _shard_hashes(dataset: Dataset) -> dict[str, str]:
    names = {shard.path.name for shard in dataset.shards}
    if not (dataset.root / DATASET_FILE).is_file():
        return {shard.path.name: file_sha256(shard.path) for shard in dataset.shards}
    entries = read_index(dataset.root)["shards"]
    return {entry["file"]: entry["sha256"] for entry in entries if entry["file"] in names}
