"""Deblurring with a short exposure at once, without any training: what `relo deblur exprdiff-instant` does.

The short exposure is brought to the photograph's brightness (`matching`) and place (`alignment`). What it shows
otherwise than the photograph is kept as far as it is more than noise (`shrinkage`), and only inside of the mask
(`composite`). `restore` strings them together. `prefiltered` is the guided filter of the paper with its main
weakness mended, for those who want a filter.
"""
