"""Image data sets: loaded as uint8 arrays, split, subsampled, and identified by their content.

The test split is in :mod:`budgetnas.data.test_split`, which an import contract forbids the search to use.
"""

from budgetnas.data.identity import DataIdentity
from budgetnas.data.images import Images, channel_statistics
from budgetnas.data.load import Data, load_data
from budgetnas.data.request import DataRequest

__all__ = ["Data", "DataIdentity", "DataRequest", "Images", "channel_statistics", "load_data"]
