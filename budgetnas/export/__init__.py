"""From a record to a bundle: which training, its weights kept or made again, what its figures are of."""
