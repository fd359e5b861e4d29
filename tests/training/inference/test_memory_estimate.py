"""The memory estimate: against closed forms, against the process's real memory, and what is chosen by it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.program import environment
from torch import nn

from relo.errors import TrainingError
from relo.models import Restoration, create_model
from relo.training.inference.memory_estimate import SHARE, WORKSPACE, choose_tile, memory_at_hand, peak_bytes


class Wrapped(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, blur):
        x = blur
        for layer in self.layers:
            x = layer(x)
        return Restoration(x, (), ())


class Careful(Wrapped):
    """Looks at a value, which the meta device does not have."""

    def forward(self, blur):
        if blur.max().item() > 100:
            raise ValueError("not an image")
        return super().forward(blur)


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.mark.parametrize(
    ("layers", "floats_a_pixel"),
    [
        ([conv(3, 8)], 3 + 8),
        ([conv(3, 8), conv(8, 16), conv(16, 3)], 3 + 8 + 16),  # input, and the two tensors around a convolution
        ([conv(3, 8), nn.ReLU(inplace=True), conv(8, 3)], 3 + 8 + 3),
        ([conv(3, 8), nn.ReLU(), conv(8, 3)], 3 + 8 + 8),
        ([nn.PixelUnshuffle(2), nn.PixelShuffle(2)], 3 + 3 + 3),
        ([nn.Identity()], 3),
    ],
)
@pytest.mark.parametrize("kind", [Wrapped, Careful])
def test_the_peak_is_that_of_a_count_by_hand(layers, floats_a_pixel, kind):
    peak = peak_bytes(kind(*layers).eval(), (2, 3, 40, 64))
    assert peak == pytest.approx(4 * floats_a_pixel * 2 * 40 * 64, abs=8)  # max() is a number of its own


def test_the_peak_of_lbag_is_that_of_a_count_by_hand():
    # While the full-size features are fused (7 widths of channels, to one, to one) there also live: the input, the
    # encoder's features, all levels at full size, z at half size and the other fusion.
    width = 8
    full = 7 * width + 2 * width + width + 2 * width + 4 * width + 3
    half = 2 * width + 4 * width + 2 * width
    quarter = 4 * width
    peak = peak_bytes(create_model("lbag", num_res=1, width=width).eval(), (1, 3, 64, 96))
    assert peak == 4 * 64 * 96 * (full + half / 4 + quarter / 16)


def test_a_network_that_looks_at_values_is_measured_on_a_small_run():
    layers = [conv(3, 8), conv(8, 16)]
    small, large = (peak_bytes(Careful(*layers).eval(), (1, 3, side, side)) for side in (256, 1024))
    assert large == pytest.approx(16 * small, rel=1e-3)
    assert small == pytest.approx(4 * 256 * 256 * 27, rel=1e-3)


def test_an_error_of_the_network_itself_is_not_swallowed():
    with pytest.raises(RuntimeError, match="expected input"):
        peak_bytes(Wrapped(conv(4, 4)).eval(), (1, 3, 32, 32))


def test_the_model_stays_as_it_was():
    model = create_model("lbag", num_res=1, width=4).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    peak_bytes(model, (1, 3, 64, 64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_as_much_as_fits_is_chosen():
    model, shape = create_model("lbag", num_res=1, width=4).eval(), (1, 3, 700, 500)

    def needed(side):
        return WORKSPACE * peak_bytes(model, (1, 3, min(side, 700), min(side, 500)))

    assert choose_tile(model, shape, None) == 0
    assert choose_tile(model, shape, int(needed(700) / SHARE) + 1) == 0
    for memory in (needed(700) / SHARE - 1, needed(400) / SHARE, needed(128) / SHARE + 1):
        tile = choose_tile(model, shape, int(memory))
        assert tile % 64 == 0
        assert needed(tile) <= SHARE * memory < needed(tile + 64)
    with pytest.raises(TrainingError, match="for a window of 128 px") as caught:
        choose_tile(model, shape, int(needed(128) / SHARE) - 1)
    assert "--tile 128" in str(caught.value)


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="the memory at hand is known on Linux only")
def test_the_memory_at_hand_is_that_of_the_machine():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < memory_at_hand(torch.device("cpu")) < total
    assert memory_at_hand(torch.device("meta")) is None


REAL = """
import torch
from pathlib import Path
from relo.models import create_model
from relo.training.inference.memory_estimate import peak_bytes

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

torch.set_num_threads(1)
model = create_model("lbag", num_res=1).eval()
with torch.inference_mode():
    model(torch.zeros(1, 3, 32, 32))
    blur = torch.rand(1, 3, 256, 256)
    estimate = peak_bytes(model, tuple(blur.shape))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    model(blur)
print(estimate, memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured on Linux only")
def test_the_real_peak_is_between_the_estimate_and_what_is_planned_with():
    done = subprocess.run(
        [sys.executable, "-c", REAL], env=environment(), capture_output=True, text=True, check=True
    )
    estimate, real = map(int, done.stdout.split())
    assert estimate < real < WORKSPACE * estimate
