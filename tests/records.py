"""A record as `fit` leaves it, as short as it may be."""

from __future__ import annotations

from typing import Any

_FRAMES = {"frames": 4, "ids_hash": "same"}
RUNNING: dict[str, Any] = {
    "status": "running",
    "code": {"commit": "abc"},
    "machine": {"cpu": "fast", "gpus": [], "torch_threads": 1, "libraries": {}},
    "data": {"train": _FRAMES, "selection": _FRAMES},
    "parameters": {"encoder": 10, "head": 5, "total": 15},
}
FINISHED = {
    **RUNNING,
    "status": "finished",
    "steps_done": 20,
    "best_step": 20,
    "best_sel_abs_rel": 0.2,
}
