"""Whole simulated sessions: files, bytes, truth, options."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from scipy import ndimage

from relo.capture.frame import channel_of_position
from relo.capture.session import open_session
from relo.capture.simulator import PRESETS, SimulationConfig, simulate_session
from relo.capture.simulator.rig import COLOUR_MATRIX, WHITE_BALANCE, draw_cameras
from relo.capture.simulator.session import SceneRenderer
from relo.config import load_config
from relo.errors import CaptureError

TINY = SimulationConfig(width=161, height=123, scenes=2, pairs=2, seed=11)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_session(tmp_path_factory.mktemp("sim") / "session", TINY)


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout(session):
    names = set(_hashes(session))
    pairs = {f"scenes/scene_0{s}/{what}_{c}.dng" for s in (0, 1) for c in "BS"
             for what in ("0000", "0001", "static", "whiteboard")}  # fmt: skip
    expected = pairs | {
        "session.yaml",
        "truth.h5",
        "calibration/lightbox_B.dng",
        "calibration/lightbox_S.dng",
    }
    assert {name for name in names if not name.endswith(".json")} == expected
    assert yaml.safe_load((session / "session.yaml").read_text()) == {
        "rig": "simulated rig, seed 11",
        "cameras": {
            "B": {"exposure_s": 0.02, "nd_transmittance": 0.05, "mirrored": False},
            "S": {"exposure_s": 0.001},
        },
    }
    opened = open_session(session)
    assert [scene.name for scene in opened.scenes] == ["scene_00", "scene_01"]
    assert all([pair.id for pair in scene.pairs] == ["0000", "0001"] for scene in opened.scenes)
    assert not any(scene.problems for scene in opened.scenes)


def test_truth(session):
    with h5py.File(session / "truth.h5") as file:
        assert json.loads(file.attrs["config"]) == TINY.model_dump(mode="json")
        assert SimulationConfig.model_validate_json(file.attrs["config"]) == TINY
        for camera in "BS":
            alpha = file[f"cameras/{camera}/alpha"]
            assert alpha.shape == (3, 123, 161) and alpha.dtype == np.float32
        assert file["cameras/B/gain"].shape == (3,) and file["cameras/B/gain"].dtype == np.float64
        for scene in ("scene_00", "scene_01"):
            assert file[f"scenes/{scene}/flow"].shape == (123, 161, 2)
            assert json.loads(file[f"scenes/{scene}"].attrs["bumped_pairs"]) == []
            for pair in ("0000", "0001"):
                group = file[f"scenes/{scene}/pairs/{pair}"]
                for name in ("sharp", "blur"):
                    image = group[name][:]
                    assert image.shape == (123, 161, 3) and image.dtype == np.float32
                    assert image.min() >= 0 and image.max() <= 1
                    assert np.array_equal(image * 65536, np.round(image * 65536))
                mask = group["mask"][:]
                assert set(np.unique(mask)) == {0, 255} and mask.dtype == np.uint8
                assert group.attrs["mask_share"] == pytest.approx((mask > 0).mean())
                assert group.attrs["start"].shape == (group.attrs["blur_px"].size, 2)
                assert np.all(group.attrs["sharp_px"] < group.attrs["blur_px"])


def test_same_seed_same_bytes(session, tmp_path):
    time.sleep(1.1)  # a time stamp would show
    again = simulate_session(tmp_path / "again", TINY)
    assert _hashes(again) == _hashes(session)


def test_other_counts_leave_the_rest_alone(session, tmp_path):
    fewer = _hashes(simulate_session(tmp_path / "fewer", TINY.model_copy(update={"pairs": 1, "scenes": 1})))
    full = _hashes(session)
    assert all(full[name] == value for name, value in fewer.items() if name != "truth.h5")
    other = _hashes(
        simulate_session(tmp_path / "other", TINY.model_copy(update={"seed": 12, "pairs": 1, "scenes": 1}))
    )
    assert all(full[name] != value for name, value in other.items() if name.endswith(".dng"))


def _linear(folder: Path, pair: int, camera: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Corrected, white-balanced planes of one frame, with what the truth says they should be."""
    opened = open_session(folder)
    scene = opened.scenes[0]
    frames = dict(zip("BS", opened.read_pair(scene.pairs[pair]), strict=True))
    frame = frames[camera]
    with h5py.File(folder / "truth.h5") as file:
        alpha, group = file[f"cameras/{camera}/alpha"][:], file["scenes/scene_00"]
        gain = file["cameras/B/gain"][:] if camera == "B" else np.ones(3)
        flow = group["flow"][:].astype(float)
        pair_group = group[f"pairs/{pair:04d}"]
        gain = gain / pair_group.attrs[f"level_{camera}"]
        image = pair_group["blur" if camera == "B" else "sharp"][:]
        flow += pair_group.attrs["bump_px"]
    response = image @ np.linalg.inv(COLOUR_MATRIX).T
    signal, planes, expected = frame.normalised(), [], []
    y, x = np.indices(frame.shape)
    for position, channel in enumerate(channel_of_position(frame.pattern)):
        sites = slice(position // 2, None, 2), slice(position % 2, None, 2)
        plane = signal[sites] * alpha[channel][sites] * gain[channel] * WHITE_BALANCE[channel]
        planes.append(plane)
        if camera == "B":
            # Where does B's site see? Invert the flow by one fixed-point pass after another.
            sx, sy = x[sites].astype(float), y[sites].astype(float)
            for _ in range(6):
                at = [ndimage.map_coordinates(flow[..., k], [sy, sx], order=1, mode="nearest") for k in (0, 1)]
                sx, sy = x[sites] - at[0], y[sites] - at[1]
            expected.append(ndimage.map_coordinates(response[..., channel], [sy, sx], order=3, mode="nearest"))
        else:
            expected.append(response[..., channel][sites])
    return planes, expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bits": 12, "pattern": "GBRG"},
        {"mirrored": True, "pattern": "GRBG"},
        {"mirrored": True, "width": 160, "pattern": "BGGR"},
        {"flicker": 0.4},
        {"parallax_px": 0.8},
        {"bump_px": 5.0, "pairs": 3},
        {"cross_border": True, "same_area": False},
        {"same_area": True},
    ],
)
def test_frames_are_the_truth_with_cast_gain_and_noise(options, tmp_path):
    """The saved mosaics, corrected by the truth, show the truth images in the geometry of the truth flow."""
    config = TINY.model_copy(update={"scenes": 1} | options)
    folder = simulate_session(tmp_path / "s", config)
    for pair in range(config.pairs):
        for camera in "BS":
            for plane, expected in zip(*_linear(folder, pair, camera), strict=True):
                error = (plane - expected)[6:-6, 6:-6]
                assert abs(np.median(error)) < 5e-4
                assert np.percentile(np.abs(error), 95) < 0.03
                assert np.sqrt(np.mean(error**2)) < 0.015
    with h5py.File(folder / "truth.h5") as file:
        bumped = json.loads(file["scenes/scene_00"].attrs["bumped_pairs"])
        assert bool(bumped) == bool(config.bump_px)
        levels = [file[f"scenes/scene_00/pairs/000{k}"].attrs["level_S"] for k in range(2)]
        assert (levels[0] == levels[1] == 1) == (config.flicker == 0)
        if config.flicker:
            assert abs(levels[0] - levels[1]) > 1e-3


