"""Image data sets: loaded once as uint8 arrays, split, thinned, and identified by their content.

The test split is not here but in :mod:`budgetnas.data.test_split`, where an import contract keeps the search away.
"""

from budgetnas.data.identity import DataIdentity
from budgetnas.data.images import Images, channel_statistics
from budgetnas.data.load import Data, load_data
from budgetnas.data.request import DataRequest

__all__ = ["Data", "DataIdentity", "DataRequest", "Images", "channel_statistics", "load_data"]
