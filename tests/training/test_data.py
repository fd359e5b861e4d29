"""Patches by (seed, epoch, index); endless batches; scenes held out."""

import pickle
from itertools import islice

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from relo.errors import ReloError, TrainingError
from relo.shards import ShardWriter, open_dataset
from relo.shards.reader import close_files
from relo.training.blurred import BlurredPixels
from relo.training.data import (
    EndlessBatches,
    Groups,
    Patches,
    WholeImages,
    hold_out_scenes,
    spread_order,
    to_float,
    to_tensor,
)
from relo.training.sampling import Box

from .conftest import write_dataset


def equal(a, b):
    return a["name"] == b["name"] and all(torch.equal(a[key], b[key]) for key in ("blur", "sharp", "mask"))


def test_a_patch_is_a_cut_of_its_images(dataset_dir, tiny_recipe):
    patches = Patches(open_dataset(dataset_dir), tiny_recipe("hflip=0", "vflip=0"))
    item, sample = patches[(0, 4)], patches.dataset[4]
    assert {item[key].dtype for key in ("blur", "sharp", "mask")} == {torch.uint8}
    item = to_float(item)
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


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
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


def groups(scenes, shards, at_once=0):
    return Groups(np.array(scenes), np.array(shards), at_once)


@pytest.mark.parametrize("at_once", [0, 1, 2, 5])
def test_the_spread_order_is_a_permutation_by_seed_and_epoch(at_once):
    found = groups([0, 0, 0, 1, 1, 2], [0, 0, 1, 2, 2, 3], at_once)
    draws = [draw for batch in islice(EndlessBatches(6, 2, 3, groups=found), 9) for draw in batch]
    for epoch in range(3):
        assert sorted(index for e, index in draws if e == epoch) == list(range(6))
    again = [draw for batch in islice(EndlessBatches(6, 2, 3, groups=found), 9) for draw in batch]
    resumed = [draw for batch in islice(EndlessBatches(6, 2, 3, start=4, groups=found), 5) for draw in batch]
    assert draws == again
    assert resumed == draws[8:]


def test_neighbours_seldom_share_a_scene():
    scene = np.repeat(np.arange(10), 20)
    found = groups(scene, scene)
    spread = [scene[spread_order(found, np.random.default_rng(k))] for k in range(20)]
    for order in spread:
        tenths = order.reshape(10, 20)
        assert all(len(set(tenth)) == 10 for tenth in tenths), "every scene is seen in every tenth of the epoch"
    assert len({tuple(order) for order in spread}) == 20


