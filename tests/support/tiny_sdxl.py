"""A random SDXL of three million parameters, in the layout of a downloaded one; made on the fly, no download.

The sizes are small, the structure is SDXL's: three encoder scales, two text encoders, an autoencoder of factor 8.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

CROSS_ATTENTION = 64  # hidden channels of both text encoders, side by side
POOLED = 32
UNET = {
    "sample_size": 32,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4, 4),
    "transformer_layers_per_block": (1, 1, 2),
    "use_linear_projection": True,
    "cross_attention_dim": CROSS_ATTENTION,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + POOLED,
}
EMBEDDING_CHANNELS = (8, 8, 16, 16)  # of the control branch


def save_tiny_sdxl(folder: Path, *, prediction_type: str = "epsilon", text: bool = True) -> Path:
    """Write the tiny model to `folder`; without `text` it has neither text encoders nor tokenizers."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
        AutoencoderKL(
            latent_channels=4,
            block_out_channels=(8, 16, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
            sample_size=256,
            scaling_factor=0.13025,
        ).save_pretrained(folder / "vae")
        EulerDiscreteScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="leading",
            steps_offset=1,
            prediction_type=prediction_type,
        ).save_pretrained(folder / "scheduler")
        if text:
            _save_text(folder)
    return folder


def _save_text(folder: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=CROSS_ATTENTION // 2,
        intermediate_size=37,
        num_hidden_layers=5,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=POOLED,
        hidden_act="gelu",
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(config).save_pretrained(folder / "text_encoder_2")
    symbols = _byte_symbols()
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    for number in ("", "_2"):
        place = folder / f"tokenizer{number}"
        place.mkdir(parents=True)
        vocabulary, merges = place / "vocab.json", place / "merges.txt"
        vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
        merges.write_text("#version: 0.2\n", encoding="utf-8")
        CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77).save_pretrained(place)


def _byte_symbols() -> list[str]:
    """The 256 printable characters by which byte-level tokenizers write bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = range(256, 256 + 256 - len(printable))
    return [*map(chr, printable), *map(chr, others)]
