"""Bad saved networks, scenes, runs, notebooks and commands."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.bench import (
    BINARY,
    DEEP,
    DIGITS,
    NAN,
    WEIGHTS,
    Bad,
    Bench,
    content,
    cut,
    entry,
    flip,
    replaced,
    tensors,
)

# -- saved networks and scenes -------------------------------------------------------------------


def _model(change: Any, file: str = "config.json") -> Callable[[Bench], Path]:
    return lambda b: b.damaged("model", change, file)


HUGE_HEADER = content(struct.pack("<Q", 2**40) + b"{}")


def _first_nan(arrays: dict[str, Any]) -> None:
    arrays[next(name for name in arrays if arrays[name].dtype.kind == "f")].fill(NAN)


def _bit(arrays: dict[str, Any]) -> None:
    array = next(each for each in arrays.values() if each.dtype.kind == "f" and each.size)
    array.reshape(-1)[:1].view(np.uint8)[0] ^= 1


def _drop(arrays: dict[str, Any]) -> None:
    arrays.pop(next(iter(arrays)))


MODELS = (
    Bad("model", "no such folder", lambda b: b.root / "none", r"none.*folder"),
    Bad("model", "a file", lambda b: b.written("file", "a"), r"file.*folder"),
    Bad("model", "an empty folder", lambda b: b.root, r"config\.json.*folder"),
    Bad("model", "no config.json", lambda b: b.without("model", "config.json"), r"config\.json"),
    Bad("model", "no weights", lambda b: b.without("model", WEIGHTS), r"model\.safetensors"),
    Bad("model", "config.json empty", _model(content("")), r"config\.json: .*take another"),
    Bad("model", "config.json binary", _model(content(BINARY)), r"config\.json: .*take another"),
    Bad("model", "config.json a list", _model(content("[]")), r"config\.json: .*take another"),
    Bad("model", "config.json null", _model(content("null")), r"config\.json: .*take another"),
    Bad("model", "config.json deep", _model(content(DEEP)), r"config\.json: .*take another"),
    Bad("model", "5,000 digits", _model(entry(0, "focal")), r"config\.json.*focal"),
    Bad("model", "config.json a pipe", lambda b: b.piped("model", "config.json"), r"config\.json"),
    Bad("model", "weights a pipe", lambda b: b.piped("model", WEIGHTS),
        r"model\.safetensors.*pipe"),
    Bad("model", "other focal length", _model(entry(61.0, "focal")), r"config\.json.*focal.*61"),
    Bad("model", "NaN focal length", _model(entry(NAN, "focal")), r"config\.json.*focal.*nan"),
    Bad("model", "other mean", _model(entry([0.1, 0.1, 0.1], "encoder", "mean")),
        r"config\.json.*mean"),
    Bad("model", "other std", _model(entry([1, 1, 1], "encoder", "std")), r"config\.json.*std"),
    Bad("model", "other size", _model(entry([32, 96], "image_size")), r"config\.json.*image_size"),
    Bad("model", "unknown network", _model(entry("v\0", "network")), r"unknown network"),
    Bad("model", "unknown encoder", _model(entry("../x", "encoder", "name")), r"\.\./x"),
    Bad("model", "encoder a list", _model(entry([], "encoder")), r"config\.json"),
    Bad("model", "unknown option", _model(entry({"x": 1}, "options")), r"config\.json.*'x'|option"),
    Bad("model", "10^9 pixels a side", _model(entry([10**9] * 2, "image_size")), r"image_size"),
    Bad("model", "weights cut", _model(cut(0.5), WEIGHTS), r"model\.safetensors: .*another"),
    Bad("model", "weights empty", _model(content(""), WEIGHTS), r"model\.safetensors: .*another"),
    Bad("model", "a header of 10^12 bytes", _model(HUGE_HEADER, WEIGHTS), r"model\.safetensors"),
    Bad("model", "a flipped bit", _model(flip(0.9), WEIGHTS), r"model\.safetensors.*another"),
    Bad("model", "a changed weight", _model(tensors(_bit), WEIGHTS),
        r"model\.safetensors.*another"),
    Bad("model", "NaN weights", _model(tensors(_first_nan), WEIGHTS),
        r"model\.safetensors.*another"),
    Bad("model", "a missing weight", _model(tensors(_drop), WEIGHTS), r"model\.safetensors"),
    Bad("encoder weights", "no such file", lambda b: b.root / "x.safetensors", r"x\.safetensors"),
    Bad("encoder weights", "a folder", lambda b: b.copy("model"), r"model.*folder"),
    Bad("encoder weights", "a pipe", lambda b: b.pipe("w.safetensors"), r"w\.safetensors.*pipe"),
    Bad("encoder weights", "a device", lambda b: Path("/dev/zero"), r"/dev/zero.*device"),
    Bad("encoder weights", "cut", lambda b: b.damaged("weights", cut(0.5)),
        r"encoder\.safetensors"),
    Bad("encoder weights", "a pickle", lambda b: b.written("w.pth", b"\x80\x04cos\nsystem\n."),
        r"w\.pth"),
    Bad("encoder weights", "of another encoder", lambda b: b.copy("model") / WEIGHTS,
        r"model\.safetensors"),
    Bad("encoder weights", "NaN", lambda b: b.damaged("weights", tensors(_first_nan)),
        r"encoder\.safetensors.*(NaN|finite)"),
    Bad("scene", "no such file", lambda b: b.root / "none", r"none.*check the path"),
    Bad("scene", "a folder", lambda b: b.root, r"folder"),
    Bad("scene", "a pipe", lambda b: b.pipe("s.safetensors"), r"s\.safetensors.*pipe"),
    Bad("scene", "empty", lambda b: b.damaged("scene", content("")), r"encode the image again"),
    Bad("scene", "text", lambda b: b.damaged("scene", content("a scene")),
        r"encode the image again"),
    Bad("scene", "a network's file", lambda b: b.copy("model") / WEIGHTS,
        r"encode the image again"),
    Bad("scene", "cut", lambda b: b.damaged("scene", cut(0.7)), r"encode the image again"),
    Bad("scene", "a flipped bit", lambda b: b.damaged("scene", flip(0.9)),
        r"encode the image again"),
    Bad("scene", "another focal length", lambda b: b.damaged("scene", replaced('60.0', '66.0')),
        r"scene\.safetensors.*encode the image again"),
    Bad("scene", "another size", lambda b: b.damaged("scene", replaced("[32, 64]", "[32, 65]")),
        r"scene\.safetensors.*encode the image again"),
    Bad("scene", "a size that is text",
        lambda b: b.damaged("scene", replaced("[32, 64]", '"2, 64"')),
        r"scene\.safetensors.*encode the image again"),
    Bad("scene", "a missing map", lambda b: b.damaged("scene", tensors(_drop)),
        r"scene\.safetensors.*encode the image again"),
    Bad("scene", "a changed value", lambda b: b.damaged("scene", tensors(_bit)),
        r"scene\.safetensors.*encode the image again"),
)  # fmt: skip

# -- runs, notebooks, command line ---------------------------------------------------------------


def _ran(change: Any, file: str) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("run", change, file)


LAST = "last/state.safetensors"


def _unfinished(change: Any, file: str) -> Callable[[Bench], Path]:
    """The run as if it had been killed, with one file damaged."""

    def made(bench: Bench) -> Path:
        folder = bench.damaged("run", entry("running", "status"), "record.json")
        target = folder / file
        target.write_bytes(change(target.read_bytes()))
        return folder

    return made


def _gone(file: str) -> Callable[[Bench], Path]:
    """The run as if it had been killed, with one file missing."""

    def made(bench: Bench) -> Path:
        folder = bench.damaged("run", entry("running", "status"), "record.json")
        (folder / file).unlink()
        return folder

    return made


OTHER_KINDS: list[tuple[str, Any]] = [
    *((name, other) for name in ("machine", "data", "code") for other in (None, 5)),
    *(("data", []), ("code", []), ("continued_at", 5)),
]


def _of_another_kind(name: str, value: Any) -> Bad:
    """An entry of an unfinished run's record."""
    made = _unfinished(entry(value, name), "record.json")
    return Bad(
        "resume", f"record.json with {name} {value}", made, rf"record\.json.*{name}.*restore"
    )


