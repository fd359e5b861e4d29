"""Training of ExpRDiff's guide on shards, and restoration of photographs with it.

`recipe` holds every setting, `objective` the loss, `trainer` the loop, `state` what a resumed run needs;
`restoration` is what `relo deblur` calls.
"""
