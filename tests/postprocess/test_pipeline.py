"""All corrections together, against the truth of a simulated session."""

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from relo.capture import RawFrame, SimulationConfig, open_session, simulate_session
from relo.config import build_config
from relo.errors import ConfigError, ProcessError
from relo.postprocess import quality
from relo.postprocess.calibration import SceneCalibration, calibrate_scene
from relo.postprocess.colour import fit_colour_cast
from relo.postprocess.isp import srgb_encode
from relo.postprocess.pipeline import process_pair, valid_pixels
from relo.postprocess.steps import PostprocessConfig

SIMULATION = SimulationConfig(width=270, height=203, scenes=1, pairs=1, seed=5)


@dataclass
class Rig:
    """Frames of a session, and the truth."""

    static: tuple[RawFrame, RawFrame]
    board: tuple[RawFrame, RawFrame]
    pair: tuple[RawFrame, RawFrame]
    casts: dict
    alpha: dict
    gain: np.ndarray
    flow: np.ndarray
    blur: np.ndarray
    sharp: np.ndarray
    mask: np.ndarray


def load(root: Path) -> Rig:
    session = open_session(root)
    (scene,) = session.scenes
    static, board, pair = (
        tuple(session.read(path, camera) for path, camera in ((item.blur, "B"), (item.sharp, "S")))
        for item in (scene.static[0], scene.whiteboard[0], scene.pairs[0])
    )
    casts = {camera: fit_colour_cast([session.read(path, camera) for path in session.lightbox[camera]])
             for camera in ("B", "S")}  # fmt: skip
    with h5py.File(root / "truth.h5") as truth:
        group = truth[f"scenes/{scene.name}"]
        images = {name: group[f"pairs/0000/{name}"][()] for name in ("blur", "sharp", "mask")}
        alpha = {camera: truth[f"cameras/{camera}/alpha"][()] for camera in ("B", "S")}
        return Rig(static, board, pair, casts, alpha, truth["cameras/B/gain"][()], group["flow"][()], **images)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return load(simulate_session(tmp_path_factory.mktemp("pipeline") / "session", SIMULATION))


@pytest.fixture(scope="module")
def calibration(rig: Rig) -> SceneCalibration:
    return calibrate_scene([rig.static], rig.casts)


def flow_error(calibration: SceneCalibration, rig: Rig) -> float:
    difference = (calibration.flow.dense() - rig.flow)[16:-16, 16:-16]
    return float(np.hypot(difference[..., 0], difference[..., 1]).mean())


def test_calibration_finds_the_truth(rig, calibration):
    for camera in ("B", "S"):
        assert np.abs(rig.casts[camera].alpha() / rig.alpha[camera] - 1).max() < 0.015, camera
    assert np.abs(np.array(calibration.gain.rgb) / rig.gain - 1).max() < 0.003
    assert flow_error(calibration, rig) < 0.05
    assert calibration.misalignment_after < 0.1 < calibration.misalignment_before
    assert calibration.psnr_after > calibration.psnr_before + 3
    assert calibration.wb_source == "as shot"
    assert calibration.wb == pytest.approx((2.0, 1.0, 1.6), rel=1e-4)


def test_previews_show_the_static_pair_before_and_after(calibration):
    before, after, sharp = (calibration.previews[name].astype(float) for name in ("before", "after", "sharp"))
    assert before.shape == after.shape == sharp.shape == (203, 270, 3)
    inner = np.s_[12:-12, 12:-12]
    assert np.abs(after - sharp)[inner].mean() < np.abs(before - sharp)[inner].mean() / 2


def test_a_camera_without_calibration_is_refused(rig, calibration):
    stranger = replace(rig.pair[0], camera="C")
    with pytest.raises(ProcessError, match="camera 'C' has no colour calibration"):
        process_pair(stranger, rig.pair[1], calibration)


def test_a_pair_comes_out_as_the_truth(rig, calibration):
    result = process_pair(*rig.pair, calibration)
    valid = valid_pixels(calibration) > 0
    assert 0.85 < valid.mean() < 1
    assert result.blur.shape == result.sharp.shape == (203, 270, 3)
    assert result.blur.dtype == result.sharp.dtype == np.float32
    bare = process_pair(*rig.pair, calibrate_scene([rig.static], {}))
    for name in ("blur", "sharp"):
        truth = srgb_encode(getattr(rig, name))
        corrected = quality.psnr(truth, getattr(result, name), valid)
        assert corrected > 26, name
        assert corrected > quality.psnr(truth, getattr(bare, name), valid) + 1, name
    # outside the trails both cameras show the same
    static = valid & (rig.mask == 0)
    assert quality.psnr(result.sharp, result.blur, static) > quality.psnr(result.sharp, result.blur, valid) + 3


def test_numbers_and_flags_of_a_good_pair(rig, calibration):
    result = process_pair(*rig.pair, calibration)
    assert result.flags == ()
    assert (result.numbers["gain_r"], result.numbers["gain_g"], result.numbers["gain_b"]) == calibration.gain.rgb
    assert result.numbers["gain_deviation"] < 0.02
    assert result.numbers["clipped_blur"] == pytest.approx(np.mean(rig.pair[0].mosaic >= 0.98 * 16383), abs=1e-6)
    assert 0 < result.numbers["noise_sharp"] < 0.1


