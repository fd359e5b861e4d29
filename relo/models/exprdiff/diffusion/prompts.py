"""Text for SDXL: embeddings of a prompt, made once, so that no text encoder stays in memory.

The paper names no prompt. The default is the empty one; its embeddings go into the trained weights file, and with
them neither the package transformers nor the text encoders are needed to restore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from relo.errors import TrainingError

if TYPE_CHECKING:
    from relo.models.exprdiff.diffusion.base import BaseModel

# Original height and width, top and left of the crop, target height and width [px] that SDXL is told. The same for
# all sizes, as in SUPIR: told of 256 px, SDXL draws what low-resolution training images looked like.
SIZES = (1024, 1024, 0, 0, 1024, 1024)


class Prompt(NamedTuple):
    """Embeddings of one prompt.

    Attributes
    ----------
    tokens : (1, T, D) tensor
        Penultimate hidden states of both text encoders, side by side; D is 2048 for SDXL, T 77.
    pooled : (1, P) tensor
        Projection of the second encoder; P is 1280 for SDXL.
    """

    tokens: Tensor
    pooled: Tensor

    def to(self, like: Tensor) -> Prompt:
        """On the device and with the dtype of a tensor."""
        return Prompt(self.tokens.to(like), self.pooled.to(like))

    def conditions(self, count: int) -> dict[str, Any]:
        """What a UNet or ControlNet of SDXL takes besides latents and timestep, for `count` images."""
        sizes = torch.tensor([SIZES], dtype=self.pooled.dtype, device=self.pooled.device)
        return {
            "encoder_hidden_states": self.tokens.expand(count, -1, -1),
            "added_cond_kwargs": {
                "text_embeds": self.pooled.expand(count, -1),
                "time_ids": sizes.expand(count, -1),
            },
        }


@torch.no_grad()
def encode_prompt(base: BaseModel, text: str = "") -> Prompt:
    """Embed a prompt with the base model's text encoders, which are loaded for it and let go.

    Parameters
    ----------
    base : BaseModel
    text : str
        More than 75 tokens of it are cut off.

    Returns
    -------
    Prompt
        float32, on the CPU.

    Raises
    ------
    MissingExtraError, TrainingError
        See `relo.models.exprdiff.diffusion.base.BaseModel.load`.
    """
    hidden, pooled = [], None
    for number, kind in (("", "CLIPTextModel"), ("_2", "CLIPTextModelWithProjection")):
        # First what fails where there is no such model: of a tokenizer transformers 5 makes an empty one instead.
        encoder = base.load("transformers", kind, f"text_encoder{number}").eval()
        tokenizer = base.load("transformers", "CLIPTokenizer", f"tokenizer{number}")
        if len(tokenizer) != encoder.config.vocab_size:
            raise TrainingError(
                f"the base model {base.name} has {len(tokenizer)} words in its tokenizer{number}, its text encoder "
                f"knows {encoder.config.vocab_size}",
                advice="Download it again, or give another base model.",
            )
        ids = tokenizer(
            text,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        answer = encoder(ids, output_hidden_states=True)
        hidden.append(answer.hidden_states[-2])
        pooled = answer[0]  # of the second encoder: its projection
    assert pooled is not None
    return Prompt(torch.cat(hidden, dim=-1).float(), pooled.float())