def test_highlights_saturate_both_cameras(tmp_path):
    folder = simulate_session(tmp_path / "s", TINY.model_copy(update={"highlights": True, "scenes": 1, "pairs": 1}))
    opened = open_session(folder)
    for frame in opened.read_pair(opened.scenes[0].pairs[0]):
        assert 0.0005 < frame.saturated().mean() < 0.08


def test_nothing_saturates_without_highlights(session):
    opened = open_session(session)
    for scene in opened.scenes:
        for pair in (*scene.pairs, *scene.static, *scene.whiteboard):
            assert not any(frame.saturated(0.99).any() for frame in opened.read_pair(pair))


@pytest.mark.parametrize("size", [(64, 64), (65, 67), (64, 301)])
def test_odd_and_small_sizes(size, tmp_path):
    config = SimulationConfig(width=size[0], height=size[1], scenes=1, pairs=1, highlights=True, parallax_px=1.0)
    folder = simulate_session(tmp_path / "s", config)
    opened = open_session(folder)
    blur, sharp = opened.read_pair(opened.scenes[0].pairs[0])
    assert blur.shape == sharp.shape == (size[1], size[0])
    assert (blur.exposure_s, sharp.exposure_s) == (pytest.approx(0.02), pytest.approx(0.001))


def test_progress_counts_up(tmp_path):
    calls = []
    config = TINY.model_copy(update={"width": 64, "height": 64, "scenes": 1, "pairs": 1})
    simulate_session(tmp_path / "s", config, progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == [0, 1, 2, 3] and all(call[1] == 3 for call in calls)


def test_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CaptureError, match="is not empty") as caught:
        simulate_session(tmp_path, TINY)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(CaptureError, match="in the way"):
        simulate_session(tmp_path / "notes.txt", TINY)
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "thesis.tex").write_text("mine")
    with pytest.raises(CaptureError, match="in the way"):
        simulate_session(tmp_path / "out", TINY)
    assert (tmp_path / "out.part" / "thesis.tex").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "out.part"]


def test_failure_leaves_nothing_and_leftovers_are_replaced(tmp_path):
    config = TINY.model_copy(update={"width": 64, "height": 64, "scenes": 1, "pairs": 1})

    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            assert (tmp_path / "s.part" / "calibration").is_dir() and not (tmp_path / "s").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_session(tmp_path / "s", config, progress=stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "s.part" / "scenes").mkdir(parents=True)
    (tmp_path / "s").mkdir()  # an empty folder may be there
    simulate_session(tmp_path / "s", config)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    "values",
    [
        {"width": 63},
        {"bits": 10},
        {"pattern": "RGBG"},
        {"t_short_s": 0.02},
        {"blur_px_min": 80},
        {"pairs": 0},
        {"flicker": 0.9},
        {"colour": 1},
    ],
)
def test_bad_settings_are_refused(values):
    with pytest.raises(ValidationError):
        SimulationConfig(**values)


def test_importing_capture_needs_no_image_library():
    code = (
        "import sys, relo.capture, relo.capture.simulator\n"
        "bad = {'cv2', 'skimage', 'torch', 'h5py'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_the_covered_share_can_be_chosen():
    """Trails are drawn for the wanted share; over many pairs their mean is near it."""
    shares = {}
    for covered in (0.05, 0.1):
        config = SimulationConfig(width=269, height=180, scenes=1, pairs=24, covered=covered, seed=2)
        scene = SceneRenderer(config, draw_cameras(config), 0)
        masks = [scene.images(pair, scene.objects(pair), 0.0)[3] for pair in range(config.pairs)]
        shares[covered] = float(np.mean(masks) / 255)
    assert shares[0.05] == pytest.approx(0.05, rel=0.35)
    assert shares[0.1] == pytest.approx(0.1, rel=0.35)
    assert shares[0.1] > 1.4 * shares[0.05]


def test_presets_are_complete_configurations():
    assert "bench" in PRESETS
    for file in PRESETS.values():
        config = load_config(SimulationConfig, file)
        assert config.model_dump() | yaml.safe_load(file.read_text()) == config.model_dump()
