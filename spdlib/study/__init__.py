"""How networks learn and are judged: losses, metrics, experiments, training, evaluation, runs."""
