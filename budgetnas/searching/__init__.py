"""The search: a study, its sampler, its trials and its loop."""
