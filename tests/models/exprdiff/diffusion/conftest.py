"""The tiny random SDXL, made once a session; tests that need it are skipped where diffusers is missing."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folder of the tiny SDXL in the layout of diffusers."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from support.tiny_sdxl import save_tiny_sdxl

    return save_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def base(tiny_folder):
    from relo.models.exprdiff.diffusion.base import BaseModel

    return BaseModel(str(tiny_folder))


@pytest.fixture(scope="session")
def prompt(base):
    from relo.models.exprdiff.diffusion.prompts import encode_prompt

    return encode_prompt(base)


@pytest.fixture(scope="session")
def pipeline(base):
    """The pipeline of diffusers with the tiny parts: the oracle for prompts and sampling."""
    from diffusers import StableDiffusionXLPipeline

    text = {
        f"{part}{number}": base.load("transformers", f"{kind}", f"{part}{number}")
        for number, encoder in (("", "CLIPTextModel"), ("_2", "CLIPTextModelWithProjection"))
        for part, kind in (("tokenizer", "CLIPTokenizer"), ("text_encoder", encoder))
    }
    scheduler = base.scheduler("EulerDiscreteScheduler")
    made = StableDiffusionXLPipeline(vae=base.vae(), unet=base.unet(), scheduler=scheduler, **text)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def guided(base):
    """Function that gives a guided tiny UNet; `spread` random numbers are put where training starts from zero."""
    from support.tiny_sdxl import EMBEDDING_CHANNELS

    from relo.models.exprdiff.diffusion.guide import ShortExposureGuide
    from relo.models.exprdiff.diffusion.guided_unet import GuidedUNet

    def make(spread=0.0, **options):
        unet = base.unet()
        torch.manual_seed(1)
        guide = ShortExposureGuide(unet.config, embedding_channels=EMBEDDING_CHANNELS, **options)
        guide.start_from(unet)
        if spread:
            for parameter in guide.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=spread)
        return GuidedUNet(unet, guide)

    return make


@pytest.fixture
def images():
    """Condition, short exposure and a binary mask, (2, 3 or 1, 64, 64)."""
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, 16:48, 8:40] = 1
    return torch.rand(2, 3, 64, 64, generator=rng), torch.rand(2, 3, 64, 64, generator=rng), mask
