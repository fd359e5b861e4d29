"""The guided UNet: an untrained guide changes nothing, a trained one what it should."""

import pytest
import torch
from support.tiny_sdxl import EMBEDDING_CHANNELS

from relo.models.exprdiff.diffusion.features import ShortFeatures, encoder_taps
from relo.models.exprdiff.diffusion.latents import encode


def plain(model, latents, timesteps, prompt):
    return model.unet(latents, timesteps, **prompt.conditions(len(latents))).sample


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
@pytest.mark.parametrize("fusion", ["off", "no_mask", "masked"])
def test_an_untrained_guide_leaves_the_output_bit_for_bit(guided, prompt, size, fusion):
    model = guided(fusion=fusion)
    height, width = size
    latents, timesteps = torch.randn(2, 4, *size), torch.tensor([3, 700])
    picture, mask = torch.rand(2, 3, 8 * height, 8 * width), (torch.rand(2, 1, 8 * height, 8 * width) > 0.5).float()
    with torch.no_grad():
        found = model(latents, timesteps, prompt, model.guide(picture, picture, mask))
        expected = plain(model, latents, timesteps, prompt)
    assert torch.equal(found, expected)
    assert expected.std() > 0.01


def test_every_input_of_a_trained_guide_counts(guided, prompt, images):
    model = guided(spread=0.3)
    latents, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    condition, short, mask = images

    def run(*inputs, **options):
        with torch.no_grad():
            return model(latents, timesteps, prompt, model.guide(*inputs), **options)

    reference = run(condition, short, mask)
    for changed in ((1 - condition, short, mask), (condition, 1 - short, mask), (condition, short, 1 - mask)):
        assert (run(*changed) - reference).abs().max() > 1e-4
    assert (run(condition, short, mask, control_scale=0.0) - reference).abs().max() > 1e-4
    assert not any(block._forward_hooks for block in model.unet.down_blocks)


def test_no_mask_is_a_mask_of_ones(guided, prompt, images):
    condition, short, mask = images
    guidance = guided(fusion="no_mask").guide(condition, short, mask)
    assert all(bool((scale == 1).all()) for scale in guidance.masks)
    assert guidance.binary


def test_hooks_are_removed_when_the_unet_fails(guided, prompt, images):
    model = guided()
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 5, 8, 8), torch.tensor([3, 700]), prompt, model.guide(*images))
    assert not any(block._forward_hooks for block in model.unet.down_blocks)


def test_gradients_reach_the_guide_alone_and_checkpointing_keeps_them(guided, base, prompt, images):
    """Latents come from the real encoder, whose channels_last strides have crashed torch's backward pass."""
    condition, vae = images[0], base.vae()
    gradients = []
    for checkpointing in (False, True):
        model = guided(spread=0.1)
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
            model.guide.control.enable_gradient_checkpointing()
        with torch.no_grad():
            latents = encode(vae, condition)
        predicted = model(latents, torch.tensor([3, 700]), prompt, model.guide(*images))
        predicted.square().mean().backward()
        assert all(parameter.grad is None for parameter in model.unet.parameters())
        gradients.append({name: value.grad for name, value in model.guide.named_parameters()})
    without, with_checkpointing = gradients
    # The pictures count in the loss alone.
    assert {name for name, value in without.items() if value is None} == {
        f"embedding.heads.{scale}.{kind}" for scale in range(3) for kind in ("weight", "bias")
    }
    for name, value in without.items():
        if value is not None:
            torch.testing.assert_close(with_checkpointing[name], value, rtol=1e-4, atol=1e-7)


def test_the_control_branch_starts_from_the_unet(guided):
    model = guided()
    mine, given = model.guide.control.state_dict(), model.unet.state_dict()
    shared = [name for name in mine if name in given]
    assert len(shared) > 200
    assert all(torch.equal(mine[name], given[name]) for name in shared)
    layers = model.guide.control.config.transformer_layers_per_block
    assert tuple(layers) == (1, 1, 1)


def test_the_pictures_are_half_a_quarter_and_an_eighth(guided, images):
    guidance = guided().guide(*images)
    assert [tuple(picture.shape) for picture in guidance.pictures] == [
        (2, 3, 32, 32),
        (2, 3, 16, 16),
        (2, 3, 8, 8),
    ]
    assert not guidance.control.any()


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (33, 47)])
def test_features_have_the_sizes_of_the_encoder(size):
    channels, strides = encoder_taps((8, 16, 16))
    assert (channels, strides) == ((8, 16, 16), (2, 4, 4))
    maps = ShortFeatures(channels, strides)(torch.rand(1, 3, 8 * size[0], 8 * size[1]))
    half = [-(-side // 2) for side in size]
    quarter = [-(-side // 2) for side in half]
    assert [tuple(found.shape[1:]) for found in maps] == [(8, *half), (16, *quarter), (16, *quarter)]


def test_the_embedding_has_the_names_of_diffusers(guided):
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    theirs = ControlNetConditioningEmbedding(32, block_out_channels=EMBEDDING_CHANNELS)
    mine = guided().guide.embedding
    state = {name: value for name, value in mine.state_dict().items() if not name.startswith("heads.")}
    torch.nn.init.normal_(state["conv_out.weight"])
    theirs.load_state_dict(state)
    image = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(mine(image)[0], theirs(image))
