"""Bundles: a trained network as a folder, exported from a record, checked, and loaded without its study."""
