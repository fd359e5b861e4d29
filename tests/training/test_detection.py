"""The detector's loss on a batch, and the counts of patches told right."""

import math

import pytest
import torch

from relo.models.exprdiff.detector import BlurDetection, BlurDetector
from relo.training.detection import PatchCounts, count_patches, detection_loss, sum_of_counts, with_sharp_frames


def test_patches_are_counted_by_what_they_are_and_were_taken_for():
    detector = BlurDetector(patch=10, width=8, blurred_from=0.1)
    mask = torch.zeros(1, 1, 20, 35)
    mask[..., :10, :2] = 1  # 20 % of patch (0, 0)
    mask[..., :10, 10] = 1  # 10 % of patch (0, 1): not more than a tenth
    mask[..., 10:, 30:34] = 1  # 80 % of what patch (1, 3) has
    guess = torch.tensor([[1.0, 1, 0, 0], [0, 0, -1, -1]])
    scores = torch.stack([torch.zeros(2, 4), guess])[None]
    counts = count_patches(detector, BlurDetection(scores, mask), mask)
    assert counts == PatchCounts(patches=8, blurred=2, found=2, both=1)
    assert counts.quality == {"accuracy": 6 / 8, "majority": 6 / 8, "precision": 1 / 2, "recall": 1 / 2}


def test_the_majority_may_be_blurred_and_shares_of_nothing_are_nan():
    quality = PatchCounts(patches=10, blurred=7, found=0, both=0).quality
    assert (quality["accuracy"], quality["majority"], quality["recall"]) == (0.3, 0.7, 0)
    assert math.isnan(quality["precision"])
    total = sum_of_counts([PatchCounts(10, 7, 0, 0), PatchCounts(6, 0, 3, 0)])
    assert total == PatchCounts(16, 7, 3, 0)
    assert total.quality["accuracy"] == 6 / 16


@pytest.mark.parametrize(
    ("options", "label"), [({}, 1.0), ({"blurred_from": 0.5}, 0.0), ({"soft_labels": True}, 0.4)]
)
def test_the_loss_follows_the_label_that_the_network_asks_for(options, label):
    detector = BlurDetector(patch=10, width=8, **options)
    mask = torch.zeros(1, 1, 10, 10)
    mask[..., :4] = 1
    odds = torch.tensor(1.7)
    found = BlurDetection(torch.stack([torch.zeros(()), odds]).view(1, 2, 1, 1), mask)
    terms = detection_loss(detector, found, mask)
    probability = torch.sigmoid(odds)
    expected = -(label * probability.log() + (1 - label) * (1 - probability).log())
    assert terms["total"].item() == terms["patch_ce"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_sharp_frames_follow_as_images_without_blur():
    blur, sharp, mask = torch.rand(2, 3, 4, 6), torch.rand(2, 3, 4, 6), torch.ones(2, 1, 4, 6)
    both = with_sharp_frames({"blur": blur, "sharp": sharp, "mask": mask, "name": ["a/0", "a/1"]})
    assert torch.equal(both["blur"], torch.cat([blur, sharp]))
    assert torch.equal(both["mask"], torch.cat([mask, 0 * mask]))
    assert both["sharp"].shape == both["blur"].shape and both["name"] == ["a/0", "a/1"]
