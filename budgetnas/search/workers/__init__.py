"""Who trains the trials of a search: processes of this machine, or a Ray cluster, and the watch over them."""
