"""Workers: processes of this machine, or tasks of a Ray cluster, that search together."""
