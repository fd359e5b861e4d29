"""The two cameras: colour cast of the beam splitter, gains, levels, and the sensor's noise and mosaic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

from relo.capture.frame import Levels4, RawFrame, channel_of_position
from relo.capture.simulator.config import SimulationConfig, Stream, generator

CAMERAS = ("B", "S")

# White-balanced camera RGB -> linear sRGB of both cameras, about that of a current full-frame sensor.
COLOUR_MATRIX = np.array([[1.62, -0.47, -0.15], [-0.21, 1.53, -0.32], [0.02, -0.48, 1.46]])
WHITE_BALANCE = (2.0, 1.0, 1.6)

_LIGHTBOX_LEVEL = 0.6
_CONTENT_LIMIT = 0.75


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera of the rig.

    Attributes
    ----------
    name : {"B", "S"}
    alpha : (3, H, W) float32 array
        Factor that undoes the colour cast, exactly 1 at the frame centre; un-mirrored geometry.
    gain : (3,) float64 array
        Factor that brings this camera to camera S.
    black : 4 floats
        Black level by position of the 2 x 2 cell, as saved [DN].
    exposure_s : float
    nd_transmittance : float or None
    mirrored : bool
        The saved frames are flipped left-right.
    """

    name: str
    alpha: np.ndarray
    gain: np.ndarray
    black: Levels4
    exposure_s: float
    nd_transmittance: float | None
    mirrored: bool


def draw_cameras(config: SimulationConfig) -> dict[str, Camera]:
    """Draw both cameras of the session."""
    cameras = {}
    for index, name in enumerate(CAMERAS):
        alpha = colour_cast(
            generator(config.seed, Stream.CAST, index), config.shape, config.cast_strength, config.non_cubic
        )
        gain = np.ones(3)
        if name == "B":
            rng = generator(config.seed, Stream.GAIN)
            gain += config.gain_mismatch * (0.7 * rng.uniform(-1, 1) + 0.3 * rng.uniform(-1, 1, 3))
        levels = generator(config.seed, Stream.LEVELS, index)
        # Levels differ between a sensor's readout channels; at 12 bits the same voltage is a quarter in DN.
        black = np.round((config.black_level + levels.integers(0, 5, 4)) * 2.0 ** (config.bits - 14))
        cameras[name] = Camera(
            name,
            alpha,
            gain,
            (float(black[0]), float(black[1]), float(black[2]), float(black[3])),
            config.t_long_s if name == "B" else config.t_short_s,
            config.tau if name == "B" else None,
            config.mirrored and name == "B",
        )
    return cameras


def colour_cast(rng: np.random.Generator, shape: tuple[int, int], strength: float, non_cubic: float) -> np.ndarray:
    """Draw the correction of a beam splitter's colour cast, one surface per channel.

    alpha = 1 + cubic(u, v) + rest(u, v), with u = (x - (W - 1) / 2) / (W / 2) and v likewise. The cubic has
    no constant. The rest is made of products of Legendre polynomials of total degree 5 and, weaker, 7 and a
    sinusoid, without its projection on the cubics. It is odd under (u, v) -> (-u, -v): so it vanishes at the
    centre and has zero mean, and neither "1 at the centre" nor the overall gain depends on whether a fit
    follows it.

    Parameters
    ----------
    shape : 2 ints
        (H, W) [px].
    strength : float
        Peak to peak of a channel, on average; each lies within 20 % of it.
    non_cubic : float
        Peak to peak of the rest.

    Returns
    -------
    (3, H, W) float32 array
        recorded = radiance / alpha.
    """
    height, width = shape
    u, v = _normalised(width), _normalised(height)
    alpha = np.empty((3, height, width), np.float32)
    # The splitter's colour depends on the angle of incidence, so the channels share part of their slope.
    common = rng.standard_normal((4, 4))
    for channel in range(3):
        wanted = strength * rng.uniform(0.85, 1.15)
        cubic, rest = _draw_surface(rng, common, wanted, non_cubic)
        surface = np.polynomial.polynomial.polyvander(v, 3) @ cubic @ np.polynomial.polynomial.polyvander(u, 3).T
        surface += _basis(v) @ rest @ _basis(u).T
        alpha[channel] = 1 + surface
    return alpha


def _normalised(size: int) -> np.ndarray:
    return (np.arange(size) - (size - 1) / 2) / (size / 2)


# How much each monomial v^i u^j contributes: slopes most, the third order little, no constant.
_CUBIC_WEIGHTS = np.array(
    [[0.0, 0.6, 0.30, 0.12], [0.35, 0.15, 0.08, 0.0], [0.25, 0.08, 0.0, 0.0], [0.12, 0.0, 0.0, 0.0]]
)


