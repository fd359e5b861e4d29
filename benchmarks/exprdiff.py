"""What ExpRDiff's diffusion costs with the real SDXL: parameters, and memory of a training step. No weights needed.

    python benchmarks/exprdiff.py [--crop 256] [--at-once 4] [--attention-layers 1]

Networks are built on torch's meta device, which knows shapes and holds no numbers.

parameters   counted
states       exact: float32 parameters, gradients and the two moments of AdamW of all that is trained; the frozen
             UNet in bfloat16, the autoencoder in float32
activations  an estimate: the bytes of all tensors that autograd saves in one forward pass on the meta device, in
             bfloat16, each storage once, parameters left out. With gradient checkpointing: what is saved outside
             of the blocks that are computed again, their inputs, and the largest block. A GPU needs more:
             workspaces of its libraries, fragments, float32 copies that autocast makes, the encoding of the sharp
             image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from relo.models.exprdiff.diffusion.guide import Guidance, ShortExposureGuide
from relo.models.exprdiff.diffusion.guided_unet import GuidedUNet
from relo.models.exprdiff.diffusion.prompts import Prompt

# Of the published SDXL base 1.0.
UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
}
RECOMPUTED = ("ResnetBlock2D", "BasicTransformerBlock")  # what diffusers' gradient checkpointing computes again


def count(module: nn.Module | None) -> int:
    return sum(value.numel() for value in module.parameters()) if module else 0


@dataclass
class Saved:
    """Bytes that autograd saves: in all, in each block that can be computed again, and those blocks' inputs."""

    outside: int = 0
    blocks: list[int] = field(default_factory=list)
    inputs: int = 0

    @property
    def kept(self) -> int:
        """Without gradient checkpointing."""
        return self.outside + sum(self.blocks)

    @property
    def checkpointed(self) -> int:
        """With it, while the largest block is computed again."""
        return self.outside + self.inputs + max(self.blocks)


@contextmanager
def counting(model: nn.Module) -> Iterator[Saved]:
    saved, depth, seen = Saved(), [0], set()
    known = {value.untyped_storage()._cdata for value in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known and storage._cdata not in seen:
            seen.add(storage._cdata)
            keep.append(storage)  # or its number might be given to another one
            if depth[0]:
                saved.blocks[-1] += storage.nbytes()
            else:
                saved.outside += storage.nbytes()
        return tensor

    def enter(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        depth[0] += 1
        saved.blocks.append(0)
        saved.inputs += sum(value.numel() * value.element_size() for value in inputs if isinstance(value, Tensor))

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        depth[0] -= 1

    keep: list[Any] = []
    blocks = [module for module in model.modules() if type(module).__name__ in RECOMPUTED]
    hooks = [module.register_forward_pre_hook(enter) for module in blocks]
    hooks += [module.register_forward_hook(leave) for module in blocks]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
    for hook in hooks:
        hook.remove()


def activations(model: GuidedUNet, images: int, crop: int) -> Saved:
    """Of one forward pass of `images` patches; ExpBFusion's dense form, which is the worst case."""
    side, dtype = crop // 8, torch.bfloat16
    model = model.to(dtype)
    guide = model.guide
    with counting(model) as saved:
        picture = torch.empty(images, 3, crop, crop, dtype=dtype, device="meta")
        control, pictures = guide.embedding(picture)
        assert guide.features is not None
        features = guide.features(picture)
        masks = tuple(F.interpolate(picture[:, :1], scale.shape[-2:]) for scale in features)
        guidance = Guidance(control, pictures, features, masks, binary=False)
        prompt = Prompt(*(torch.empty(shape, dtype=dtype, device="meta") for shape in ((1, 77, 2048), (1, 1280))))
        latents = torch.empty(images, 4, side, side, dtype=dtype, device="meta")
        model(latents, torch.zeros(images, dtype=torch.int64, device="meta"), prompt, guidance).square().mean()
    return saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=256, help="side of the patches [px]")
    parser.add_argument("--at-once", type=int, default=4, help="patches that are computed together")
    parser.add_argument(
        "--attention-layers", type=int, default=1, help="of the control branch; 10 is all of SDXL's"
    )
    options = parser.parse_args()
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
        guide = ShortExposureGuide(unet.config, attention_layers=options.attention_layers)
    trained, frozen = count(guide), count(unet)
    print("parameters")
    for name, number in (
        ("UNet, frozen", frozen),
        ("autoencoder, frozen", count(vae)),
        ("control branch", count(guide.control) + count(guide.embedding)),
        ("  of it heads of the degradation loss", count(guide.embedding.heads)),
        ("short-exposure features", count(guide.features)),
        ("ExpBFusion", count(guide.fusions)),
        ("trained in all", trained),
    ):
        print(f"  {name:<42}{number:>16,}")
    rows = [
        ("UNet, bfloat16", 2 * frozen),
        ("autoencoder, float32", 4 * count(vae)),
        ("trained parameters, float32", 4 * trained),
        ("their gradients", 4 * trained),
        ("AdamW's two moments", 8 * trained),
    ]
    saved = activations(GuidedUNet(unet, guide), options.at_once, options.crop)
    states = sum(size for _, size in rows)
    print(f"memory of a training step, {options.at_once} patches of {options.crop} px at once [GB of 1e9 bytes]")
    for name, size in (
        *rows,
        ("states together", states),
        ("activations (estimate)", saved.kept),
        ("activations, checkpointed (estimate)", saved.checkpointed),
        ("together", states + saved.kept),
        ("together, checkpointed", states + saved.checkpointed),
    ):
        print(f"  {name:<42}{size / 1e9:>10.2f}")


if __name__ == "__main__":
    main()