def _published_pipe(bench: Bench) -> Path:
    folder = bench.copy("run")
    bench.written("run/metrics.csv", "a\n1\n")
    bench.pipe("run/preflight.csv")
    return folder


RUNS = (
    Bad("run", "no such folder", lambda b: b.root / "none", r"none.*folder that `train` wrote"),
    Bad("run", "an empty folder", lambda b: b.root, r"config\.json is missing"),
    Bad("run", "config.json a list", _ran(content("[]"), "config.json"), r"config\.json"),
    Bad("run", "config.json cut", _ran(cut(0.5), "config.json"), r"config\.json.*restore"),
    Bad("run", "config.json deep", _ran(content(DEEP), "config.json"), r"config\.json"),
    Bad("run", "config.json with an unknown setting", _ran(entry(1, "stepz"), "config.json"),
        r"stepz"),
    Bad("run", "config.json with NaN", _ran(entry(NAN, "optimizer", "decoder_lr"), "config.json"),
        r"config\.json.*decoder_lr"),
    Bad("run", "config.json with 5,000 digits", _ran(replaced('"seed": 0', f'"seed": {DIGITS}'),
        "config.json"), r"config\.json"),
    Bad("run", "config.json a pipe", lambda b: b.piped("run", "config.json"), r"config\.json"),
    Bad("run", "record.json text", _ran(content("fine"), "record.json"), r"record\.json.*restore"),
    Bad("run", "record.json missing", lambda b: b.without("run", "record.json"), r"record\.json"),
    Bad("run", "history.csv binary", _ran(content(BINARY), "history.csv"), r"history\.csv"),
    Bad("run", "history.csv empty", _ran(content(""), "history.csv"), r"history\.csv"),
    Bad("run", "history.csv ragged", _ran(content("a,b\n1,2,3\n1\n1,2,3,4\n"), "history.csv"),
        r"history\.csv"),
    Bad("run", "no best weights", lambda b: b.without("run", "best/model.safetensors"),
        r"model\.safetensors"),
    Bad("resume", "state cut", _unfinished(cut(0.5), LAST), r"state\.safetensors.*delete"),
    Bad("resume", "state empty", _unfinished(content(""), LAST), r"state\.safetensors.*delete"),
    Bad("resume", "state with a flipped bit", _unfinished(flip(0.9), LAST),
        r"state\.safetensors.*delete"),
    Bad("resume", "state of another network",
        lambda b: _unfinished(content((b.valid.model / WEIGHTS).read_bytes()), LAST)(b),
        r"state\.safetensors.*delete"),
    Bad("resume", "history.csv damaged", _unfinished(content(BINARY), "history.csv"),
        r"history\.csv"),
    Bad("run", "record.json {}", _ran(content("{}"), "record.json"), r"record\.json.*restore"),
    Bad("run", "record.json without an outcome", _ran(content('{"status": "finished"}'),
        "record.json"), r"record\.json.*restore"),
    Bad("run", "history.csv a pipe", lambda b: b.piped("run", "history.csv"),
        r"history\.csv: is a pipe"),
    Bad("resume", "no history.csv", _gone("history.csv"), r"history\.csv: is gone.*restore"),
    Bad("resume", "no best weights", _gone("best/model.safetensors"), r"best/model.*is gone"),
    Bad("resume", "no config.json of the last weights", _gone("last/config.json"),
        r"last/config\.json: is gone; restore"),
    Bad("resume", "record.json {}", _ran(content("{}"), "record.json"), r"record\.json.*restore"),
    *(_of_another_kind(name, value) for name, value in OTHER_KINDS),
    Bad("publish", "a table is a pipe", _published_pipe, r"preflight\.csv: is a pipe"),
    Bad("publish", "not evaluated", lambda b: b.copy("run"), r"metrics\.csv.*evaluate"),
)  # fmt: skip


