"""Training: `fit` is one loop for every network, on a CPU, one GPU or several processes.

`setup` makes all that a run starts with, in a folder that may be its own; `loop` is read from top
to bottom; `state` is all that the next step depends on, with save and restore; `preflight` looks at
frames and network before the first step; `report` prints, logs and hears requests to stop.
"""

from spdlib.study.training.loop import fit as fit
from spdlib.study.training.setup import build_model as build_model
from spdlib.study.training.setup import effective_focal as effective_focal
from spdlib.study.training.setup import make_accelerator as make_accelerator
