"""Architectures: what is built, and what it costs, without building it."""

from budgetnas.architecture.blocks import BLOCKS, Block, Branches
from budgetnas.architecture.counting import (
    Part,
    count,
    count_parts,
    head,
    head_counts,
    stage_counts,
    stem,
    stem_counts,
)
from budgetnas.architecture.model import Architecture, default_strides
from budgetnas.architecture.named import NAMES, named
from budgetnas.architecture.primitives import Counts, Path, Primitive, Shape, path_counts
from budgetnas.architecture.written import parse_architecture

__all__ = [
    "BLOCKS",
    "NAMES",
    "Architecture",
    "Block",
    "Branches",
    "Counts",
    "Part",
    "Path",
    "Primitive",
    "Shape",
    "count",
    "count_parts",
    "default_strides",
    "head",
    "head_counts",
    "named",
    "parse_architecture",
    "path_counts",
    "stage_counts",
    "stem",
    "stem_counts",
]
