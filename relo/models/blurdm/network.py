"""BlurDM over a backbone: a deblurring network that is given a latent vector of the sharp image, the prior.

The prior modulates the backbone's decoder. At test time the diffusion makes it from the blurred image. In the first
two of three training stages a sharp encoder makes it from the blurred and the sharp image, and the diffusion learns
to predict that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from relo.errors import ConfigError
from relo.models.blurdm.diffusion import SEED, LatentDiffusion, Noise
from relo.models.blurdm.encoder import PRIOR, LatentEncoder
from relo.models.blurdm.schedule import ScheduleForm
from relo.models.image_batches import check_image_batch, crop_to, pad_to_multiple
from relo.models.mimo_unet import STRIDE_WITH_PRIOR
from relo.models.restoration import Restoration
from relo.models.tiles import check_tile, needs_tiles, restore_in_tiles


class Needs(NamedTuple):
    """How images are prepared for a backbone.

    Attributes
    ----------
    stride : int
        Images are padded to multiples of it before the backbone and the diffusion see them [px].
    offset : float
        Subtracted from the input of both; relo's own Stripformer does that itself.
    tile : int
        Side of the tiles, each with a prior of its own, in which larger images are restored [px]; 0 for none.
    """

    stride: int
    offset: float = 0.0
    tile: int = 0


# Of the published code.
BACKBONES = {
    "mimo_unet": Needs(STRIDE_WITH_PRIOR, offset=0.5),
    "mimo_unet_plus": Needs(STRIDE_WITH_PRIOR, offset=0.5),
    "stripformer": Needs(32, offset=0.5),
    "fftformer": Needs(32),
    "loformer": Needs(8, tile=384),
    "loformer_s": Needs(8, tile=384),
    "loformer_b": Needs(8, tile=384),
    "loformer_l": Needs(8, tile=384),
}


class BlurDM(nn.Module):
    """A backbone, the diffusion that makes its prior, and for training the sharp encoder.

    Parameters
    ----------
    backbone : torch.nn.Module
        Built for a prior of 256: `backbone(blur, prior)` gives a `Restoration`.
    diffusion : LatentDiffusion
    stride, tile : int
        See `Needs`.
    sharp_encoder : bool
        Whether to have one: in training stages that need it.
    """

    def __init__(
        self, backbone: nn.Module, diffusion: LatentDiffusion, stride: int, tile: int, sharp_encoder: bool
    ) -> None:
        super().__init__()
        check_tile(tile, stride)
        self.backbone, self.diffusion = backbone, diffusion
        self.stride, self.tile = stride, tile
        self.sharp_encoder = LatentEncoder(batch_norm=True) if sharp_encoder else None

    def forward(self, blur: Tensor, prior: Tensor | None = None, noise: Noise = None) -> Restoration:
        """Restore a batch of any size.

        Parameters
        ----------
        blur : (N, 3, H, W) tensor
            RGB in [0, 1].
        prior : (N, 256) tensor, optional
            By default what the diffusion makes of the padded image: in evaluation mode, where there are tiles, of
            each padded tile.
        noise : optional
            See `LatentDiffusion.forward`; one draw serves all tiles.

        Returns
        -------
        Restoration
            As the backbone gives it; of tiles, the image alone.
        """
        check_image_batch(blur)
        if prior is None and not self.training and needs_tiles(blur, self.tile):
            drawn = self.diffusion.draw_noise(noise, blur.shape[0])
            residual = restore_in_tiles(
                lambda part: self._restored(part, None, drawn).image - part, blur, self.tile
            )
            return Restoration(blur + residual, (), ())
        return self._restored(blur, prior, noise)

    def blur_prior(self, blur: Tensor, noise: Noise = None) -> Tensor:
        """Give the prior (N, 256) that the diffusion makes of blurred images in [0, 1]."""
        return self.diffusion(pad_to_multiple(blur, self.stride), noise)

    def sharp_prior(self, blur: Tensor, sharp: Tensor) -> Tensor:
        """Give the prior (N, 256) that the sharp encoder takes from blurred and sharp images in [0, 1].

        Raises
        ------
        ValueError
            There is no sharp encoder.
        """
        if self.sharp_encoder is None:
            raise ValueError("this network was built without sharp encoder: give sharp_encoder=True")
        offset = self.diffusion.offset
        return self.sharp_encoder(*(pad_to_multiple(image - offset, self.stride) for image in (blur, sharp)))

    def own_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Bring weights of a backbone alone to the names of this network; leave out a sharp encoder it has not."""
        if state.keys() & self.backbone.state_dict().keys():
            return {f"backbone.{name}": tensor for name, tensor in state.items()}
        if self.sharp_encoder is None:
            return {name: tensor for name, tensor in state.items() if not name.startswith("sharp_encoder.")}
        return state

    def untrained_names(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Names of what a state dict may lack as a whole: backbone, fusion layers, diffusion, sharp encoder."""
        groups: dict[str, list[str]] = {}
        for name in self.state_dict():
            groups.setdefault("kv" if ".kv." in name else name.partition(".")[0], []).append(name)
        return tuple(name for names in groups.values() if not state.keys() & set(names) for name in names)

    def _restored(self, image: Tensor, prior: Tensor | None, noise: Noise) -> Restoration:
        """Pad, restore, crop; backbone and diffusion see the same padded image."""
        padded = pad_to_multiple(image, self.stride)
        restored = self.backbone(padded, self.diffusion(padded, noise) if prior is None else prior)
        return _cropped(restored, *image.shape[-2:])


def blurdm(
    backbone: str = "mimo_unet_plus",
    steps: int = 5,
    schedule: ScheduleForm = "code",
    noise: float = 1.0,
    seed: int = SEED,
    tile: int | None = None,
    sharp_encoder: bool = False,
    **options: Any,
) -> BlurDM:
    """BlurDM over one of `BACKBONES`, with parameter names as published below `backbone` and `diffusion`.

    Parameters
    ----------
    backbone : str
    steps, schedule, noise, seed
        Of the diffusion, see `LatentDiffusion`.
    tile : int, optional
        See `BlurDM`; by default 384 for LoFormer, as published, and none for the others, for which tiles are an
        extension.
    sharp_encoder : bool
    **options
        Of the backbone.

    Raises
    ------
    ConfigError
        The backbone or one of its options is unknown.
    """
    from relo.models import create_model, model_options

    if backbone not in BACKBONES:
        raise ConfigError(f"blurdm has no backbone '{backbone}'", advice=f"Known: {', '.join(BACKBONES)}.")
    needs = BACKBONES[backbone]
    given = {"prior": PRIOR} | ({"offset": needs.offset} if backbone.startswith("mimo") else {})
    free = [key for key in model_options(backbone) if key not in {"prior", "offset", "tile", "in_channels"}]
    unknown = [key for key in options if key not in free]
    if unknown:
        own = [key for key in model_options("blurdm") if key != "backbone"]
        raise ConfigError(
            f"model blurdm has no option '{unknown[0]}'",
            advice=f"Known: backbone, {', '.join(own)}; of {backbone} {', '.join(free)}.",
        )
    if needs.tile:
        given["tile"] = 0  # tiles are cut here, each with its prior
    network = create_model(backbone, **given, **options)
    diffusion = LatentDiffusion(steps, schedule, noise, seed, needs.offset)
    return BlurDM(network, diffusion, needs.stride, needs.tile if tile is None else tile, sharp_encoder)


def _cropped(restored: Restoration, height: int, width: int) -> Restoration:
    count = len(restored.scales)
    scales = tuple(
        crop_to(image, height, width, 1 << (count - 1 - level)) for level, image in enumerate(restored.scales)
    )
    return Restoration(scales[-1] if scales else crop_to(restored.image, height, width), scales, restored.masks)
