"""Several datasets to train on: what is opened, refused, and how their pairs are numbered."""

from fractions import Fraction

import numpy as np
import pytest

from relo.errors import TrainingError
from relo.training.recipe import Source
from relo.training.sources import combine, describe, open_sources, training_split

from .conftest import write_dataset


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory):
    """Two train scenes of larger frames with 16 bits, one named like one of the first dataset, and a test scene."""
    scenes = {"attic": "train", "street": "train", "yard": "test"}
    root = tmp_path_factory.mktemp("other") / "shards"
    return write_dataset(root, scenes, pairs=2, size=(40, 50), dtype=np.uint16)


def test_pairs_are_numbered_one_source_after_the_other(dataset_dir, other_dir):
    first = training_split(dataset_dir)
    sources = [
        Source(path=str(other_dir), share=0.25, masks="ones"),
        Source(path=str(dataset_dir / "yard.h5"), share=0.5),
    ]
    with pytest.raises(TrainingError, match="no split 'train'"):
        open_sources(sources, first)
    others = open_sources(sources[:1], first)
    assert [other.scenes for other in others] == [["attic", "street"]], "the train split alone"
    pairs = combine(first, others, sources[:1])
    assert len(pairs.dataset) == 9 + 4 and pairs.all_blurred == {9, 10, 11, 12}
    names = [(sample.scene, sample.id, sample.size) for sample in pairs.dataset]
    assert names[8:11] == [("cellar", "0002", (30, 41)), ("attic", "0000", (40, 50)), ("attic", "0001", (40, 50))]
    assert pairs.mixture.counts == (9, 4)
    assert sum(pairs.mixture.place(draw).source for draw in range(400)) == 100


def test_without_further_sources_the_dataset_is_itself(dataset_dir):
    first = training_split(dataset_dir)
    pairs = combine(first, open_sources([], first), [])
    assert pairs.dataset is first and pairs.all_blurred == frozenset()


def test_mistakes_name_the_dataset(dataset_dir, other_dir, tmp_path):
    first = training_split(dataset_dir)
    missing = Source(path=str(tmp_path / "gopro"), share=0.5)
    with pytest.raises(
        TrainingError, match=r"gopro: does not exist, but .*sources=\[\{path: FOLDER, share: 0.5\}\]"
    ):
        open_sources([missing], first)
    itself = [Source(path=str(dataset_dir), share=0.5)]
    with pytest.raises(TrainingError, match="shards: is trained on already"):
        open_sources(itself, first)
    twice = [Source(path=str(path), share=0.25) for path in (other_dir, other_dir / "street.h5")]
    with pytest.raises(TrainingError, match=r"street\.h5: is trained on already"):
        open_sources(twice, first)


def test_a_dataset_is_described_by_its_content(dataset_dir):
    told = describe(training_split(dataset_dir))
    assert told["mask_versions"] == [1] and set(told["shards"]) == {"attic.h5", "barn.h5", "cellar.h5"}
    alone = describe(training_split(dataset_dir / "barn.h5"))
    assert alone["shards"] == {"barn.h5": told["shards"]["barn.h5"]}


def test_shares_are_exact():
    assert Source(path="a", share=0.1).exact_share == Fraction(1, 10)
    assert Source(path="a", share=1e-7).exact_share == Fraction(1, 10**7)
