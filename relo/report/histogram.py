"""Small histograms as inline SVG; colours come from the page's style sheet, so that they follow dark mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 22, 34


def svg_histogram(
    series: Mapping[str, np.ndarray | Sequence[float]],
    *,
    title: str,
    unit: str,
    marker: tuple[float, str] | None = None,
    classes: Sequence[str] = ("s0", "s1"),
    bins: int = 24,
) -> Markup:
    """Draw one or a few distributions over a shared axis.

    Parameters
    ----------
    series : mapping of label -> values
        Values that are not finite are left out.
    title : str
        Caption, and the text for screen readers.
    unit : str
        Of the values.
    marker : (value, label), optional
        A vertical line for comparison.
    classes : sequence of str
        Class of each series in the style sheet, which gives its colour.
    bins : int

    Returns
    -------
    Markup
        An `<svg>` element; labels are escaped. Empty where no value is finite.
    """
    finite = {label: _finite(values) for label, values in series.items()}
    colours = dict(zip(series, classes, strict=False))
    finite = {label: values for label, values in finite.items() if values.size}
    if not finite:
        return Markup("")
    low, high = _range(list(finite.values()), marker)
    counts = {label: np.histogram(values, bins, (low, high))[0] for label, values in finite.items()}
    most = max(int(count.max()) for count in counts.values())
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    base = _TOP + plot_height

    def x_of(value: float) -> float:
        return _LEFT + plot_width * (value - low) / (high - low)

    parts = []
    for label, count in counts.items():
        edges = np.linspace(_LEFT, _LEFT + plot_width, bins + 1)
        tops = base - plot_height * count / most
        steps = "".join(f"V{top:.1f}H{edge:.1f}" for top, edge in zip(tops, edges[1:], strict=True))
        parts.append(f'<path class="{colours[label]}" d="M{edges[0]:.1f} {base}{steps}V{base}Z"/>')
    parts.append(f'<path class="axis" d="M{_LEFT} {base}H{_WIDTH - _RIGHT}"/>')
    if marker is not None:
        place = x_of(marker[0])
        anchor = "end" if place > _WIDTH / 2 else "start"
        shift = -4 if anchor == "end" else 4
        parts.append(f'<path class="marker" d="M{place:.1f} {_TOP - 6}V{base}"/>')
        parts.append(
            f'<text x="{place + shift:.1f}" y="{_TOP - 9}" text-anchor="{anchor}">{escape(marker[1])}</text>'
        )
    for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        text = _number(value, high - low)
        parts.append(f'<text x="{x_of(value):.1f}" y="{base + 14}" text-anchor="{anchor}">{text}</text>')
    parts.append(f'<text x="{_WIDTH / 2:g}" y="{base + 28}" text-anchor="middle">{escape(unit)}</text>')
    x = float(_LEFT)
    if len(counts) > 1:
        for label in counts:
            parts.append(f'<rect class="{colours[label]}" x="{x:g}" y="3" width="9" height="9"/>')
            parts.append(f'<text x="{x + 13:g}" y="11">{escape(label)}</text>')
            x += 26 + 6.2 * len(label)
    sizes = "; ".join(f"{label}: median {np.median(values):.4g}" for label, values in finite.items())
    described = escape(f"Histogram. {title} [{unit}]. {sizes}. {low:.4g} to {high:.4g}.")
    return Markup(  # every text in it went through escape
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{described}">'
        f"{''.join(parts)}</svg>"
    )


def _finite(values: np.ndarray | Sequence[float]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    return array[np.isfinite(array)]


def _range(values: list[np.ndarray], marker: tuple[float, str] | None) -> tuple[float, float]:
    everything = np.concatenate([*values, np.array([] if marker is None else [marker[0]])])
    low, high = float(everything.min()), float(everything.max())
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    if high - low < 1e-6 * max(abs(high), 1e-3):
        margin = max(0.05 * abs(high), 1e-3)
        low, high = low - margin, high + margin
    return low, high


def _number(value: float, span: float) -> str:
    decimals = 0 if span >= 20 else 1 if span >= 2 else 2 if span >= 0.2 else 3
    return f"{value:.{decimals}f}"
