"""Patches by (seed, epoch, index); endless batches; scenes held out."""

import pickle
from fractions import Fraction
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
from relo.shards.reader import Dataset, close_files
from relo.training.blurred import BlurredPixels
from relo.training.data import (
    EndlessBatches,
    Patches,
    WholeImages,
    hold_out_scenes,
    to_float,
    to_tensor,
)
from relo.training.mixture import Mixture
from relo.training.order import Groups, spread_order
from relo.training.recipe import PatchStage
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


SHORT = ("model={name: nafnet, options: {in_channels: 6, width: 4}}", "hflip=0.5", "rotate=0.5")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_short_exposure_lies_behind_the_blurred_image(tmp_path, tiny_recipe, dtype):
    dataset = open_dataset(write_dataset(tmp_path / "shards", {"a": "train"}, dtype=dtype, short=True))
    with_short, without = Patches(dataset, tiny_recipe(*SHORT)), Patches(dataset, tiny_recipe(*SHORT[1:]))
    levels = np.iinfo(dtype).max
    for draw in range(6):
        item, plain = to_float(with_short[(0, draw % 3)]), to_float(without[(0, draw % 3)])
        assert item["blur"].shape == (6, 16, 16)
        assert equal({**item, "blur": item["blur"][:3]}, plain), "the same patch, mirrored and turned the same"
        assert torch.equal(item["blur"][3:], (item["sharp"] * levels).round().div(2).floor() / levels)
    whole = WholeImages(dataset, 3, short=True)[0]["blur"]
    assert torch.equal(whole, torch.cat([to_tensor(dataset[0].blur), to_tensor(dataset[0].short)]))


def test_missing_short_exposures_are_one_line(dataset_dir, tiny_recipe):
    dataset = open_dataset(dataset_dir)
    with pytest.raises(TrainingError, match=r"has no short exposures.*relo short SRC OUT"):
        Patches(dataset, tiny_recipe(*SHORT))
    with pytest.raises(TrainingError, match="has no short exposures"):
        WholeImages(dataset, 3, short=True)


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
        assert sorted(index for e, index, _ in draws if e == epoch) == list(range(5))
    assert [draw.epoch for draw in draws] == sorted(draw.epoch for draw in draws)
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
        assert sorted(index for e, index, _ in draws if e == epoch) == list(range(6))
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


