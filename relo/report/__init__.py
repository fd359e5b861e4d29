"""The HTML quality report: one self-contained page for a dataset folder."""

from relo.report.page import write_report

__all__ = ["write_report"]
