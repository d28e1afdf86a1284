"""Architectures and their static costs, without building a network."""

from budgetnas.architecture.blocks import BLOCKS, Block, Branches, block_counts
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
from budgetnas.architecture.model import Architecture, default_stem_stride, default_strides
from budgetnas.architecture.named import NAMES, named, parse_architecture
from budgetnas.architecture.primitives import Counts, Path, Primitive, Shape, path_counts

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
    "block_counts",
    "count",
    "count_parts",
    "default_stem_stride",
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
