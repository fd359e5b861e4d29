"""BlurDM over its backbones: counts, names, values end to end with padding, tiles, weights, errors."""

import pytest
import torch
import torch.nn.functional as F

from relo.errors import ConfigError, TrainingError
from relo.models import create_model, load_weights, model_info
from relo.models.blurdm import LatentDiffusion, LatentEncoder
from relo.models.recognition import recognise
from relo.training import load_checkpoint

SMALL = {
    "mimo_unet_plus": {"num_res": 1, "width": 8},
    "stripformer": {"width": 16, "blocks": 2, "decoder_blocks": 2},
    "fftformer": {"dim": 8, "blocks": [1, 1, 1], "refinement_blocks": 1},
    "loformer_s": {"dim": 8, "enc_blocks": [1, 1, 1], "middle_blocks": 1, "dec_blocks": [1, 1, 1]},
}
STRIDES = {"mimo_unet_plus": 8, "stripformer": 32, "fftformer": 32, "loformer_s": 8}
COUNTS = {  # with fusion, and with the diffusion too
    "mimo_unet_plus": (16_222_339, 18_290_115),
    "stripformer": (22_264_515, 24_332_291),
    "fftformer": (18_280_794, 20_348_570),
    "loformer_s": (17_040_581, 19_108_357),
    "loformer_b": (29_109_297, 31_177_073),
}
FUSIONS = {
    "mimo_unet_plus": [f"Decoder.{i}.kv.weight" for i in range(3)],
    "stripformer": [
        *(f"Trans_block_{i}.kv.weight" for i in range(1, 13)),
        *(f"decoder.de_block_{i}.kv.weight" for i in range(1, 7)),
    ],
    "fftformer": [
        f"{level}.{i}.attn.kv.weight"
        for level, count in (
            ("decoder_level3", 12),
            ("decoder_level2", 6),
            ("decoder_level1", 6),
            ("refinement", 4),
        )
        for i in range(count)
    ],
    "loformer_s": [
        f"decoders.{level}.{i}.trans{k}.attn.0.kv.{kind}"
        for level, count in enumerate((3, 2, 2))
        for i in range(count)
        for k in (1, 2)
        for kind in ("weight", "bias")
    ],
}


def small(backbone, **options):
    torch.manual_seed(0)
    return create_model("blurdm", backbone=backbone, **SMALL[backbone], **options).eval()


