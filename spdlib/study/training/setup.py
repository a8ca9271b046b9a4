"""What a run starts with: a folder that may be its own, device, network and objective."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from spdlib.data.augment import AugmentConfig
from spdlib.data.frames import Frames
from spdlib.data.samples import SampleConfig, TrainingSamples
from spdlib.disk import file_hash, held
from spdlib.errors import ConfigError, RunError, SPDError
from spdlib.geometry import Camera
from spdlib.machine import code_version, keep_freed_memory, origin, usable_cores
from spdlib.models import DepthModel, create_model, load
from spdlib.study.config import RunConfig, differences
from spdlib.study.objectives import Batch, Objective, create_objective
from spdlib.study.profiles import deviations
from spdlib.study.runs import Run, describe_frames, hash_of, write_json
from spdlib.study.training.state import State

DTYPES = {
    "bf16": torch.float32,  # weights; autocast computes in bf16
    "bf16_cpu": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
}
SAME_DATA = ("frames", "ids_hash", "fingerprint")
"""Parts of a description of frames that must not change while a run is continued."""
LOCK = ".training"
"""File in a run's folder that its training holds."""
T = TypeVar("T")


def started(
    run: Run,
    config: RunConfig,
    sets: dict[str, Frames],
    found: str,
    init_from: str | Path | None,
    accelerator: Accelerator,
) -> State | None:
    """The state to go on from; None where the run has finished.

    The arguments are those of `fit`, `sets` its frames as "train" and "selection", `found` what
    `claim` says of the folder.

    RunError: the frames cannot be used for this run, or weights or the history are gone.
    """
    if found != "new":
        require_same_data(run, config, sets, init_from)
    if found == "finished":
        run.saved(run.best)
        warn_of_other_code(run)
        return None
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    objective = build_objective(config)
    if found == "new":
        model = first_model(config, sets["train"], init_from)
    else:
        # A started run carries its encoder: the file or download it came from may be gone.
        model = load(run.saved(run.last)).train()
    model = model.to(accelerator.device, DTYPES[config.optimizer.precision])
    model = model.to(memory_format=torch.channels_last)
    state = State(config, model, objective.to(model.device, model.dtype))
    if found == "unfinished":
        state.restore(run)
    return state


# -- folder -----------------------------------------------------------------------------------


@contextlib.contextmanager
def from_main(accelerator: Accelerator, block: AbstractContextManager[T]) -> Iterator[T]:
    """A block of the main process alone; the others get what it gives, or raise what it raises."""
    given: list[Any] = [None, None]
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            try:
                given[0] = stack.enter_context(block)
            except SPDError as error:
                given[1] = error
        broadcast_object_list(given)
        if given[1] is not None:
            raise given[1]
        yield given[0]


@contextlib.contextmanager
def claim(run: Run, config: RunConfig, resume: bool) -> Iterator[str]:
    """Keep the folder to this process and make it this config's; "new", "unfinished", "finished".

    RunError: another process trains there, or the folder holds a run with another config, or one
    that must not be continued.
    """
    # A finished run is only read, perhaps where nothing can be written.
    done = run.exists and run.finished
    with contextlib.nullcontext() if done else held(run.folder / LOCK, RunError):
        yield settle(run, config, resume)


def settle(run: Run, config: RunConfig, resume: bool) -> str:
    """Make the folder this config's; "new", "unfinished" or "finished".

    RunError: it holds a run with another config, or one that must not be continued.
    """
    others = sorted(run.folder.glob("[!.]*"))
    if others and not run.exists:
        raise RunError(
            f"{run.folder} holds no run but other files, such as {others[0].name}; choose a new or "
            "an empty folder"
        )
    # Both read back: stored configs name a file of weights without its folder.
    ours = RunConfig.from_dict(config.to_dict()).settings()
    changes = _changes(run.config.settings(), ours) if run.exists else []
    begun = run.state_path.exists() or (run.exists and run.finished)
    if not begun and not (changes and run.best.exists()):
        write_json(run.config_path, config.to_dict())  # nothing was learnt here that a start loses
        return "new"
    if not resume:
        raise RunError(
            f"{run.folder} already holds a run; choose another folder, or continue it "
            "(resume=True; without --no-resume on the command line)"
        )
    if changes:
        raise RunError(
            f"{run.folder} holds a run with another config ({'; '.join(changes)}); "
            "choose another folder, delete this one, or go back to its settings"
        )
    return "finished" if run.finished else "unfinished"


