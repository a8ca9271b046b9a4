"""The named faults of the log, each once: what is wrong, and the option that switches it on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Fault(NamedTuple):
    """One fault of the recorded runs.

    Attributes:
        code: its number, cited in docstrings.
        wrong: what is wrong.
        option: the setting that switches it on, if it can be.
        off: the setting's default, without the fault.
        recorded: its value with the fault.
        owner: whose setting it is: "network", "encoder", "data" or "objective".
        note: what is done about a fault without an option: off / recorded.
    """

    code: str
    wrong: str
    option: str = ""
    off: str = ""
    recorded: str = ""
    owner: str = ""
    note: tuple[str, str] = ("–", "–")

    def row(self) -> str:
        """Its line in docs/faults.md."""
        off, recorded = self.note
        if self.option:
            off, recorded = (f"`{self.option}={value}`" for value in (self.off, self.recorded))
        return f"| {self.code} | {self.wrong} | {off} | {recorded} | {self.owner or '–'} |"


FAULTS = (
    Fault(
        "F1",
        "validation frames are squashed, training frames are not: objects look smaller, depth "
        "comes out too large",
        *("validation", "aspect", "squash", "data"),
    ),
    Fault(
        "F2",
        "experiments 1 to 10 saw the first archive of the training set, 4,133 frames of some 40 "
        "scenes, mostly bathrooms",
        *("train_subset", "all", "first_shard", "data"),
    ),
    Fault(
        "F3",
        'experiment 10\'s "full set, batch 92" does not agree with its 517 steps an epoch',
        note=("–", "runs as 8 of the first archive"),
    ),
    Fault(
        "F4",
        "one unseeded run each; the best epoch is chosen on the test frames",
        note=("seeds; weights chosen on selection frames", "–"),
    ),
    Fault(
        "F5",
        "scores on whole frames of the network's size, without the Eigen crop",
        note=("protocol *eigen*", "protocol *recorded*, always beside"),
    ),
    Fault(
        "F6",
        "SILog printed with half its weight; RMSE and s* pooled over all pixels",
        note=("each metric per image, then the mean", "protocol *recorded*"),
    ),
    Fault(
        "F7",
        "the head computes in bfloat16: depths come in steps of 0.8 to 1.6 %",
        *("head_dtype", "float32", "bfloat16", "network"),
    ),
    Fault(
        "F9",
        "v13 finds cells by u / stride, v14 on a grid from the first cell's centre to the last "
        "one's; both read with `align_corners=True`: up to half a cell off, the last half cell "
        "fades into zeros",
        *("grid_rule", "half_pixel", "recorded", "network"),
    ),
    Fault(
        "F10",
        "whole-cell offsets enter a Fourier code of whole frequencies: all 24 of L1 have one code",
        *("offset_code", "scaled", "recorded", "network"),
    ),
    Fault(
        "F11",
        "tokens of L3 and L4 do not know where they lie",
        *("token_positions", "sincos", "none", "network"),
    ),
    Fault(
        "F12",
        "experiments 1 to 5 show a pretrained encoder images that are not normalised",
        *("input_norm", "weights", "none", "encoder"),
    ),
    Fault(
        "F13",
        "untrained self-attention stands between trained stages of the encoder, at ten times its "
        "rate",
        *("inserted_attention", "zero", "random", "network"),
    ),
    Fault(
        "F16",
        "v14's deformable reads start by PyTorch's default: 0.58 map units of spread, 41 % outside "
        "the map",
        *("msda_init", "directional", "default", "network"),
    ),
    Fault(
        "F17a",
        "v14 writes to the cell below a query but reads up to 0.9 cell apart (F9); what queries of "
        "one cell write adds up",
        *("canvas_write", "mean", "sum", "network"),
    ),
    Fault(
        "F17b",
        "a canvas written in place cannot be differentiated",
        note=("written out of place", "–"),
    ),
    Fault(
        "F17c",
        "v14's heads lack the documented bias: training starts at 1 m",
        *("head_bias", "median", "zero", "network"),
    ),
    Fault(
        "F17d",
        "targets of the auxiliary heads mix measured depth with holes",
        *("aux_target", "masked", "bilinear", "objective"),
    ),
    Fault(
        "F18",
        "v15.0 and v15.1 answer queries from patches that are not the map they were trained as: "
        "read up to 7 px aside, upsampled corners on corners",
        *("query_path", "exact", "recorded", "network"),
    ),
)


def recorded_values(options: Iterable[str]) -> dict[str, str]:
    """The recorded value of every one of these options that switches a fault on."""
    wanted = set(options)
    return {fault.option: fault.recorded for fault in FAULTS if fault.option in wanted}


def table() -> str:
    """The table of docs/faults.md."""
    head = "| fault | what is wrong | put right by default | as recorded | setting of |\n"
    return head + "|---|---|---|---|---|\n" + "\n".join(fault.row() for fault in FAULTS)
