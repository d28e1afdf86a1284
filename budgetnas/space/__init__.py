"""What a search may propose: the search space, recipes, initial trials, the study specification, and what fits."""
