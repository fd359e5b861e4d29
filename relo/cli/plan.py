"""`relo plan`: exposure times for a wanted blur extent."""

from __future__ import annotations

import click

from relo.cli.common import finish, json_option


@click.command(epilog="Example:  relo plan --pitch 3.45 --focal 16 --distance 4 --speed 1.5 --blur 40 --tau 0.05")
@click.option("--pitch", type=float, required=True, help="Pixel pitch [um].")
@click.option("--focal", type=float, required=True, help="Focal length [mm].")
@click.option("--distance", type=float, required=True, help="Distance of the object [m].")
@click.option("--speed", type=float, required=True, help="Speed across the optical axis [m/s].")
@click.option("--blur", "blur_px", type=float, help="Blur extent of camera B [px].")
@click.option("--sharp", "sharp_px", type=float, help="Displacement during the short exposure [px].")
@click.option("--tau", type=float, help="Transmittance of the ND filter in front of camera B.")
@click.option("--t-short", type=float, help="Short exposure [ms].")
@click.option("--t-long", type=float, help="Long exposure [ms].")
@json_option
def command(
    pitch: float,
    focal: float,
    distance: float,
    speed: float,
    blur_px: float | None,
    sharp_px: float | None,
    tau: float | None,
    t_short: float | None,
    t_long: float | None,
    as_json: bool,
) -> None:
    """Exposure times for a wanted blur extent, or the blur of given exposure times (ReLoBlur eq. 2).

    Give two of: the short exposure (--sharp or --t-short), the long one (--blur or --t-long), --tau.
    """
    from relo.capture.exposure import plan_exposure

    try:
        plan = plan_exposure(
            pixel_pitch_m=1e-6 * pitch,
            focal_length_m=1e-3 * focal,
            distance_m=distance,
            speed_m_s=speed,
            sharp_px=sharp_px,
            blur_px=blur_px,
            tau=tau,
            t_short_s=None if t_short is None else 1e-3 * t_short,
            t_long_s=None if t_long is None else 1e-3 * t_long,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    lines = [
        f"short exposure   {1e3 * plan.t_short_s:10.4g} ms   moves {plan.sharp_px:.3g} px",
        f"long exposure    {1e3 * plan.t_long_s:10.4g} ms   moves {plan.blur_px:.3g} px",
        f"ND filter        {plan.tau:10.4g} tau  {plan.nd_stops:.2f} stops",
        f"trail centre     {plan.centroid_offset_px:10.3g} px   away from the sharp object",
        *(f"warning: {warning}" for warning in plan.warnings),
    ]
    details = {
        "t_short_s": plan.t_short_s,
        "t_long_s": plan.t_long_s,
        "tau": plan.tau,
        "nd_stops": plan.nd_stops,
        "sharp_px": plan.sharp_px,
        "blur_px": plan.blur_px,
        "centroid_offset_px": plan.centroid_offset_px,
        "warnings": list(plan.warnings),
    }
    finish(as_json=as_json, done=1, details=details, lines=lines)
