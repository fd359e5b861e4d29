"""Exposure times for a wanted blur extent (Li et al. 2023, eq. 2).

Convention: blur extents are counted in pixels of the sensor; `tau` is the transmittance of the
neutral-density filter in front of camera B, and t_L = t_S / tau, so that both sensors get equal energy.
The paper calls n the "desired blurry pixels", but its equation gives t_S, so n is the displacement
*during t_S*; the displacement in camera B is n / tau.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Li et al. 2023, section 3: extents of the published dataset.
BLUR_RANGE_PX = (15.0, 70.0)
SHARP_LIMIT_PX = 6.0
MAINS_HALF_PERIODS_S = (0.010, 1 / 120)


def image_speed_px_s(*, pixel_pitch_m: float, focal_length_m: float, distance_m: float, speed_m_s: float) -> float:
    """Speed of a moving object's image on the sensor: l' v / (c d) [px/s].

    Parameters
    ----------
    pixel_pitch_m : float
        c, distance of two pixels on the sensor [m].
    focal_length_m : float
        f [m]; the image distance is l' = 1 / (1/f - 1/d) (thin lens).
    distance_m : float
        d, distance of the object [m]; larger than the focal length.
    speed_m_s : float
        v, speed of the object across the optical axis [m/s].

    Raises
    ------
    ValueError
        A value is not positive, or the object stands within the focal length.
    """
    _require_positive(
        pixel_pitch_m=pixel_pitch_m, focal_length_m=focal_length_m, distance_m=distance_m, speed_m_s=speed_m_s
    )
    if distance_m <= focal_length_m:
        raise ValueError("distance_m must exceed focal_length_m, or no image forms")
    image_distance_m = 1.0 / (1.0 / focal_length_m - 1.0 / distance_m)
    return image_distance_m * speed_m_s / (pixel_pitch_m * distance_m)


@dataclass(frozen=True)
class ExposurePlan:
    """Exposure times of both cameras and what they give.

    Attributes
    ----------
    t_short_s, t_long_s : float
        Exposure of camera S and camera B [s].
    tau : float
        Transmittance of the ND filter in front of camera B, t_S / t_L.
    sharp_px, blur_px : float
        Displacement during t_S and t_L [px].
    warnings : tuple of str
        Where the plan leaves the published dataset's range or meets a known trap.
    """

    t_short_s: float
    t_long_s: float
    tau: float
    sharp_px: float
    blur_px: float
    warnings: tuple[str, ...]

    @property
    def nd_stops(self) -> float:
        """Density of the filter in stops: log2(1 / tau)."""
        return math.log2(1.0 / self.tau)

    @property
    def centroid_offset_px(self) -> float:
        """Distance of the trail's centre from the sharp object's centre [px]: both exposures start together."""
        return (self.blur_px - self.sharp_px) / 2.0


def plan_exposure(
    *,
    pixel_pitch_m: float,
    focal_length_m: float,
    distance_m: float,
    speed_m_s: float,
    sharp_px: float | None = None,
    blur_px: float | None = None,
    tau: float | None = None,
    t_short_s: float | None = None,
    t_long_s: float | None = None,
) -> ExposurePlan:
    """Plan the two exposures for a wanted blur, or tell what given exposures will do.

    Give exactly two of: the short exposure (`sharp_px` or `t_short_s`), the long one (`blur_px` or
    `t_long_s`), and `tau`. The rest follows from t_S = c n d / (l' v) (Li et al. 2023, eq. 2) and
    t_L = t_S / tau.

    Parameters
    ----------
    pixel_pitch_m, focal_length_m, distance_m, speed_m_s : float
        See `image_speed_px_s`.
    sharp_px, blur_px : float, optional
        Displacement during t_S (the n of eq. 2) and during t_L [px].
    tau : float, optional
        Transmittance of the ND filter, in (0, 1).
    t_short_s, t_long_s : float, optional
        Exposure times [s].

    Raises
    ------
    ValueError
        Not two independent values, a value that is not positive, or t_S not below t_L.

    Examples
    --------
    >>> plan = plan_exposure(pixel_pitch_m=3.45e-6, focal_length_m=16e-3, distance_m=4.0, speed_m_s=1.5,
    ...                      blur_px=40, tau=0.05)
    >>> f"{1e3 * plan.t_short_s:.3f} ms, {1e3 * plan.t_long_s:.1f} ms, {plan.sharp_px:.1f} px"
    '1.145 ms, 22.9 ms, 2.0 px'
    """
    speed = image_speed_px_s(
        pixel_pitch_m=pixel_pitch_m, focal_length_m=focal_length_m, distance_m=distance_m, speed_m_s=speed_m_s
    )
    given = {
        "sharp_px": sharp_px,
        "blur_px": blur_px,
        "tau": tau,
        "t_short_s": t_short_s,
        "t_long_s": t_long_s,
    }
    known = {name: value for name, value in given.items() if value is not None}
    _require_positive(**known)
    if len(known) != 2 or {"sharp_px", "t_short_s"} <= set(known) or {"blur_px", "t_long_s"} <= set(known):
        raise ValueError(
            "give exactly two of: the short exposure (sharp_px or t_short_s), the long one "
            f"(blur_px or t_long_s), and tau; got {', '.join(known) or 'none'}"
        )
    if sharp_px is not None:
        t_short_s = sharp_px / speed
    if blur_px is not None:
        t_long_s = blur_px / speed
    if tau is None:
        assert t_short_s is not None and t_long_s is not None
        tau = t_short_s / t_long_s
    elif t_short_s is not None:
        t_long_s = t_short_s / tau
    else:
        assert t_long_s is not None
        t_short_s = t_long_s * tau
    if not tau < 1:
        raise ValueError(f"the short exposure must be shorter than the long one, got t_S/t_L = {tau:g}")
    assert t_short_s is not None and t_long_s is not None
    sharp_px, blur_px = t_short_s * speed, t_long_s * speed
    warnings = tuple(_warnings(t_short_s, t_long_s, sharp_px, blur_px))
    return ExposurePlan(t_short_s, t_long_s, tau, sharp_px, blur_px, warnings)


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive, got {value:g}")


def _warnings(t_short_s: float, t_long_s: float, sharp_px: float, blur_px: float) -> list[str]:
    low, high = BLUR_RANGE_PX
    warnings = []
    if not low <= blur_px <= high:
        warnings.append(f"blur of {blur_px:.1f} px lies outside the published range of {low:g}-{high:g} px")
    if sharp_px > SHARP_LIMIT_PX:
        warnings.append(
            f"the sharp frame moves {sharp_px:.1f} px, above the published limit of {SHARP_LIMIT_PX:g} px: "
            f"use a denser filter (tau at most {SHARP_LIMIT_PX / blur_px:.3g})"
        )
    if all(
        abs(t_long_s / half - round(t_long_s / half)) > 0.05 or t_long_s < half for half in MAINS_HALF_PERIODS_S
    ):
        warnings.append(
            f"t_L = {1e3 * t_long_s:.2f} ms is no multiple of 10 or 8.33 ms: under mains light the brightness "
            "of the pair will vary from shot to shot"
        )
    if t_short_s < min(MAINS_HALF_PERIODS_S):
        warnings.append(
            "t_S is shorter than half a mains period: under flickering light the gain varies from pair to pair"
        )
    return warnings
