"""Restoring only what is blurred beside restoring everything: time and difference.

    python benchmarks/regions.py [--models lbag nafnet m2aenet] [--size 1436x2152] [--share 0.05] [--threads 1]

The image is noise with one round blurred area. Weights are fresh ones: how far the two results are apart depends on
the weights, so the difference here only shows which networks have one. Times are of one call each. Where a network
can find the blur itself, what that takes is measured too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from relo.models import create_model
from relo.parallel import reuse_freed_memory
from relo.training.inference.blur_masks import predict_mask, predicts_masks
from relo.training.inference.region_inference import compare, restore_regions
from relo.training.inference.whole_image import restore


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = function()
    return time.perf_counter() - begun, result


def disc(height: int, width: int, share: float) -> Tensor:
    """(H, W) bool mask with one disc of `share` of the area, off the middle."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = (y - 0.45 * height) ** 2 + (x - 0.6 * width) ** 2
    return distance <= distance.flatten().float().kthvalue(round(share * height * width)).values


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(name).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith((".beta", ".gamma")):
                parameter.fill_(0.1)  # fresh ones are 0: nothing would depend on anything
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["lbag", "nafnet", "m2aenet"])
    parser.add_argument("--size", default="1436x2152")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reuse_freed_memory()
    height, width = map(int, options.size.split("x"))
    blur, mask = torch.rand(1, 3, height, width), disc(height, width, options.share)
    print(f"{height}x{width}, {options.share:.1%} blurred, {options.threads} threads")
    for name in options.models:
        model = network(name)
        restore(model, blur[..., :256, :256], tile=0)  # what is prepared only once
        whole, _ = timed(lambda model=model: restore(model, blur, tile=0))
        given, regional = timed(lambda model=model: restore_regions(model, blur, mask, tile=0))
        line = f"{name:10} whole {whole:.1f} s; mask given {given / whole:.3f}x, computed {regional.computed:.1%}"
        if predicts_masks(model):
            finding, _ = timed(lambda model=model: predict_mask(model, blur, tile=0))
            line += f"; mask found {finding / whole:.3f}x, together {(finding + given) / whole:.3f}x"
        difference = compare(model, blur, regional, tile=0).blurred
        assert difference is not None
        print(f"{line}; in the blur at most {difference.maximum:.2f} of 255, {difference.psnr:.1f} dB", flush=True)


if __name__ == "__main__":
    main()
