"""Short-exposure guided diffusion (ExpRDiff, arXiv 2412.09193): an SDXL whose denoising a short exposure guides.

What is trained (`guide`, made of `features`, `fusion` and `control`), what it sees (`conditioning`), how it enters
the frozen UNet (`guided_unet`), what comes from the base model (`base`, `prompts`, `latents`), how an image is
drawn (`schedule`, `sampling`, `tiles`), and what is done to it afterwards (`colour_fix`). `weights` reads and
writes the trained parts alone.

Where the paper is silent or wrong, the choice made is named in the docstring of the module concerned. Only `base`
and `prompts` load weights, and they and `control` import the optional package diffusers, in functions.
"""
