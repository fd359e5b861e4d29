"""Two camera folders to a session: what belongs together, where it goes, and putting it there."""

from relo.capture.ingest.options import IngestOptions
from relo.capture.ingest.placing import place
from relo.capture.ingest.plan import IngestPlan, plan_ingest

__all__ = ["IngestOptions", "IngestPlan", "place", "plan_ingest"]
