from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from relo.report.histogram import svg_histogram


def test_is_well_formed_and_escapes_its_texts():
    svg = svg_histogram({"<a> & b": [1.0, 2.0], "c": [3.0]}, title='"x" <script>', unit="<px>", marker=(2.5, "<m>"))
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert '"x" <script>' in root.attrib["aria-label"]
    texts = [element.text for element in root.iter("text")]
    assert "<a> & b" in texts and "<px>" in texts and "<m>" in texts


def test_without_a_finite_value_there_is_no_picture():
    assert svg_histogram({"a": [float("nan"), float("inf")], "b": []}, title="t", unit="px") == ""


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [5.0] * 10, [-3.0], [1e-9]])
def test_equal_values_are_drawn(values):
    ElementTree.fromstring(svg_histogram({"a": values}, title="t", unit="px"))


def test_colour_of_a_series_does_not_depend_on_the_others():
    svg = svg_histogram({"R": [float("nan")], "G": [1.0, 2.0]}, title="t", unit="x", classes=("r", "g"))
    assert 'class="g"' in svg and 'class="r"' not in svg


def test_every_value_is_counted_once():
    svg = svg_histogram({"a": np.repeat([1.0, 2.0], [1, 3])}, title="t", unit="px", bins=2)
    path = ElementTree.fromstring(svg).find("path[@class='s0']")
    base, low_bar, high_bar = 116, 116 - 94 / 3, 22
    assert path is not None
    assert f"V{low_bar:.1f}" in path.attrib["d"] and f"V{high_bar:.1f}" in path.attrib["d"]
    assert path.attrib["d"].endswith(f"V{base}Z")
