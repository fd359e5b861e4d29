"""Folders as public datasets lay them out, one module a layout."""
