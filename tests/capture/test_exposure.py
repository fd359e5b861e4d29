"""Exposure planning against the worked examples and against its own inverse."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.capture.exposure import image_speed_px_s, plan_exposure

FIRST = {"pixel_pitch_m": 3.45e-6, "focal_length_m": 16e-3, "distance_m": 4.0, "speed_m_s": 1.5}
SECOND = {"pixel_pitch_m": 5.5e-6, "focal_length_m": 35e-3, "distance_m": 10.0, "speed_m_s": 8.0}


@pytest.mark.parametrize(
    ("rig", "sharp_px", "tau", "t_short_ms", "t_long_ms"),
    [(FIRST, 2.0, 1 / 20, 1.1454, 22.908), (SECOND, 4.0, 0.1, 0.78296, 7.8296)],
)
def test_worked_examples(rig, sharp_px, tau, t_short_ms, t_long_ms):
    plan = plan_exposure(**rig, sharp_px=sharp_px, tau=tau)
    assert 1e3 * plan.t_short_s == pytest.approx(t_short_ms, rel=1e-4)
    assert 1e3 * plan.t_long_s == pytest.approx(t_long_ms, rel=1e-4)
    assert plan.blur_px == pytest.approx(40, rel=1e-12)


def test_derived_numbers():
    plan = plan_exposure(**FIRST, sharp_px=2, tau=1 / 8)
    assert plan.nd_stops == pytest.approx(3)
    assert plan.centroid_offset_px == pytest.approx((16 - 2) / 2)


RIGS = st.fixed_dictionaries(
    {
        "pixel_pitch_m": st.floats(1e-6, 1e-5),
        "focal_length_m": st.floats(4e-3, 0.2),
        "distance_m": st.floats(0.5, 50),
        "speed_m_s": st.floats(0.1, 30),
    }
)


@settings(max_examples=100, deadline=None)
@given(rig=RIGS, sharp_px=st.floats(0.1, 10), tau=st.floats(0.001, 0.99))
def test_every_pair_of_values_gives_the_same_plan(rig, sharp_px, tau):
    plan = plan_exposure(**rig, sharp_px=sharp_px, tau=tau)
    values = {
        "sharp_px": plan.sharp_px, "blur_px": plan.blur_px, "tau": plan.tau,
        "t_short_s": plan.t_short_s, "t_long_s": plan.t_long_s,
    }  # fmt: skip
    pairs = [("sharp_px", "blur_px"), ("sharp_px", "t_long_s"), ("t_short_s", "blur_px"),
             ("t_short_s", "t_long_s"), ("blur_px", "tau"), ("t_long_s", "tau"), ("t_short_s", "tau")]  # fmt: skip
    for pair in pairs:
        again = plan_exposure(**rig, **{name: values[name] for name in pair})
        for name, value in values.items():
            assert getattr(again, name) == pytest.approx(value, rel=1e-12), (pair, name)


@settings(max_examples=50, deadline=None)
@given(rig=RIGS, factor=st.floats(0.2, 3))
def test_scaling_laws(rig, factor):
    speed = image_speed_px_s(**rig)
    scaled = {**rig, "speed_m_s": factor * rig["speed_m_s"]}
    assert image_speed_px_s(**scaled) == pytest.approx(factor * speed, rel=1e-12)
    scaled = {**rig, "pixel_pitch_m": factor * rig["pixel_pitch_m"]}
    assert image_speed_px_s(**scaled) == pytest.approx(speed / factor, rel=1e-12)
    # Geometry, by similar triangles: an object of size s at d has an image of s f / (d - f).
    image = rig["speed_m_s"] * rig["focal_length_m"] / (rig["distance_m"] - rig["focal_length_m"])
    assert speed == pytest.approx(image / rig["pixel_pitch_m"], rel=1e-9)


@pytest.mark.parametrize("name", list(FIRST))
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_rig_values_must_be_positive(name, value):
    with pytest.raises(ValueError, match=name):
        plan_exposure(**(FIRST | {name: value}), sharp_px=2, tau=0.1)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"sharp_px": 2},
        {"sharp_px": 2, "t_short_s": 0.001},
        {"blur_px": 40, "t_long_s": 0.02},
        {"sharp_px": 2, "blur_px": 40, "tau": 0.05},
    ],
)
def test_exactly_two_independent_values(values):
    with pytest.raises(ValueError, match="exactly two"):
        plan_exposure(**FIRST, **values)


@pytest.mark.parametrize(
    "values", [{"sharp_px": 2, "tau": 1.0}, {"sharp_px": 40, "blur_px": 2}, {"sharp_px": 2, "tau": 0}]
)
def test_the_short_exposure_is_the_short_one(values):
    with pytest.raises(ValueError, match=r"shorter|positive"):
        plan_exposure(**FIRST, **values)


def test_object_within_the_focal_length():
    with pytest.raises(ValueError, match="no image forms"):
        plan_exposure(**(FIRST | {"distance_m": 0.016}), sharp_px=2, tau=0.1)


def test_warnings_follow_the_published_ranges():
    def words(**values: float) -> str:
        return " ".join(plan_exposure(**FIRST, **values).warnings)

    assert "published range" in words(blur_px=10, tau=0.1)
    assert "published range" in words(blur_px=80, tau=0.05)
    assert "published range" not in words(blur_px=40, tau=0.05)
    assert "denser filter (tau at most 0.15)" in words(blur_px=40, tau=0.2)
    assert "denser filter" not in words(blur_px=40, tau=0.14)
    # under mains light the long exposure must be a multiple of 10 ms or of 8.33 ms
    for t_long_s, steady in ((0.02, True), (0.025, True), (0.0225, False), (0.005, False)):
        assert ("mains light" not in words(t_long_s=t_long_s, tau=0.05)) is steady, t_long_s
    assert "t_S is shorter" in words(t_long_s=0.02, tau=0.05)
    assert "t_S is shorter" not in words(t_long_s=0.2, tau=0.05)
