"""A language model that proposes candidates of a study into Optuna's queue, from which all workers draw."""
