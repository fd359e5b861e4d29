"""relo: from the RAW pairs of a beam-splitter rig to a trained local-motion-deblurring model.

Data moves left to right, once: `relo.capture` -> `relo.postprocess` -> `relo.masks` -> `relo.shards` ->
`relo.training` -> `relo.report` -> `relo.cli`. Nothing on the left imports anything on its right.
"""

__version__ = "0.1.0"