def brighter(frame: RawFrame, factor: float) -> RawFrame:
    black = np.resize(np.array(frame.black).reshape(2, 2), (2, 2))
    tiled = np.tile(black, (frame.shape[0] // 2 + 1, frame.shape[1] // 2 + 1))[: frame.shape[0], : frame.shape[1]]
    values = np.rint(tiled + (frame.mosaic - tiled) * factor)
    return replace(frame, mosaic=np.clip(values, 0, frame.white).astype(np.uint16))


def test_a_pair_of_another_brightness_is_flagged_or_mended(rig, calibration):
    blur = brighter(rig.pair[0], 0.94)
    flagged = process_pair(blur, rig.pair[1], calibration)
    assert "gain" in flagged.flags
    assert flagged.numbers["gain_deviation"] == pytest.approx(1 / 0.94 - 1, abs=0.02)
    per_pair = build_config(PostprocessConfig, {"gain": {"per_pair": True}}, "test")
    mended = process_pair(blur, rig.pair[1], calibration, per_pair)
    assert "gain" not in mended.flags
    reference = process_pair(*rig.pair, calibration)
    assert mended.blur.mean() == pytest.approx(reference.blur.mean(), rel=0.01)
    assert flagged.blur.mean() < 0.985 * reference.blur.mean()


def test_clipped_pairs_are_flagged(rig, calibration):
    result = process_pair(brighter(rig.pair[0], 4.0), rig.pair[1], calibration)
    assert "clipped" in result.flags
    assert result.numbers["clipped_blur"] > 0.05


def test_half_size_is_the_mean_of_four(rig, calibration):
    half = build_config(PostprocessConfig, {"develop": {"output_scale": 0.5}}, "test")
    full, small = process_pair(*rig.pair, calibration), process_pair(*rig.pair, calibration, half)
    assert small.sharp.shape == (101, 135, 3)
    cut = full.sharp[:202, :270].reshape(101, 2, 135, 2, 3).mean(axis=(1, 3))
    assert np.abs(small.sharp - cut).max() < 1e-6
    valid = valid_pixels(calibration) > 0
    expected = valid[:202, :270].reshape(101, 2, 135, 2).all(axis=(1, 3))
    assert np.array_equal(valid_pixels(calibration, half) > 0, expected)
    with pytest.raises(ConfigError, match="output_scale"):
        build_config(PostprocessConfig, {"develop": {"output_scale": 0.25}}, "test")


@pytest.mark.parametrize(
    "values",
    [
        {"warp": {"light": "linear"}},
        {"warp": {"method": "lanczos"}},
        {"warp": {"method": "linear"}},
        {"develop": {"refine": False}},
        {"develop": {"balance": "image"}},
        {"gain": {"method": "mean"}},
    ],
)
def test_every_choice_gives_nearly_the_same_pair(rig, calibration, values):
    other = process_pair(*rig.pair, calibration, build_config(PostprocessConfig, values, "test"))
    usual = process_pair(*rig.pair, calibration)
    valid = valid_pixels(calibration) > 0
    assert quality.psnr(usual.blur, other.blur, valid) > 30
    assert np.array_equal(usual.blur, other.blur) is (values == {"gain": {"method": "mean"}})


def test_white_balance_sources(rig):
    board = calibrate_scene([rig.static], rig.casts, whiteboard=rig.board, wb=(4.0, 2.0, 3.0))
    assert board.wb_source == "whiteboard"
    assert board.wb == pytest.approx((2.0, 1.0, 1.6), rel=0.02)
    session = calibrate_scene([rig.static], rig.casts, wb=(4.0, 2.0, 3.0))
    assert (session.wb_source, session.wb) == ("session", (2.0, 1.0, 1.5))
    for factor, word in ((6.0, "saturated"), (0.01, "too dark")):
        bad = brighter(rig.board[1], factor)
        fallback = calibrate_scene([rig.static], rig.casts, whiteboard=(rig.board[0], bad))
        assert fallback.wb_source == "as shot"
        assert any(word in note for note in fallback.notes)


def test_several_static_pairs_are_averaged(rig, calibration):
    twice = calibrate_scene([rig.static, rig.static], rig.casts)
    assert twice.gain.rgb == pytest.approx(calibration.gain.rgb, rel=1e-5)
    assert twice.flow.dense() == pytest.approx(calibration.flow.dense(), abs=1e-3)


def test_inputs_are_not_modified_and_runs_repeat(rig, calibration):
    frames = [replace(frame, mosaic=frame.mosaic.copy()) for frame in (*rig.static, *rig.pair)]
    for frame in frames:
        frame.mosaic.setflags(write=False)
    again = calibrate_scene([(frames[0], frames[1])], rig.casts)
    assert again.gain == calibration.gain
    assert np.array_equal(again.flow.dense(), calibration.flow.dense())
    first, second = (process_pair(frames[2], frames[3], again) for _ in range(2))
    assert np.array_equal(first.blur, second.blur)
    assert first.numbers == second.numbers


def test_what_cannot_be_processed(rig, calibration):
    with pytest.raises(ProcessError, match="no static pair"):
        calibrate_scene([], rig.casts)
    small = replace(rig.pair[0], mosaic=rig.pair[0].mosaic[:-2])
    with pytest.raises(ProcessError, match="do not fit"):
        process_pair(small, rig.pair[1], calibration)
    with pytest.raises(ProcessError, match="lightbox"):
        calibrate_scene([tuple(replace(f, mosaic=f.mosaic[:-2]) for f in rig.static)], rig.casts)


@pytest.mark.parametrize("width", [270, 271])
def test_a_mirrored_rig(tmp_path, width):
    config = SIMULATION.model_copy(update={"mirrored": True, "width": width, "pattern": "GBRG"})
    rig = load(simulate_session(tmp_path / "session", config))
    calibration = calibrate_scene([rig.static], rig.casts)
    assert flow_error(calibration, rig) < 0.05
    assert np.abs(np.array(calibration.gain.rgb) / rig.gain - 1).max() < 0.003
    result = process_pair(*rig.pair, calibration)
    valid = valid_pixels(calibration) > 0
    assert quality.psnr(srgb_encode(rig.blur), result.blur, valid) > 26
