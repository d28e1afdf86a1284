"""Measurements on a GPU: scripts for ten minutes on a machine that has only what is carried to it."""
