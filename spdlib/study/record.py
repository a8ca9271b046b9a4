"""The entries of a run's record that others rely on, checked where a record is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from spdlib.errors import RunError
from spdlib.settings import shown


class _Part(BaseModel):
    """A JSON object: these entries are compared with their kinds, others may be anything."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Frames(_Part):
    frames: int
    ids_hash: str
    fingerprint: str | None = None


class _Sets(_Part):
    train: _Frames
    selection: _Frames


class _Code(_Part):
    commit: str | None
    source_hash: str | None = None


class _Card(_Part):
    model: str


class _Machine(_Part):
    cpu: str
    gpus: list[_Card]
    torch_threads: int
    libraries: dict[str, Any]


class _Parameters(_Part):
    total: int
    encoder: int


class _Evaluation(_Part):
    test: _Frames
    protocols: dict[str, str]


class _Record(_Part):
    status: str
    code: _Code
    machine: _Machine
    data: _Sets
    parameters: _Parameters
    encoder_weights_sha256: str | None = None
    init_from_sha256: str | None = None
    continued_at: list[dict[str, Any]] = []
    evaluation: _Evaluation | None = None


class _Finished(_Record):
    status: Literal["finished"]
    steps_done: int
    best_step: int
    best_sel_abs_rel: float


def checked(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record. RunError names the first entry that is missing or of another kind."""
    kind = _Finished if record.get("status") == "finished" else _Record
    try:
        kind.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        entry, found = ".".join(map(str, first["loc"])), first["input"]
        got = "" if first["type"] == "missing" else f"; got {shown(found)}"
        raise RunError(
            f"{path}: is no record of a run ({entry}: {first['msg']}{got}); restore it, or delete "
            "the run's folder and train again"
        ) from None
    return record
