"""Whole photographs through a trained network: arrays, files, and windows where the memory does not suffice."""