def _draw_surface(
    rng: np.random.Generator, common: np.ndarray, wanted: float, non_cubic: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the cubic (4, 4) and of the rest (12, 12), scaled to their peak-to-peak sizes."""
    grid = np.linspace(-1, 1, 65)
    powers = np.polynomial.polynomial.polyvander(grid, 3)
    for _ in range(100):
        cubic = _CUBIC_WEIGHTS * (0.6 * common + rng.standard_normal((4, 4)))
        surface = powers @ cubic @ powers.T
        # Where alpha is small the camera is bright: keep the headroom.
        if surface.min() >= -0.45 * np.ptp(surface):
            break
        common = rng.standard_normal((4, 4))
    cubic = cubic * (wanted / np.ptp(surface))
    rest = _draw_rest(rng)
    return cubic, rest * (non_cubic / _peak_to_peak(rest))


_FREQUENCIES = (2.1, 3.4)  # [rad per half frame] along u and v of the sinusoid


def _basis(t: np.ndarray) -> np.ndarray:
    """(n, 12): Legendre polynomials 0 to 7, then sine and cosine of the two frequencies."""
    waves = [f(frequency * t) for frequency in _FREQUENCIES for f in (np.sin, np.cos)]
    return np.concatenate([legendre.legvander(t, 7), np.stack(waves, axis=1)], axis=1)


def _peak_to_peak(coefficients: np.ndarray) -> float:
    basis = _basis(np.linspace(-1, 1, 65))
    return float(np.ptp(basis @ coefficients @ basis.T))


def _draw_rest(rng: np.random.Generator) -> np.ndarray:
    """(12, 12) coefficients for `_basis`, rows along v: odd, and orthogonal to every cubic on the frame."""
    fifth, finer = np.zeros((12, 12)), np.zeros((12, 12))
    for i in range(8):
        for j in range(8):
            # Products of Legendre polynomials of total degree 5 and 7 are orthogonal to all cubics.
            if i + j == 5:
                fifth[i, j] = rng.normal()
            elif i + j == 7:
                finer[i, j] = 0.3 * rng.normal()
    # sin(a u + b v) = sin(a u) cos(b v) + cos(a u) sin(b v), less its part in polynomials up to degree 5.
    finer[11, 8], finer[10, 9] = (rng.uniform(0.5, 1.0),) * 2
    nodes, weights = legendre.leggauss(32)
    basis = _basis(nodes)
    low = basis[:, :6] * weights[:, None]
    norm = np.arange(6) + 0.5  # 1 / integral of P_i^2
    projection = norm[:, None] * (low.T @ (basis @ finer @ basis.T) @ low) * norm[None, :]
    for i in range(6):
        for j in range(6 - i):
            finer[i, j] -= projection[i, j]
    # What a fit of degree 5 leaves stays below 0.4 of the whole.
    return fifth / _peak_to_peak(fifth) + 0.3 * finer / _peak_to_peak(finer)


def radiance_cap(config: SimulationConfig, cameras: dict[str, Camera]) -> float:
    """Largest radiance that saturates neither camera: a normal exposure in which only highlights clip."""
    headroom = min(float(camera.alpha.min()) * float(camera.gain.min()) for camera in cameras.values())
    return min(_CONTENT_LIMIT, 0.93 * headroom / (1 + config.flicker))


def white_dn(config: SimulationConfig, camera: Camera) -> float:
    """DN per unit of normalised signal: from the largest black level to white."""
    return config.white - max(camera.black)


def record(
    config: SimulationConfig,
    camera: Camera,
    radiance: np.ndarray,
    rng: np.random.Generator | None,
    *,
    level: float = 1.0,
    average: int = 1,
) -> RawFrame:
    """Expose a sensor to `radiance` and read it out.

    Radiance 1 (white) fills the channel with white-balance gain 1 exactly to the white level, at the frame
    centre of camera S. Signal per site = camera RGB / wb / alpha / gain; electrons = Poisson of it + Gaussian
    read noise; DN = black + electrons * (white - largest black) / full well, rounded and clipped. Saturation
    thus comes after the integration over time.

    Parameters
    ----------
    radiance : (H, W, 3) float32 array
        Linear sRGB, mean over the exposure, in this camera's un-mirrored geometry.
    rng : Generator or None
        None: neither shot nor read noise, for checks.
    level : float
        Factor on the radiance: how bright flickering light was during the exposure.
    average : int
        Exposures whose mean is taken before rounding.

    Returns
    -------
    RawFrame
        As saved, so flipped left-right if the camera is mirrored.
    """
    alpha = camera.alpha
    if camera.mirrored:
        # The filter array belongs to the sensor: the light is mirrored, the pattern is not.
        radiance, alpha = radiance[:, ::-1], alpha[:, :, ::-1]
    response = np.linalg.inv(COLOUR_MATRIX) / (np.array(WHITE_BALANCE) * camera.gain)[:, None] * level
    response = response.astype(np.float32)
    scale = white_dn(config, camera) / config.full_well_e
    mosaic = np.empty(config.shape, np.uint16)
    for position, channel in enumerate(channel_of_position(config.pattern)):
        sites = slice(position // 2, None, 2), slice(position % 2, None, 2)
        # einsum, not BLAS: the sum of three terms must not depend on the number of threads.
        signal = np.einsum("yxc,c->yx", radiance[sites], response[channel]) / alpha[channel][sites]
        electrons = np.maximum(signal, 0) * np.float64(config.full_well_e)
        if rng is not None:
            electrons = rng.poisson(electrons * average) / average
            electrons += rng.normal(0, config.read_noise_e / math.sqrt(average), electrons.shape)
        digital = np.round(camera.black[position] + electrons * scale)
        mosaic[sites] = np.clip(digital, 0, config.white).astype(np.uint16)
    return RawFrame(
        mosaic,
        config.pattern,
        camera.black,
        float(config.white),
        WHITE_BALANCE,
        COLOUR_MATRIX,
        camera.exposure_s,
        camera.name,
        nd_transmittance=camera.nd_transmittance,
    )


def lightbox(config: SimulationConfig, camera: Camera, rng: np.random.Generator) -> RawFrame:
    """Record a uniform neutral field, 60 % of white where the brightest channel is brightest."""
    signal = 1 / (np.array(WHITE_BALANCE) * camera.gain * camera.alpha.min(axis=(1, 2)))
    field = np.full((*config.shape, 3), _LIGHTBOX_LEVEL / signal.max(), np.float32)
    return record(config, camera, field, rng, average=config.lightbox_frames)