def require_same_data(
    run: Run, config: RunConfig, sets: dict[str, Frames], init_from: str | Path | None
) -> None:
    """RunError says how frames or first weights differ from those that the run began with."""
    record, began, found = run.record, dict[str, Any](), dict[str, Any]()
    for name, frames in sets.items():
        described = record.get("data", {}).get(name, {})
        began |= {f"{name} {key}": described[key] for key in SAME_DATA if key in described}
        now = describe_frames(frames)
        found |= {f"{name} {key}": now.get(key) for key in SAME_DATA if key in described}
    weights, known = config.model.encoder.weights, record.get("encoder_weights_sha256")
    # The file may be gone: a started run carries its encoder.
    if known is not None and weights is not None and Path(weights).is_file():
        began["encoder weights"], found["encoder weights"] = known, file_hash(weights)
    if init_from is not None:
        began["first weights"] = record.get("init_from_sha256")
        found["first weights"] = best_weights(init_from)[1]
    if changes := _changes(began, found):
        raise RunError(
            f"{run.folder} holds a run on other data ({'; '.join(changes)}); "
            "choose another folder or give it the data it began with"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    pairs = {name: (before.get(name), now.get(name)) for name in {**before, **now}}
    return [f"{name}: {was!r} -> {is_!r}" for name, (was, is_) in pairs.items() if was != is_]


def warn_of_other_code(run: Run) -> None:
    """Warn where a finished run was made by another version of the package."""
    began = run.record.get("code", {}).get("source_hash")
    if began is not None and began != code_version()["source_hash"]:
        warnings.warn(
            f"{run.folder} is the finished run of another version of spdlib ({began}); to train "
            "with the present one, delete the folder or choose another",
            stacklevel=4,
        )


# -- device -----------------------------------------------------------------------------------


def make_accelerator(device: str | None = None) -> Accelerator:
    """The processes at work, on this device ("cpu", "cuda"), or on GPUs if there are any.

    ConfigError: another device. RunError: "cuda" where there is none.
    """
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(f"device is {device!r}; choose 'cpu', 'cuda', or None for what is there")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise RunError('device="cuda" was given, but PyTorch sees no CUDA device; use "cpu"')
    kind = "cuda" if available and device != "cpu" else "cpu"
    begun = PartialState._shared_state
    if begun and begun["device"].type != kind and begun["num_processes"] == 1:
        # accelerate keeps the first device that a process uses, whatever is set later
        AcceleratorState._reset_state(reset_partial_state=True)
    # Without cpu=True accelerate takes several CPU processes for several single ones.
    accelerator = Accelerator(cpu=kind == "cpu")
    if accelerator.device.type != kind:
        raise RunError(
            f"device={kind!r} was given, but these processes work on {accelerator.device}; "
            "start them anew with one device"
        )
    return accelerator


@contextlib.contextmanager
def deterministic_algorithms(on: bool) -> Iterator[None]:
    """Deterministic algorithms for the length of a block."""
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    if on:
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # costs time and hides nothing here
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = fill


def precision_of(config: RunConfig, device: str) -> AbstractContextManager[Any]:
    """Autocast to bf16 where a config sets it, on this kind of device ("cpu" or "cuda")."""
    wanted = ("bf16", "bf16_cpu") if device == "cuda" else ("bf16_cpu",)
    return torch.autocast(device, torch.bfloat16, enabled=config.optimizer.precision in wanted)


def worker_count(workers: int | None) -> int:
    """Processes that prepare samples; by default one less than the usable cores, at most 8."""
    if workers is None:
        return max(1, min(8, usable_cores() - 1))
    if workers < 0:
        raise ConfigError(f"workers must not be negative; got {workers}")
    return workers


# -- network, objective, batch ----------------------------------------------------------------


def build_model(config: RunConfig, train: Frames) -> DepthModel:
    """The config's network with seeded fresh weights, for the frames' effective focal length."""
    torch.manual_seed(config.seed)
    model = create_model(
        config.model.network,
        encoder=config.model.encoder,
        image_size=config.model.image_size,
        focal=effective_focal(train, config.sample_config()),
        **config.model.options,
    )
    return model.to(DTYPES[config.optimizer.precision]).train()


def first_model(config: RunConfig, train: Frames, init_from: str | Path | None) -> DepthModel:
    """The network of a new run: with fresh weights, or with the best ones of another run.

    RunError: the other run has not finished, or trained another network.
    """
    if init_from is None:
        return build_model(config, train)
    source = load(best_weights(init_from)[0])
    ours, theirs = config.model, source.config
    differing = differences(ours, theirs)
    if differing:
        raise RunError(
            f"{init_from} is a run of {'; '.join(differing)}; start from a run of the same network"
        )
    known = {name: getattr(theirs.encoder, name) for name in ("mean", "std", "padding")}
    encoder = replace(ours.encoder, pretrained=False, weights=None, **known)
    model = build_model(replace(config, model=replace(ours, encoder=encoder)), train)
    model.load_state_dict(source.state_dict())
    return model


def best_weights(folder: str | Path) -> tuple[Path, str]:
    """Folder of a finished run's best weights, and their SHA-256.

    RunError: the folder holds no finished run, or the weights are gone.
    """
    run = Run.open(folder)
    if not run.finished:
        raise RunError(f"{folder} holds a run that has not finished; train it to its end first")
    return run.best, file_hash(run.saved(run.best) / "model.safetensors")


def effective_focal(frames: Frames, samples: SampleConfig) -> float:
    """Focal length in pixels of a training image before its random changes."""
    plain = SampleConfig(samples.image_size, augment=AugmentConfig(crop=samples.augment.crop))
    camera = TrainingSamples(frames, plain)[(0, 0)]["camera"]
    return Camera.from_tensor(camera).focal


def build_objective(config: RunConfig) -> Objective:
    """The config's objective with its settings; what it learns starts from the run's seed."""
    torch.manual_seed(config.seed)
    settings = vars(config.objective)
    return create_objective(supervision=config.sampling.supervision, **settings)


def prepared(batch: Batch, model: DepthModel, objective: Objective) -> dict[str, Tensor]:
    """What an objective reads of a batch, on the network's device and in its precision.

    Images are padded as the network needs them, and depth with them.
    """
    moved = {}
    for name in {"image", *objective.inputs}:
        dtype = model.dtype if batch[name].is_floating_point() else None
        moved[name] = batch[name].to(model.device, dtype, non_blocking=True)
    height, width = moved["image"].shape[-2:]
    image = model.pad(moved["image"])
    moved["image"] = image.contiguous(memory_format=torch.channels_last)
    if "depth" in moved:
        extra = (0, image.shape[-1] - width, 0, image.shape[-2] - height)
        moved["depth"] = F.pad(moved["depth"], extra)  # 0: not measured
    return moved


# -- record -----------------------------------------------------------------------------------


def describe(config: RunConfig, model: DepthModel, sets: dict[str, Frames]) -> dict[str, Any]:
    """What a record says before the first step: hashes, code, machine, data, network."""
    table = model.parameter_table()
    return {
        "experiment": config.experiment,
        "profile": config.profile,
        "config_hash": hash_of(config.to_dict()),
        **origin(),
        "seed": config.seed,
        "data": {name: describe_frames(frames) for name, frames in sets.items()},
        "encoder_weights_sha256": model.config.encoder.weights_sha256,
        # Whatever their origin: downloads of one name can differ.
        "encoder_state_sha256": model.encoder.fingerprint(),
        "parameters": dict(zip(table["component"], table["parameters"].tolist(), strict=True)),
        "deviations": deviations(config).to_dict("records"),
        "started": time_now(),
    }


def continued(record: dict[str, Any], step: int) -> tuple[dict[str, Any], list[str]]:
    """A record with the place where its run goes on, and what rounding depends on and has changed.

    The machine and the code at the head of a record stay those that started the run.
    """
    here = origin()
    before, after = (
        {**m["libraries"], "processor": m["cpu"], "threads": m["torch_threads"]}
        for m in (record["machine"], here["machine"])
    )
    places = [*record.get("continued_at", []), {"step": step, **here}]
    return {**record, "continued_at": places}, _changes(before, after)


def time_now() -> str:
    """The time in UTC, as records state it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
