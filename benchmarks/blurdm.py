"""What BlurDM's prior costs each of its backbones, and what it gives small ones on simulated pairs.

    python benchmarks/blurdm.py [--sections counts time learning] [--size 720x1280] [--out DIR] [--seeds 0 1 2]

counts    parameters and, for 256 x 256 px, multiply-adds by torch's counter, without and with the prior
time      one image, without and with the prior in turn, the shortest of --rounds calls; what counts is the ratio
learning  the set of benchmarks/training.py; each tiny backbone without and with the prior, three seeds. Both train
          the backbone for --steps steps, with the prior half of them in each of the two stages that train it; the
          stage in between, half as many, comes on top. Whatever DIR holds already is used again.

Weights of the first two are random: they change neither time nor memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from models import best, counted_macs
from torch import nn
from training import bench_shards

from relo.models import create_model
from relo.models.blurdm.network import BACKBONES
from relo.parallel import reuse_freed_memory
from relo.training import evaluate, load_recipe, train
from relo.training.recipe import PriorStage

SECTIONS = ("counts", "time", "learning")
NETWORKS = ("mimo_unet_plus", "stripformer", "fftformer", "loformer_s")
PUBLISHED = (3.33, 4.16)  # mean over the four: parameters [M], multiply-adds at 256 x 256 px [G]


def counts() -> None:
    """Parameters and multiply-adds, without and with the prior."""
    print(f"{'':16}{'parameters':>12}{'fused':>12}{'BlurDM':>12}{'GMAC':>9}{'BlurDM':>9}")
    extra = []
    for name in NETWORKS:
        plain, joined = _pair(name, "meta")
        macs = counted_macs(plain, (256, 256)) / 1e9, counted_macs(joined, (256, 256)) / 1e9
        parameters = [_parameters(network) for network in (plain, joined.get_submodule("backbone"), joined)]
        extra.append(((parameters[2] - parameters[0]) / 1e6, macs[1] - macs[0]))
        print(f"{name:16}" + "".join(f"{count:12,}" for count in parameters) + f"{macs[0]:9.2f}{macs[1]:9.2f}")
    means = (statistics.mean(values) for values in zip(*extra, strict=True))
    print("mean of what it adds: {:.3f} M parameters, {:.2f} GMAC".format(*means), end="; ")
    print("published: {} M, {} GMAC".format(*PUBLISHED))


def times(size: tuple[int, int], rounds: int) -> None:
    """Seconds of one image on this machine's CPU, without and with the prior."""
    print(f"\n{size[0]} x {size[1]} px, {torch.get_num_threads()} threads")
    print(f"{'':16}{'without':>10}{'with':>10}{'ratio':>8}")
    for name in NETWORKS:
        image = torch.rand(1, 3, *size)
        plain, joined = _pair(name, "cpu")
        with torch.inference_mode():
            without, with_prior = best("cpu", rounds, partial(plain, image), partial(joined, image))
        print(f"{name:16}{without:9.2f}s{with_prior:9.2f}s{with_prior / without:8.3f}", flush=True)


def learning(out: Path, seeds: list[int], steps: int, names: list[str]) -> None:
    """PSNR_w of the test scenes, without and with the prior, at equal steps of the backbone."""
    shards = bench_shards(out)
    print(f"\n{steps} steps of each backbone, seeds {seeds}: PSNR_w [dB] above the blurred input, mean and spread")
    print(f"{'':16}{'without':>16}{'with':>16}{'parameters':>14}{'with':>12}")
    for name in names:
        gains: dict[bool, list[float]] = {False: [], True: []}
        sizes: dict[bool, int] = {}
        for with_prior in gains:
            for seed in seeds:
                run = out / f"{name}-{'prior' if with_prior else 'plain'}-{steps}-{seed}"
                recipe = load_recipe(*_recipe(name, with_prior, steps, seed))
                train(recipe, shards, run, resume=True)
                scores = evaluate(run / "model.safetensors", shards, device="cpu").overall
                gains[with_prior].append(scores["psnr_w_output"] - scores["psnr_w_input"])
            last = recipe.in_stages()["restore"].model
            sizes[with_prior] = _parameters(create_model(last.name, **last.options))
        shown = "".join(
            f"{statistics.mean(values):+9.2f} ±{statistics.stdev(values) if len(values) > 1 else 0.0:5.2f}"
            for values in gains.values()
        )
        print(f"{name:16}{shown}{sizes[False]:14,}{sizes[True]:12,}", flush=True)


def _recipe(name: str, with_prior: bool, steps: int, seed: int) -> tuple[str, list[str]]:
    """Name and overrides; rate, loss and patches are those of the staged recipe in both."""
    staged = f"blurdm_{name}-tiny"
    common = [f"seed={seed}", "device=cpu", "val_images=4", f"val_every={steps}"]
    if with_prior:
        return staged, [*common, *(f"stages.{part}={_schedule(steps // 2)}" for part in get_args(PriorStage))]
    options = {key: value for key, value in load_recipe(staged).model.options.items() if key != "backbone"}
    own = [f"{key}={value}" for key, value in _schedule(steps).items()]
    return staged, [*common, "stages=null", f"model={{name: {name}, options: {options}}}", *own]


def _schedule(steps: int) -> dict[str, Any]:
    """A fifth at the full rate, then a cosine."""
    return {"steps": steps, "cosine": {"hold": steps // 5, "steps": steps - steps // 5, "lr_min": 1e-5}}


def _pair(name: str, device: str) -> tuple[nn.Module, nn.Module]:
    """The backbone alone, and BlurDM over it."""
    whole = {"tile": 0} if name.startswith("loformer") else {}  # tiles that overlap compute more
    with torch.device(device):
        return create_model(name, **whole).eval(), create_model("blurdm", backbone=name, tile=0).eval()


def _parameters(network: nn.Module) -> int:
    return sum(values.numel() for values in network.parameters())


def main() -> None:
    """Print the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--backbones", nargs="+", choices=sorted(BACKBONES), default=NETWORKS)
    arguments = parser.parse_args()
    reuse_freed_memory()
    torch.set_num_threads(arguments.threads)
    height, width = map(int, arguments.size.split("x"))
    if "counts" in arguments.sections:
        counts()
    if "time" in arguments.sections:
        times((height, width), arguments.rounds)
    if "learning" in arguments.sections:
        with tempfile.TemporaryDirectory() as temporary:
            learning(arguments.out or Path(temporary), arguments.seeds, arguments.steps, list(arguments.backbones))


if __name__ == "__main__":
    main()
