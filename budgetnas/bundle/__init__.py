"""A trained network as a folder: written once, checked, and loaded without what it was searched with."""