STAGES = (PatchStage(steps=3, crop=24, batch=6), PatchStage(steps=2, crop=20, batch=3))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 9])
@pytest.mark.parametrize("at_once", [None, 2])
def test_stages_and_sources_go_on_where_they_stopped(start, at_once):
    """With both orders, and with the first source drawn twice as often as the second."""
    mixture = Mixture([5, 4], [Fraction(1, 3)])
    found = None if at_once is None else groups([0, 0, 1, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 2, 3, 3, 4, 4], at_once)

    def batches(**where):
        return EndlessBatches(mixture, 2, 7, groups=found, progressive=STAGES, **where)

    whole = list(islice(batches(), 30))
    assert [len(batch) for batch in whole] == [6] * 3 + [3] * 2 + [2] * 25
    assert [batch[0].crop for batch in whole] == [24] * 3 + [20] * 2 + [0] * 25
    assert list(islice(batches(start=start), 12)) == whole[start : start + 12]
    draws = [draw for batch in whole for draw in batch]
    assert [draw.pair > 4 for draw in draws] == [number % 3 == 2 for number in range(len(draws))]
    for pairs in (range(5), range(5, 9)):
        mine = [draw for draw in draws if draw.pair in pairs]
        for epoch in range(len(mine) // len(pairs)):
            assert sorted(draw.pair for draw in mine if draw.epoch == epoch) == list(pairs)


def test_the_first_source_is_drawn_in_the_order_it_has_alone():
    alone = [draw for batch in islice(EndlessBatches(5, 2, 7), 20) for draw in batch]
    mixed = [
        draw for batch in islice(EndlessBatches(Mixture([5, 4], [Fraction(1, 2)]), 2, 7), 40) for draw in batch
    ]
    assert [draw for draw in mixed if draw.pair < 5] == alone


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_out_stages_and_sources(processes):
    mixture, stages = Mixture([5, 4], [Fraction(1, 2)]), (PatchStage(steps=2, crop=8, batch=12),)
    whole = list(islice(EndlessBatches(mixture, 6, 0, progressive=stages), 6))
    shares = [
        list(islice(EndlessBatches(mixture, 6, 0, share=(rank, processes), progressive=stages), 6))
        for rank in range(processes)
    ]
    for step, batch in enumerate(whole):
        assert {len(share[step]) for share in shares} == {len(batch) // processes}
        assert sorted(draw for share in shares for draw in share[step]) == sorted(batch)


def test_the_groups_of_a_part_are_those_of_its_dataset_alone(dataset_dir):
    dataset = open_dataset(dataset_dir)
    part = Groups.of(dataset, 2).part(3, 6)
    alone = Groups.of(dataset.select(scenes=["barn", "cellar"]), 2)
    assert part.shard.tolist() == alone.shard.tolist() and part.shards_at_once == 2
    assert (part.scene - part.scene.min()).tolist() == alone.scene.tolist()


def test_a_draw_may_ask_for_another_crop(dataset_dir, tiny_recipe):
    patches = Patches(open_dataset(dataset_dir), tiny_recipe())
    assert patches[(0, 1, 20)]["blur"].shape == (3, 20, 20)
    assert equal(patches[(0, 1, 16)], patches[(0, 1)])


def test_the_largest_patch_of_all_stages_must_fit(dataset_dir, tiny_recipe):
    staged = tiny_recipe("progressive=[{steps: 1, crop: 32, batch: 2}]")
    with pytest.raises(
        TrainingError, match=r"attic.h5: patches of 32 px .* crop=28 or less and .*progressive=\[\]"
    ):
        Patches(open_dataset(dataset_dir), staged)


def test_turning_is_drawn_last(dataset_dir, tiny_recipe):
    """So that patches of recipes without it are what they were."""
    plain, turned = (Patches(open_dataset(dataset_dir), tiny_recipe(f"rotate={p}")) for p in (0, 1))
    for index in range(4):
        one, other = plain[(0, index)], turned[(0, index)]
        for name in ("blur", "sharp", "mask"):
            assert torch.equal(torch.rot90(one[name], 1, (1, 2)), other[name])


def test_pairs_may_be_taken_for_blurred_everywhere(dataset_dir, tiny_recipe):
    dataset, recipe = open_dataset(dataset_dir), tiny_recipe("bapc=1", "hflip=0", "vflip=0")
    stored, ones = Patches(dataset, recipe), Patches(dataset, recipe, all_blurred={1, 2})
    assert equal(stored[(0, 0)], ones[(0, 0)])
    assert (ones[(0, 1)]["mask"] == 255).all() and not (stored[(0, 1)]["mask"] == 255).all()
    corners = {find(ones[(epoch, 1)], dataset[1]) for epoch in range(40)}
    assert {0, 14} <= {y for y, _ in corners} and {0, 25} <= {x for _, x in corners}, (
        "also far from the stored mask"
    )


def test_frames_of_eight_and_sixteen_bits_and_of_any_size_make_a_batch(tmp_path, tiny_recipe):
    parts = [
        open_dataset(write_dataset(tmp_path / str(bits), {"a": "train"}, dtype=dtype, size=size))
        for bits, dtype, size in ((8, np.uint8, (30, 41)), (16, np.uint16, (50, 33)))
    ]
    both = Dataset(parts[0].root, [*parts[0].shards, *parts[1].shards], "both")
    patches = Patches(both, tiny_recipe())
    batch = next(iter(DataLoader(patches, batch_sampler=[[(0, 0), (0, 3)]])))
    assert batch["blur"].dtype == batch["mask"].dtype == torch.float32
    assert batch["blur"].shape == (2, 3, 16, 16) and 0.5 < batch["blur"].max() <= 1
    assert torch.equal(batch["blur"][0], to_float(Patches(parts[0], tiny_recipe())[(0, 0)])["blur"])
    find({name: batch[name][1] for name in ("blur", "sharp", "mask")}, both[3])


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
