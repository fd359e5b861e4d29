"""Names of the files in a run folder."""

RECIPE = "recipe.yaml"
RUN = "run.json"
LAST = "last.ckpt"
METRICS = "metrics.jsonl"
