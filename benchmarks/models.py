"""What each network costs: parameters, multiply-adds, time, memory; M2AENet pruned and dense; formulations.

    python benchmarks/models.py [--sections counts table pruning formulation] [--sizes 540x960 1436x2152]

counts       parameters, and multiply-adds by closed form, by torch's counter and by the convention of the papers
table        time and peak memory of one image, each network in a process of its own; the large size takes minutes
pruning      M2AENet at several shares of blurred area: pruned, dense, as trained, and NAFNet; at the largest size
formulation  NAFNet beside a straight (N, C, H, W) form; the compiled deformable convolution beside torch's

Times are the best of --rounds calls, in turn with what they are compared with; what counts is their ratio. Weights
are random: they change neither time nor memory. On a GPU add --device cuda; nothing of it was measured there.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from relo.models import create_model, list_models
from relo.models.m2aenet.deformable import convolve_by_sampling, convolve_compiled, sampling_places
from relo.models.m2aenet.pruning import find_masked
from relo.parallel import reuse_freed_memory

Size = tuple[int, int]
NETWORKS = [name for name in list_models() if name != "exprdiff_detector"]  # which restores nothing
SECTIONS = ("counts", "table", "pruning", "formulation")
SHARES = (0.0, 0.02, 0.05, 0.1175, 0.3, 1.0)  # 11.75 % is the mean of the ReLoBlur test set
# M2AENet paper, table 2 [GMAC], and the size at which they come out: 1436 x 2152 padded to multiples of 32, and
# for two networks a larger one that the paper does not mention.
PAPERS = {
    "mimo_unet_plus": (7850, (1536, 2176)),
    "lbag": (7852, (1536, 2176)),
    "nafnet": (764, (1440, 2176)),
    "restormer": (6741, (1440, 2176)),
}


def nafnet_macs(size: Size, width: int = 32, stages: tuple[int, ...] = (1, 1, 1, 28, 1, 1, 1, 1, 1)) -> float:
    """Of the convolutions of a NAFNet; its blocks from the first encoder stage to the last decoder stage."""
    depth = len(stages) // 2
    pixels = math.prod((-(-side >> depth)) << depth for side in size)
    total = 2 * 27 * width * pixels  # first and last convolution
    for place, blocks in enumerate(stages):
        level = min(place, len(stages) - 1 - place)
        channels, area = width << level, pixels >> (2 * level)
        total += blocks * ((6 * channels**2 + 18 * channels) * area + channels**2)
    for level in range(depth):
        channels, area = width << level, pixels >> (2 * level)
        total += 2 * channels * channels * area  # down: 4 c 2c at a quarter of the area
        total += 2 * channels * 4 * channels * area // 4  # up: 2c to 4c there
    return total


def m2aenet_macs(size: Size, share: float) -> float:
    """NAFNet's, the predictor's and the analyzer's, the nine taps a channel, less what the mask leaves out."""
    area = -(-size[0] // 16) * 2 * -(-size[1] // 16) * 2
    channels = 256
    heads = (2 * channels**2 + channels**2 // 2 + channels**2 // 8 + channels // 2 + 36 * channels) * area
    taps = 28 * 18 * channels * area
    pruned = 28 * (2 * channels**2 + 18 * channels) * area
    return nafnet_macs(size) + heads + taps - pruned * (1 - share)


def counted_macs(model: nn.Module, size: Size) -> float:
    """Half of what torch's counter counts: convolutions and matrix products, without computing anything."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops() / 2


def papers_macs(name: str, size: Size) -> float:
    """What the papers' tool (thop) counts: modules that convolve or pool; no matrix products, no norms.

    A transposed convolution counts with the pixels of its output, four times what it computes. relo's NAFNet
    applies 1x1 convolutions as products and its pooling as a mean; the published modules are counted.
    """
    with torch.device("meta"):
        model = create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.empty(1, 3, *size, device="meta"))
    total = counter.get_flop_counts()["Global"].get(torch.ops.aten.convolution, 0) / 2
    if name == "nafnet":
        total = counter.get_total_flops() / 2
        for place, blocks in enumerate((1, 1, 1, 28, 1, 1, 1, 1, 1)):
            level = min(place, 8 - place)
            total += blocks * (32 << level) * (size[0] * size[1] >> (2 * level))
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            level = 2 if module.in_channels == 128 else 1
            total += 3 * module.weight.numel() * (size[0] * size[1] >> (2 * level))
    return total


def counts(sizes: list[Size]) -> None:
    print(f"{'':16}{'parameters':>12}" + "".join(f"{h}x{w} GMAC".rjust(18) for h, w in sizes) + "  closed form")
    for name in NETWORKS:
        with torch.device("meta"):
            model = create_model(name).eval()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        numbers = "".join(f"{counted_macs(model, size) / 1e9:18.2f}" for size in sizes)
        closed = ""
        if name == "nafnet":
            closed = "  ".join(f"{nafnet_macs(size) / 1e9:.2f}" for size in sizes)
        if name == "m2aenet":
            closed = "  ".join(f"{m2aenet_macs(size, 1.0) / 1e9:.2f}" for size in sizes) + " (with the taps)"
        print(f"{name:16}{parameters:12,}{numbers}  {closed}")
    print("\nas the M2AENet paper counts (thop)")
    for name, (published, size) in PAPERS.items():
        found = papers_macs(name, size) / 1e9
        print(f"{name:16}{size[0]}x{size[1]} {found:10.2f} GMAC, published {published}")


def best(device: str, rounds: int, *functions: Callable[[], Any]) -> list[float]:
    """Shortest time of each function [s], called in turn, so that a noisy minute does not meet one of them alone.

    A first round is not counted.
    """
    times = [math.inf] * len(functions)
    for count in range(rounds + 1):
        for place, function in enumerate(functions):
            begun = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            if count:
                times[place] = min(times[place], time.perf_counter() - begun)
    return times


def one_network(name: str, size: Size, device: str, threads: int) -> dict[str, float]:
    """Time and growth of the resident set of one image, in this process."""
    torch.set_num_threads(threads)
    reuse_freed_memory()
    model = create_model(name).eval().to(device)
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 64, device=device))
        blur = torch.rand(1, 3, *size, device=device)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        model(blur)
        if device != "cpu":
            torch.cuda.synchronize()
        first = time.perf_counter() - begun
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
        if device != "cpu":
            memory = torch.cuda.max_memory_allocated() / 2**30
        seconds = first if first > 30 else min(first, *best(device, 1, lambda: model(blur)))
    return {"seconds": seconds, "gigabytes": memory}


def table(sizes: list[Size], device: str, threads: int, names: list[str]) -> None:
    print(f"\n{device}, {threads} threads" + "".join(f"{f'{h}x{w} [s]':>18}{'[GiB]':>8}" for h, w in sizes))
    for name in names:
        cells = ""
        for size in sizes:
            command = [sys.executable, __file__, "--one", name, "--sizes", f"{size[0]}x{size[1]}"]
            command += ["--device", device, "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == -signal.SIGKILL:  # what systems do to a process that takes all memory
                cells += f"{'killed':>18}{'':8}"
                continue
            if done.returncode != 0:
                sys.exit(f"{' '.join(command)}\nended with {done.returncode}\n{done.stderr}")
            row = json.loads(done.stdout)
            cells += f"{row['seconds']:18.2f}{row['gigabytes']:8.2f}"
        print(f"{name:16}{cells}", flush=True)


def discs(share: float, rows: int, columns: int) -> Tensor:
    """Mask (1, 1, rows, columns) with `share` of 1 in two discs, one twice as large as the other."""
    if share in (0.0, 1.0):
        return torch.full((1, 1, rows, columns), share)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    distances = []
    for row, column, scale in ((0.4, 0.35, 1.0), (0.7, 0.8, 0.5**0.5)):
        distances.append(((y - row * rows) ** 2 + (x - column * columns) ** 2) / scale**2)
    distance = torch.minimum(*distances)
    return (distance <= distance.flatten().kthvalue(round(share * rows * columns)).values)[None, None].float()


def pruning(size: Size, device: str, rounds: int, shares: list[float]) -> None:
    """Pruned, dense (eq. 5 at every pixel, all else the same), as trained (dense, and nothing compiled), NAFNet."""
    blur = torch.rand(1, 3, *size, device=device)
    nafnet, pruned, dense = (create_model(name).eval().to(device) for name in ("nafnet", "m2aenet", "m2aenet"))
    for model in (pruned, dense):
        nn.init.normal_(model.analyzer.weight, std=0.02)  # motion of a pixel or so: still taps would be cached
    dense.pruned = False

    def as_trained(mask: Tensor) -> None:
        with mock.patch("relo.models.m2aenet.network.runs_compiled", return_value=False):
            dense(blur, mask)

    rows, columns = -(-size[0] // 8), -(-size[1] // 8)
    print(f"\n{size[0]}x{size[1]}, best of {rounds} [s]; ratios of pruned to the others")
    names = ("dense", "as trained", "nafnet")
    print("blurred  computed    pruned" + "".join(name.rjust(12) for name in (*names, *names)))
    with torch.inference_mode():
        pruned(blur[..., :64, :64])  # compiles its loops, or finds them compiled
        for share in shares:
            mask = discs(share, rows, columns).to(device)
            computed = len(find_masked(mask.permute(0, 2, 3, 1)).gathered) / mask.numel()
            first, *others = best(
                device,
                rounds,
                lambda mask=mask: pruned(blur, mask),
                lambda mask=mask: dense(blur, mask),
                lambda mask=mask: as_trained(mask),
                lambda: nafnet(blur),
            )
            ratios = "".join(f"{first / other:12.3f}" for other in others)
            seconds = "".join(f"{other:12.2f}" for other in others)
            print(f"{mask.mean().item():7.2%}{computed:10.2%}{first:10.2f}{seconds}{ratios}", flush=True)


def straight_nafnet(model: nn.Module, blur: Tensor) -> Tensor:
    """NAFNet's formula in (N, C, H, W), with the layer normalisation from means and squares as published."""
    state = dict(model.named_parameters())

    def conv(name: str, x: Tensor, **options: Any) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def norm(name: str, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / (variance + 1e-6).sqrt()
        return state[f"{name}.weight"].view(1, -1, 1, 1) * x + state[f"{name}.bias"].view(1, -1, 1, 1)

    def product(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return first * second

    def blocks(prefix: str, x: Tensor) -> Tensor:
        index = 0
        while f"{prefix}.{index}.beta" in state:
            name, index = f"{prefix}.{index}", index + 1
            wide = conv(f"{name}.conv1", norm(f"{name}.norm1", x))
            gated = product(conv(f"{name}.conv2", wide, padding=1, groups=wide.shape[1]))
            gated = gated * conv(f"{name}.sca.1", F.adaptive_avg_pool2d(gated, 1))
            x = x + conv(f"{name}.conv3", gated) * state[f"{name}.beta"]
            wide = conv(f"{name}.conv4", norm(f"{name}.norm2", x))
            x = x + conv(f"{name}.conv5", product(wide)) * state[f"{name}.gamma"]
        return x

    height, width = blur.shape[-2:]
    padded = F.pad(blur, (0, -width % 16, 0, -height % 16))
    x, skips = conv("intro", padded, padding=1), []
    for stage in range(4):
        x = blocks(f"encoders.{stage}", x)
        skips.append(x)
        x = conv(f"downs.{stage}", x, stride=2)
    x = blocks("middle_blks", x)
    for stage in range(4):
        x = blocks(f"decoders.{stage}", F.pixel_shuffle(conv(f"ups.{stage}.0", x), 2) + skips.pop())
    return (conv("ending", x, padding=1) + padded)[..., :height, :width]


def formulation(size: Size, device: str, rounds: int) -> None:
    blur, model = torch.rand(1, 3, *size, device=device), create_model("nafnet").eval().to(device)
    for name, parameter in model.named_parameters():
        if name.endswith((".beta", ".gamma")):
            nn.init.constant_(parameter, 0.3)  # fresh ones are 0: the difference would be too
    with torch.inference_mode():
        error = (model(blur).image - straight_nafnet(model, blur)).abs().max().item()
        ours, straight = best(device, rounds, lambda: model(blur), lambda: straight_nafnet(model, blur))
        print(f"\n{size[0]}x{size[1]}: nafnet {ours:.2f} s, straight {straight:.2f} s, ", end="")
        print(f"ratio {ours / straight:.3f}, largest difference {error:.1e}")
        if device != "cpu":
            return
        rows, columns = -(-size[0] // 8), -(-size[1] // 8)
        wide, weight, bias = torch.randn(1, rows, columns, 512), torch.randn(512, 1, 3, 3), torch.randn(512)
        taps = torch.randn(9, 1, 2, rows, columns)
        features = wide.permute(0, 3, 1, 2)
        compiled, sampled = best(
            device,
            rounds,
            lambda: convolve_compiled(wide, taps, weight, bias),
            lambda: convolve_by_sampling(features, sampling_places(taps), weight, bias),
        )
        print(f"deformable convolution, 512x{rows}x{columns}: compiled {compiled:.3f} s, ", end="")
        print(f"sampled {sampled:.2f} s, ratio {compiled / sampled:.3f}")


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _size(text: str) -> Size:
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="*", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--sizes", nargs="*", type=_size, default=[(540, 960), (1436, 2152)])
    parser.add_argument("--models", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shares", nargs="*", type=float, default=list(SHARES), help="of blur, for pruning")
    parser.add_argument("--rounds", type=int, default=3, help="how often what is compared is timed; default 3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # time and memory of one network, for `table`
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_network(options.one, options.sizes[0], options.device, options.threads)))
        return
    reuse_freed_memory()
    with thread_count(options.threads):
        if "counts" in options.sections:
            counts(options.sizes)
        if "table" in options.sections:
            table(options.sizes, options.device, options.threads, options.models)
        if "pruning" in options.sections:
            pruning(max(options.sizes, key=math.prod), options.device, options.rounds, options.shares)
        if "formulation" in options.sections:
            formulation(min(options.sizes, key=math.prod), options.device, options.rounds)


if __name__ == "__main__":
    main()