def images(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backbone", COUNTS)
def test_parameters_are_the_published_ones(backbone):
    with torch.device("meta"):
        model = create_model("blurdm", backbone=backbone)
    counts = tuple(sum(p.numel() for p in part.parameters()) for part in (model.backbone, model))
    assert counts == COUNTS[backbone]
    if backbone == "mimo_unet_plus":
        assert model_info("blurdm").parameters == counts[1]


@pytest.mark.parametrize("backbone", FUSIONS)
def test_fusion_layers_have_the_published_names(backbone):
    with torch.device("meta"):
        fused = create_model("blurdm", backbone=backbone).backbone.state_dict()
        plain = create_model(backbone).state_dict()
    assert sorted(fused.keys() - plain.keys()) == sorted(FUSIONS[backbone])
    assert plain.keys() <= fused.keys()


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("size", [(2, 3, 32, 64), (1, 3, 37, 45)])
def test_it_is_diffusion_and_backbone_on_the_padded_image(backbone, size):
    model, blur = small(backbone), images(*size)
    stride = STRIDES[backbone]
    padded = F.pad(blur, (0, -size[3] % stride, 0, -size[2] % stride), mode="reflect")
    with torch.no_grad():
        prior = model.diffusion(padded)
        expected = model.backbone(padded, prior=prior).image[..., : size[2], : size[3]]
        restored = model(blur)
        torch.testing.assert_close(restored.image, expected)
        assert restored.image.shape == size
        torch.testing.assert_close(model(blur, prior).image, expected)
        torch.testing.assert_close(model.backbone(blur, prior=prior).image, expected)
        # Each image has its own prior, wherever it lies in the batch.
        torch.testing.assert_close(model(blur[-1:]).image, expected[-1:], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model.backbone(padded).image, model.backbone(padded, prior=prior).image)
        assert not torch.allclose(model(blur, noise=0).image, expected)
        torch.testing.assert_close(model.blur_prior(blur), prior)


@pytest.mark.parametrize("backbone", SMALL)
def test_a_prior_that_changes_nothing(backbone):
    """k = 1 and v = 0: the backbone is what it is without."""
    model, blur = small(backbone), images(1, 3, 32, 32)
    with torch.no_grad():
        for name, values in model.backbone.named_parameters():
            if ".kv." in name:
                values.zero_()
                half = len(values) // 2
                values[:half] = 1.0 if name.endswith("bias") else 1 / 256
        with_prior = model.backbone(blur, prior=torch.ones(1, 256) * (0.0 if backbone == "loformer_s" else 1.0))
        torch.testing.assert_close(with_prior.image, model.backbone(blur).image, rtol=1e-4, atol=1e-5)


def test_mimo_sees_images_around_zero():
    """Published weights expect x - 0.5 and give y - 0.5: a network without residual of its own shifts nothing."""
    model, blur = small("mimo_unet_plus"), images(1, 3, 16, 16)
    plain = create_model("mimo_unet_plus", **SMALL["mimo_unet_plus"], prior=256).eval()
    plain.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        prior = model.diffusion(blur)
        torch.testing.assert_close(plain(blur - 0.5, prior).image + 0.5, model(blur).image)
        torch.testing.assert_close(
            model.diffusion.condition_encoder(blur - 0.5, blur - 0.5)[0], _condition(model, blur)
        )
    assert [tuple(scale.shape[-2:]) for scale in model(images(1, 3, 21, 30)).scales] == [(6, 8), (11, 15), (21, 30)]


def _condition(model, blur):
    return model.diffusion.states(blur, 0)[0][0]


@pytest.mark.parametrize("backbone", ["mimo_unet_plus", "loformer_s"])
def test_tiles_have_a_prior_each(backbone):
    model, blur = small(backbone, tile=64), images(2, 3, 64, 96)
    with torch.no_grad():
        restored = model(blur)
        left, right = model(blur[..., :64]).image, model(blur[..., 32:]).image
        torch.testing.assert_close(restored.image[..., :32], left[..., :32])
        torch.testing.assert_close(restored.image[..., 64:], right[..., 32:])
        assert restored.scales == ()
        # One prior that is given serves the whole image, and training knows no tiles.
        prior = model.diffusion(blur)
        model.tile = 0
        torch.testing.assert_close(model(blur, prior).image, model(blur).image)
    assert create_model("blurdm", backbone=backbone, **SMALL[backbone]).tile == (
        384 if "loformer" in backbone else 0
    )


@pytest.mark.parametrize("backbone", SMALL)
def test_published_files_are_recognised_and_load(backbone, tmp_path):
    model, blur = small(backbone, steps=3), images(1, 3, 32, 32)
    parts = {
        "model_state": {f"module.{k}": v for k, v in model.backbone.state_dict().items()},
        "model_dm_state": model.diffusion.state_dict(),
        "epoch": 3000,
    }
    torch.save(parts, tmp_path / "blurdm.pth")
    checkpoint = load_checkpoint(tmp_path / "blurdm.pth")
    assert checkpoint.name == "blurdm"
    # Sizes have other names where weights do not tell them: few blocks are taken for a MIMO-UNet.
    assert backbone.startswith(checkpoint.options["backbone"])
    assert checkpoint.options["steps"] == 3
    with torch.no_grad():
        assert torch.equal(checkpoint.model(blur).image, model(blur).image)


@pytest.mark.parametrize("wrapped", [True, False])
def test_each_part_takes_its_own_from_a_file_of_several(wrapped):
    model = small("mimo_unet_plus", sharp_encoder=True)
    files = {
        "model_state": model.backbone,
        "model_dm_state": model.diffusion,
        "model_le_state": model.sharp_encoder,
    }
    whole = {name: part.state_dict() for name, part in files.items()} if wrapped else model.state_dict()
    modules = {
        "model_state": create_model("mimo_unet_plus", **SMALL["mimo_unet_plus"], prior=256, offset=0.5),
        "model_dm_state": LatentDiffusion(),
        "model_le_state": LatentEncoder(batch_norm=True),
    }
    for name, module in modules.items():
        for source in (whole, {name: files[name].state_dict()}):
            torch.nn.init.zeros_(next(module.parameters()))
            assert load_weights(module, source) == ()
            torch.testing.assert_close(module.state_dict(), files[name].state_dict(), rtol=0, atol=0)
    with pytest.raises(TrainingError, match="do not fit"):
        load_weights(LatentEncoder(batch_norm=False), whole)
    foreign = model.state_dict() | {"head.weight": torch.zeros(3)}
    with pytest.raises(TrainingError, match=r"unknown \(.*"):
        load_weights(LatentDiffusion(), foreign)


def test_a_sharp_encoder_alone_is_no_first_stage(tmp_path):
    torch.save({"model_le_state": LatentEncoder(batch_norm=True).state_dict()}, tmp_path / "ck.pth")
    with pytest.raises(TrainingError, match="of no network that relo recognises"):
        load_checkpoint(tmp_path / "ck.pth")


def test_a_published_first_stage_is_told_from_a_network(tmp_path):
    first = small("mimo_unet_plus", sharp_encoder=True)
    parts = {"model_state": first.backbone.state_dict(), "model_le_state": first.sharp_encoder.state_dict()}
    torch.save(parts, tmp_path / "ck.pth")
    with pytest.raises(TrainingError, match=r"ck\.pth: is the first stage of a BlurDM.*Give the file of its last"):
        load_checkpoint(tmp_path / "ck.pth")


def test_the_first_stage_has_a_sharp_encoder():
    first = small("mimo_unet_plus", sharp_encoder=True)
    parts = {"model_state": first.backbone.state_dict(), "model_le_state": first.sharp_encoder.state_dict()}
    again = create_model("blurdm", **SMALL["mimo_unet_plus"], sharp_encoder=True)
    left = load_weights(again, parts)
    assert {name.partition(".")[0] for name in left} == {"diffusion"}
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.sharp_encoder.parameters(), again.sharp_encoder.parameters(), strict=True)
    )
    second = {"model_dm_state": small("mimo_unet_plus").diffusion.state_dict()}
    left = load_weights(again, second)  # the parts of two stages, one after the other
    assert {name.partition(".")[0] for name in left} == {"backbone", "sharp_encoder"}
    assert torch.equal(
        again.diffusion.lcr_model.resmlp[0].weight, second["model_dm_state"]["lcr_model.resmlp.0.weight"]
    )
    whole = first.state_dict()
    assert recognise(whole)[1]["sharp_encoder"] is True
    assert load_weights(create_model("blurdm", **SMALL["mimo_unet_plus"]), whole) == ()
    blur, sharp = images(2, 1, 3, 21, 30)
    with torch.no_grad():
        assert first.sharp_prior(blur, sharp).shape == (1, 256)
        assert not torch.equal(first.sharp_prior(blur, sharp), first.sharp_prior(sharp, blur))
    with pytest.raises(ValueError, match="without sharp encoder"):
        small("mimo_unet_plus").sharp_prior(blur, sharp)


