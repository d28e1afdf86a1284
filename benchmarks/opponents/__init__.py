"""Search algorithms of others, for `python -m benchmarks.search`: all train only candidates within the limit.

A module that needs a package outside this project's dependencies imports it when a search with it starts. The
packages are in `requirements-NAME.txt`, to be installed in an environment of their own (docs/samplers.md).
"""