def _book(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("notebook", change)


NOTEBOOKS = (
    Bad("notebook", "no such file", lambda b: b.root / "n.ipynb", r"n\.ipynb.*check the path"),
    Bad("notebook", "a folder", lambda b: b.root, r"folder"),
    Bad("notebook", "a pipe", lambda b: b.pipe("n.ipynb"), r"n\.ipynb.*pipe"),
    Bad("notebook", "empty", _book(content("")), r"small\.ipynb.*save it again"),
    Bad("notebook", "text", _book(content("x = 3")), r"small\.ipynb.*save it again"),
    Bad("notebook", "binary", _book(content(BINARY)), r"small\.ipynb.*save it again"),
    Bad("notebook", "a list", _book(content("[]")), r"small\.ipynb.*save it again"),
    Bad("notebook", "deep", _book(content(DEEP)), r"small\.ipynb.*save it again"),
    Bad("notebook", "of version 99", _book(entry(99, "nbformat")), r"small\.ipynb.*save it again"),
    Bad("notebook", "without cells", _book(content('{"nbformat": 4}')), r"small\.ipynb.*save it"),
    Bad("notebook", "cells a number", _book(entry(3, "cells")), r"small\.ipynb.*save it again"),
    Bad("notebook", "a cell a word", _book(entry(["a"], "cells")), r"small\.ipynb.*save it again"),
    Bad("notebook", "a cell without source", _book(entry([{"cell_type": "code"}], "cells")),
        r"small\.ipynb.*save it again"),
    Bad("notebook", "a source that is null", _book(entry(None, "cells", 0, "source")),
        r"small\.ipynb.*save it again"),
    Bad("notebook", "a source that is a number", _book(entry(3, "cells", 1, "source")),
        r"small\.ipynb.*save it again"),
    Bad("notebook", "half a surrogate pair", _book(entry("x = '\ud800'", "cells", 1, "source")),
        r"small\.ipynb.*surrogates.*save it again"),
    Bad("notebook", "metadata.papermill a number", _book(entry(3, "metadata", "papermill")),
        r"small\.ipynb.*metadata\.papermill is 3.*save it again"),
    Bad("notebook", "a cell's metadata.papermill null",
        _book(entry(None, "cells", 0, "metadata", "papermill")),
        r"small\.ipynb.*metadata\.papermill is None.*save it again"),
    Bad("notebook", "an output that is a number", _book(entry([{"output_type": "display_data",
        "data": {"text/plain": 5}, "metadata": {}}], "cells", 1, "outputs")),
        r"small\.ipynb.*save it again"),
    Bad("run notebook", "text that is none", lambda b: {"parameters": {"name": "caf\udce9"}},
        r"'name' takes text in UTF-8"),
    Bad("run notebook", "what JSON does not hold", lambda b: {"parameters": {"name": b"a"}},
        r"'name' takes text in UTF-8"),
    Bad("run notebook", "output whose name is no text",
        lambda b: {"output": b.root / "\udce9.ipynb"}, r"is no name in UTF-8.*choose another"),
    Bad("run notebook", "unknown parameter", lambda b: {"parameters": {"stepz": 3}},
        r"stepz.*steps"),
    Bad("run notebook", "parameter of another kind", lambda b: {"parameters": {"steps": "x"}},
        r"'steps' takes int"),
    Bad("run notebook", "output that is no notebook", lambda b: {"output": b.root / "o.html"},
        r"o\.html.*\.ipynb"),
    Bad("run notebook", "output over itself",
        lambda b: {"output": b.root / "notebook" / "small.ipynb"}, r"is the notebook itself"),
    Bad("run notebook", "output below a file",
        lambda b: {"output": b.written("file", "") / "o.ipynb"}, r"file.*cannot be written"),
)  # fmt: skip


def _call(*words: Any) -> Callable[[Bench], list[Any]]:
    return lambda b: [word(b) if callable(word) else word for word in words]


def _under(name: str) -> Callable[[Bench], Path]:
    return lambda b: b.root / name


def _bad_store(bench: Bench) -> Path:
    return bench.damaged("store", flip(0.5))


COMMANDS = (
    Bad("command", "unknown", _call("trian"), r"'trian'.*'train'"),
    Bad("command", "unknown experiment", _call("train", "v16", "--out", _under("x")), r"v16"),
    Bad("command", "unknown profile", _call("train", "v15_2", "--profile", "big"), r"big"),
    Bad("command", "5,000 digits", _call("train", "v15_2", "--set", f"steps={DIGITS}"), r"steps"),
    Bad("command", "deep", _call("train", "v15_2", "--set", f"steps={DEEP}"), r"steps"),
    Bad("command", "NaN rate", _call("train", "v15_2", "--set", "decoder_lr=NaN"), r"_lr=nan"),
    Bad("command", "a data set for rooms", _call("train", "v15_2", "--data", _under("x.h5")),
        r"x\.h5.*leave it out"),
    Bad("command", "verify a damaged store", _call("data", "verify", _bad_store),
        r"store\.h5.*again"),
    Bad("command", "verify nothing", _call("data", "verify", _under("n.h5")), r"n\.h5"),
    Bad("command", "verify a pipe", _call("data", "verify", lambda b: b.pipe("p.h5")), r"p\.h5"),
    Bad("command", "info of text", _call("data", "info", lambda b: b.written("a.h5", "a")),
        r"a\.h5"),
    Bad("command", "pack an empty folder", _call("data", "pack", _under("."), _under("o.h5")),
        r"no layout"),
    Bad("command", "pack at size 0",
        _call("data", "pack", lambda b: b.copy("store"), _under("o.h5"), "--size", "0", "0"),
        r"size"),
    Bad("command", "pack nothing", _call("data", "pack", _under("none"), lambda b: b.copy("store")),
        r"none: does not exist; expected"),
    Bad("command", "pack over another HDF5 file",
        _call("data", "pack", lambda b: b.copy("store"), lambda b: b.copy("labelled")),
        r"is there, and no packed store"),
    Bad("command", "pack into a pipe",
        _call("data", "pack", lambda b: b.copy("store"), lambda b: b.pipe("o.h5")),
        r"o\.h5.*a pipe or a device"),
    Bad("command", "train into a network's folder",
        _call("train", "v15_2", "--profile", "smoke", "--out", lambda b: b.copy("model")),
        r"config\.json.*no configuration of a run"),
    Bad("command", "pack at an enormous size",
        _call("data", "pack", lambda b: b.copy("store"), _under("o.h5"), "--size", "90000", "9999"),
        r"size is 90000x9999.*million pixels"),
    Bad("command", "pack under 300 letters",
        _call("data", "pack", lambda b: b.copy("store"), _under("n" * 300)), r"nnn"),
    Bad("command", "10^12 points", _call("train", "v15_2", "--set", "points=1000000000000"),
        r"points=1000000000000.*1000000"),
    Bad("command", "pack too few frames",
        _call("data", "pack", lambda b: b.copy("own"), _under("o.h5")), r"at least"),
    Bad("command", "evaluate nothing", _call("evaluate", _under("none")), r"none holds no run"),
    Bad("command", "publish into a network's folder",
        _call("publish", lambda b: b.copy("run"), lambda b: b.copy("model")),
        r"config\.json.*no configuration of a run"),
    Bad("command", "publish nothing", _call("publish", _under("none"), _under("p")), r"no run"),
    Bad("command", "run no notebook", _call("run", _under("n.ipynb")), r"n\.ipynb.*check"),
    Bad("command", "run a folder", _call("run", _under(".")), r"folder"),
    Bad("command", "run with an unknown parameter",
        _call("run", lambda b: b.copy("notebook"), "-p", "x", "1"), r"'x'"),
    Bad("command", "run with letters that are none",
        _call("run", lambda b: b.copy("notebook"), "-p", "name", "caf\udce9"),
        r"'name' takes text in UTF-8"),
    Bad("command", "equal-terms to a folder",
        _call("equal-terms", _under("a"), _under("b"), "--out", "."), r"'\.' names no file"),
    Bad("command", "equal-terms by the times of a pipe",
        _call("equal-terms", lambda b: b.copy("run"), _under("run"), "--out", _under("e"),
              "--step-times", lambda b: b.pipe("f.csv")), r"f\.csv: is a pipe"),
    Bad("command", "an unknown benchmark", _call("bench", "sped"), r"sped"),
)  # fmt: skip


WORK = (*MODELS, *RUNS, *NOTEBOOKS, *COMMANDS)
