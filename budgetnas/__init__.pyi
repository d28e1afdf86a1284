from budgetnas.api.networks import Counted as Counted
from budgetnas.api.networks import count as count
from budgetnas.api.networks import fit as fit
from budgetnas.api.replays import replay as replay
from budgetnas.api.searches import open_study as open_study
from budgetnas.api.searches import search as search
from budgetnas.api.study import Study as Study
from budgetnas.api.trials import Trial as Trial
from budgetnas.api.trials import Trials as Trials
from budgetnas.architecture import Architecture as Architecture
from budgetnas.architecture.budget import Budget as Budget
from budgetnas.bundle.loading import load as load
from budgetnas.data.arrays import ImageArrays as ImageArrays
from budgetnas.errors import BudgetnasError as BudgetnasError
from budgetnas.errors import InputError as InputError
from budgetnas.errors import SearchFailedError as SearchFailedError
from budgetnas.samplers.budget_sampler import BudgetSampler as BudgetSampler

__version__: str
