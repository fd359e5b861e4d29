"""Patches by (seed, epoch, index); endless batches; scenes held out."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from relo.errors import TrainingError
from relo.shards import open_dataset
from relo.training.data import EndlessBatches, Patches, WholeImages, hold_out_scenes, to_tensor

from .conftest import write_dataset


def equal(a, b):
    return a["name"] == b["name"] and all(torch.equal(a[key], b[key]) for key in ("blur", "sharp", "mask"))


def test_a_patch_is_a_cut_of_its_images(dataset_dir, tiny_recipe):
    patches = Patches(open_dataset(dataset_dir), tiny_recipe("hflip=0", "vflip=0"))
    item, sample = patches[(0, 4)], patches.dataset[4]
    assert item["name"] == f"{sample.scene}/{sample.id}"
    assert item["blur"].shape == item["sharp"].shape == (3, 16, 16)
    assert item["mask"].shape == (1, 16, 16)
    assert {item[key].dtype for key in ("blur", "sharp", "mask")} == {torch.float32}
    whole = {name: to_tensor(getattr(sample, name)) for name in ("blur", "sharp")}
    whole["mask"] = torch.from_numpy((sample.mask > 0).astype(np.float32))[None]
    places = [
        (y, x)
        for y in range(30 - 15)
        for x in range(41 - 15)
        if all(torch.equal(whole[name][:, y : y + 16, x : x + 16], item[name]) for name in whole)
    ]
    assert len(places) == 1


def test_a_patch_depends_on_seed_epoch_and_index_only(dataset_dir, tiny_recipe):
    first, second = (Patches(open_dataset(dataset_dir), tiny_recipe("seed=1")) for _ in range(2))
    second[(3, 0)], second[(0, 1)]  # other draws in between change nothing
    assert equal(first[(0, 2)], second[(0, 2)])
    other_epoch = [not equal(first[(0, k)], first[(1, k)]) for k in range(6)]
    other_seed = Patches(open_dataset(dataset_dir), tiny_recipe("seed=2"))
    assert sum(other_epoch) >= 5
    assert sum(not equal(first[(0, k)], other_seed[(0, k)]) for k in range(6)) >= 5


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_change_nothing(method, dataset_dir, tiny_recipe):
    patches = Patches(open_dataset(dataset_dir), tiny_recipe())
    patches[(0, 0)]  # the parent holds the files open
    batches = EndlessBatches(len(patches), 2, seed=0)
    alone = list(islice(DataLoader(patches, batch_sampler=batches), 4))
    loader = DataLoader(patches, batch_sampler=batches, num_workers=2, multiprocessing_context=method)
    together = list(islice(loader, 4))
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


def test_datasets_can_be_pickled(dataset_dir, tiny_recipe):
    patches = Patches(open_dataset(dataset_dir), tiny_recipe())
    patches[(0, 0)]
    assert equal(pickle.loads(pickle.dumps(patches))[(0, 1)], patches[(0, 1)])


def test_every_epoch_is_a_permutation_and_resuming_goes_on():
    draws = [draw for batch in islice(EndlessBatches(5, 3, seed=0), 10) for draw in batch]
    for epoch in range(6):
        assert sorted(index for e, index in draws if e == epoch) == list(range(5))
    assert [e for e, _ in draws] == sorted(e for e, _ in draws)
    assert [draw[1] for draw in draws[:5]] != [draw[1] for draw in draws[5:10]]
    whole = list(islice(EndlessBatches(5, 3, seed=0), 10))
    for start in (1, 5, 7):
        assert list(islice(EndlessBatches(5, 3, seed=0, start=start), 3)) == whole[start : start + 3]


def test_held_out_scenes_are_whole_and_disjoint(dataset_dir):
    train = open_dataset(dataset_dir, split="train")
    part, held_out = hold_out_scenes(train, 0.1, seed=0)
    assert len(held_out.scenes) == 1
    assert sorted(part.scenes + held_out.scenes) == train.scenes
    assert len({hold_out_scenes(train, 0.1, seed=seed)[1].scenes[0] for seed in range(20)}) == 3
    assert len(hold_out_scenes(train, 0.99, seed=0)[0].scenes) == 1
    assert hold_out_scenes(train, 0.0, seed=0)[1] is None
    assert hold_out_scenes(train.select(scenes=["barn"]), 0.5, seed=0)[1] is None


def test_patches_stay_within_the_valid_area(tmp_path, tiny_recipe):
    valid = np.zeros((30, 41), np.uint8)
    valid[5:28, 8:33] = 255
    dataset = open_dataset(write_dataset(tmp_path / "d", {"a": "train"}, valid=valid))
    patches = Patches(dataset, tiny_recipe("bapc=0.5"))
    corners = set()
    for epoch in range(60):
        y, x = find(patches[(epoch, 0)], dataset[0])
        corners.add((y, x))
        assert 5 <= y <= 28 - 16
        assert 8 <= x <= 33 - 16
    assert len(corners) > 10
    image = WholeImages(dataset, 5)[0]
    assert torch.equal(image["blur"], to_tensor(dataset[0].blur[5:28, 8:33]))


def find(item, sample):
    whole = to_tensor(sample.blur)
    for y in range(whole.shape[1] - 15):
        for x in range(whole.shape[2] - 15):
            window = whole[:, y : y + 16, x : x + 16]
            for dims in ([], [1], [2], [1, 2]):
                if torch.equal(window.flip(dims), item["blur"]):
                    return y, x
    raise AssertionError("the patch is not a part of the image")


def test_too_large_patches_are_explained(dataset_dir, tiny_recipe):
    with pytest.raises(TrainingError, match=r"attic.h5: patches of 64 px do not fit .* crop=28"):
        Patches(open_dataset(dataset_dir), tiny_recipe("crop=64"))


def test_sixteen_bits_reach_the_tensor(tmp_path, tiny_recipe):
    dataset = open_dataset(write_dataset(tmp_path / "d", {"a": "train"}, dtype=np.uint16))
    item = WholeImages(dataset, 1)[0]
    np.testing.assert_array_equal(
        np.rint(item["sharp"].double().numpy() * 65535).astype(np.uint16).transpose(1, 2, 0), dataset[0].sharp
    )


def test_validation_images_are_spread_evenly(dataset_dir):
    dataset = open_dataset(dataset_dir)
    assert list(WholeImages(dataset, 99).indices) == list(range(12))
    assert list(WholeImages(dataset, 3).indices) == [0, 6, 11]
    for count in range(1, 13):
        assert len(WholeImages(dataset, count)) == count
