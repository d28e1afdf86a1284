"""A trained network as a folder: made from a record, checked, and loaded without what it was searched with."""