def test_a_pretrained_backbone_is_a_start():
    plain = create_model("mimo_unet_plus", **SMALL["mimo_unet_plus"])
    model = small("mimo_unet_plus")
    left = load_weights(model, plain.state_dict())
    assert {"kv" if ".kv." in name else name.partition(".")[0] for name in left} == {"kv", "diffusion"}
    assert torch.equal(model.backbone.Convs[0].main[0].weight, plain.Convs[0].main[0].weight)


def test_a_part_of_a_part_is_no_start():
    model = small("mimo_unet_plus")
    state = model.state_dict()
    del state["diffusion.lcr_model.resmlp.0.weight"]
    with pytest.raises(TrainingError, match="1 missing"):
        load_weights(model, state)


def test_a_backbone_with_fusion_alone_is_not_recognised():
    assert recognise(small("mimo_unet_plus").backbone.state_dict()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "nafnet"}, "no backbone 'nafnet'"),
        ({"wdth": 8}, "no option 'wdth'"),
        ({"prior": 12}, "no option 'prior'"),
        ({"in_channels": 6}, "no option 'in_channels'. Known: backbone, steps, schedule"),
        ({"steps": 0}, "steps must be"),
        ({"schedule": "linear"}, "'code' or 'paper'"),
        ({"tile": 40}, "tile must be 0, or a multiple of 8 from 64 px on"),
        ({"backbone": "stripformer", "tile": 80}, "a multiple of 32"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        create_model("blurdm", **options)


def test_wrong_priors_are_refused():
    model = small("mimo_unet_plus")
    with pytest.raises(ValueError, match=r"expected a \(1, 256\) prior"):
        model(images(1, 3, 16, 16), torch.zeros(2, 256))
    plain = create_model("mimo_unet", num_res=1, width=8)
    with pytest.raises(ValueError, match="without prior fusion"):
        plain(images(1, 3, 16, 16), torch.zeros(1, 256))
