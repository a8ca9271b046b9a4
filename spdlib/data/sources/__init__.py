"""Readers of the layouts in which people keep NYU Depth V2 or frames of their own.

Each reader is a `Source`: it lists its files when made, refuses what does not pair up, and decodes
a frame when it is indexed. A new layout is one more reader in `LAYOUTS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spdlib.data.frames import Frames
from spdlib.data.sources.fastdepth import FastDepthFolder, TarShards
from spdlib.data.sources.folder import PlainFolder
from spdlib.data.sources.nyu import BTSFolder, LabelledMat
from spdlib.data.store import PackedFrames
from spdlib.errors import ConfigError, DataError
from spdlib.reading import reading

LAYOUTS: tuple[Any, ...] = (
    LabelledMat,
    PackedFrames,
    PlainFolder,
    BTSFolder,
    TarShards,
    FastDepthFolder,
)
"""Every reader, in the order in which a path is shown to them: `recognises(path)` says whether the
path has its layout, `open_splits(path, **options)` gives its frames by split, `expects` describes
the layout in an error."""


def open_source(path: str | Path, **options: Any) -> Mapping[str, Frames]:
    """Split name -> frames of a data set in any of the `LAYOUTS`.

    Args:
        path: a folder, the labelled .mat, or a packed store.
        options: passed to the reader's `open_splits`.

    Raises:
        DataError: no known layout, or what the reader raises.
        ConfigError: an option that the recognised layout does not have.
    """
    path = Path(path)
    for reader in LAYOUTS:
        with reading(path, "is no path of a data set", "check it"):
            recognised = reader.recognises(path)
        if recognised:
            unknown = set(options) - set(inspect.signature(reader.open_splits).parameters)
            if unknown:
                raise ConfigError(f"{path}: its layout has no option {', '.join(sorted(unknown))}")
            return reader.open_splits(path, **options)
    state = "holds no layout that SPD knows" if path.exists() else "does not exist"
    raise DataError(f"{path}: {state}; expected {', '.join(r.expects for r in LAYOUTS)}")
