"""The faults of the recorded runs that can be switched on; docs/faults.md says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Fault(NamedTuple):
    """One fault that a setting switches on.

    Attributes:
        code: its number, cited in docstrings.
        option: the setting, of a network, its encoder, the data or the objective.
        off: the setting's default, without the fault.
        recorded: its value with the fault.
    """

    code: str
    option: str
    off: str
    recorded: str


FAULTS = (
    Fault("F1", "validation", "aspect", "squash"),
    Fault("F2", "train_subset", "all", "first_shard"),
    Fault("F7", "head_dtype", "float32", "bfloat16"),
    Fault("F9", "grid_rule", "half_pixel", "recorded"),
    Fault("F10", "offset_code", "scaled", "recorded"),
    Fault("F11", "token_positions", "sincos", "none"),
    Fault("F12", "input_norm", "weights", "none"),
    Fault("F13", "inserted_attention", "zero", "random"),
    Fault("F16", "msda_init", "directional", "default"),
    Fault("F17a", "canvas_write", "mean", "sum"),
    Fault("F17c", "head_bias", "median", "zero"),
    Fault("F17d", "aux_target", "masked", "bilinear"),
)


def recorded_values(options: Iterable[str]) -> dict[str, str]:
    """The recorded value of every one of these options that switches a fault on."""
    wanted = set(options)
    return {fault.option: fault.recorded for fault in FAULTS if fault.option in wanted}