def test_few_shards_are_read_at_a_time():
    shard = np.repeat(np.arange(12), 7)
    order = shard[spread_order(groups(shard // 3, shard, 3), np.random.default_rng(0))]
    assert all(len(set(part)) == 3 for part in order.reshape(4, 21))


def test_groups_of_a_dataset(dataset_dir):
    found = Groups.of(open_dataset(dataset_dir), 0)
    assert found.scene.tolist() == found.shard.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), dense=st.sampled_from([0.0, 0.0005, 0.3, 1.0]))
def test_blurred_pixels_are_picked_from_all_of_them(tmp_path_factory, seed, dense):
    rng = np.random.default_rng(seed)
    size = tuple(int(n) for n in rng.integers(1, 400, 2))
    mask = (rng.random(size) < dense).astype(np.uint8) * 255
    path = tmp_path_factory.mktemp("m") / "a-000.h5"
    image = np.zeros((*size, 3), np.uint8)
    with ShardWriter(path, size=size, scene="a", split="train") as writer:
        writer.append("0000", blur=image, sharp=image, mask=mask)
    sample = open_dataset(path)[0]
    top, left = (int(rng.integers(0, n)) for n in size)
    area = Box(top, left, *(int(rng.integers(1, n - at + 1)) for n, at in zip(size, (top, left), strict=True)))
    inside = mask[top : top + area.height, left : left + area.width]
    expected = {(int(y) + top, int(x) + left) for y, x in np.argwhere(inside)}
    blurred = BlurredPixels()
    if not expected:
        assert blurred.pick(sample, area, 0.5) is None
        return
    count = min(len(expected), 300)
    picked = [blurred.pick(sample, area, (k + 0.5) / len(expected)) for k in range(count)]
    assert len(set(picked)) == count and set(picked) <= expected
    assert blurred.pick(sample, area, 1 - 1e-12) in expected


def test_only_the_tiles_that_a_patch_touches_are_decoded(tmp_path, tiny_recipe):
    root = write_dataset(tmp_path / "d", {"a": "train"}, pairs=1, size=(300, 500))
    recipe = tiny_recipe("bapc=0")
    whole = {epoch: Patches(open_dataset(root), recipe)[(epoch, 0)] for epoch in range(30)}
    y, x = zip(*(find(item, open_dataset(root)[0]) for item in whole.values()), strict=True)
    near = [epoch for epoch in whole if y[epoch] + 16 <= 128 and x[epoch] + 16 <= 128]
    far = [epoch for epoch in whole if y[epoch] >= 128 or x[epoch] >= 128]
    close_files()
    with h5py.File(root / "a.h5", "r+") as file:
        for name in ("blur", "sharp"):
            for offset in ((0, 0, 128), (0, 128, 0), (0, 128, 128), (0, 0, 256), (0, 0, 384), (0, 128, 256),
                           (0, 128, 384), (0, 256, 0), (0, 256, 128), (0, 256, 256), (0, 256, 384)):  # fmt: skip
                file[name].id.write_direct_chunk((*offset, 0), b"damaged")
    patches = Patches(open_dataset(root / "a.h5"), recipe)
    assert near and far
    for epoch in near:
        assert equal(patches[(epoch, 0)], whole[epoch])
    for epoch in far:
        with pytest.raises(ReloError, match=r"a\.h5"):
            patches[(epoch, 0)]


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
    patch, whole = to_float(item)["blur"], to_tensor(sample.blur)
    height, width = whole.shape[1] - 15, whole.shape[2] - 15
    for dims in ([], [1], [2], [1, 2]):
        window = patch.flip(dims)
        ends = ((0, 0), (15, 15), (0, 15))  # compared first: few places share three pixels
        like = [whole[:, y : y + height, x : x + width] == window[:, y, x, None, None] for y, x in ends]
        for y, x in torch.stack(like).all(dim=0).all(dim=0).nonzero().tolist():
            if torch.equal(whole[:, y : y + 16, x : x + 16], window):
                return y, x
    raise AssertionError("the patch is not a part of the image")


def test_the_published_form_is_taken_from_the_recipe(tmp_path, tiny_recipe):
    """Blur at the border of the valid area is no centre; blur within is, and its patches are not moved."""
    valid = np.zeros((30, 41), np.uint8)
    valid[2:28, 3:39] = 255

    def draw(rng, size, dtype, blurred):
        blur = rng.integers(0, 255, (*size, 3)).astype(dtype)
        mask = np.zeros(size, np.uint8)
        mask[2:5, 3:39] = mask[14, 20] = mask[19, 30] = mask[20, 31] = 255
        return blur, blur, mask

    dataset = open_dataset(write_dataset(tmp_path / "d", {"a": "train"}, pairs=1, valid=valid, draw=draw))
    patches = Patches(dataset, tiny_recipe("bapc=1", "bapc_form=published", "crop=16"))
    corners = {find(patches[(epoch, 0)], dataset[0]) for epoch in range(60)}
    assert corners == {(14 - 8, 20 - 8), (19 - 8, 30 - 8)}
    clean = Patches(dataset, tiny_recipe("bapc=1", "crop=16"))
    assert len({find(clean[(epoch, 0)], dataset[0]) for epoch in range(60)}) > 5


@pytest.mark.parametrize("processes", [1, 2, 3, 6])
def test_processes_share_out_the_same_batches(processes):
    whole = list(islice(EndlessBatches(7, 6, seed=0), 9))
    shares = [
        list(islice(EndlessBatches(7, 6, seed=0, start=2, share=(rank, processes)), 7)) for rank in range(processes)
    ]
    for step, batch in enumerate(whole[2:]):
        assert {len(share[step]) for share in shares} == {6 // processes}
        assert sorted(draw for share in shares for draw in share[step]) == sorted(batch)


def test_too_large_patches_are_explained(dataset_dir, tiny_recipe):
    with pytest.raises(TrainingError, match=r"attic.h5: patches of 64 px do not fit .* crop=28"):
        Patches(open_dataset(dataset_dir), tiny_recipe("crop=64"))


def test_sixteen_bits_reach_the_tensor(tmp_path, tiny_recipe):
    dataset = open_dataset(write_dataset(tmp_path / "d", {"a": "train"}, dtype=np.uint16))
    item = WholeImages(dataset, 1)[0]
    np.testing.assert_array_equal(
        np.rint(item["sharp"].double().numpy() * 65535).astype(np.uint16).transpose(1, 2, 0), dataset[0].sharp
    )


def test_patches_of_sixteen_bits_are_floats(tmp_path, tiny_recipe):
    dataset = open_dataset(write_dataset(tmp_path / "d", {"a": "train"}, dtype=np.uint16))
    item = Patches(dataset, tiny_recipe())[(0, 0)]
    assert item["blur"].dtype == torch.float32 and torch.equal(to_float(item)["blur"], item["blur"])
    find(item, dataset[0])


def test_validation_images_are_spread_evenly(dataset_dir):
    dataset = open_dataset(dataset_dir)
    assert list(WholeImages(dataset, 99).indices) == list(range(12))
    assert list(WholeImages(dataset, 3).indices) == [0, 6, 11]
    for count in range(1, 13):
        assert len(WholeImages(dataset, count)) == count
