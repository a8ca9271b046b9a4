"""The commands `train`, `evaluate`, `score` and `publish`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spdlib.data.store import PackedFrames
from spdlib.errors import ConfigError
from spdlib.models import list_models, load
from spdlib.settings import shown
from spdlib.study.datasets import open_data, open_data_of
from spdlib.study.diagnostics import wide_scores
from spdlib.study.entrants import fit_image_free
from spdlib.study.evaluation import Evaluation, evaluate_run, score
from spdlib.study.experiments import EXPERIMENTS
from spdlib.study.peers import (
    metres_of,
    open_predictions,
    points_to_answer,
    save_scores,
    scores_folder,
)
from spdlib.study.profiles import PROFILES, resolve
from spdlib.study.runs import DEFAULT_ROOT, Run, publish
from spdlib.study.training import fit, make_accelerator

SUMMARY = ("abs_rel", "rmse", "delta1", "silog", "s_star", "scaled_abs_rel")
"""Scores that `evaluate` and `score` print."""


def add_train(parser: argparse.ArgumentParser) -> None:
    """Arguments of `train`."""
    names = f"{', '.join(EXPERIMENTS)}; or a network: {', '.join(list_models())}"
    parser.add_argument("experiment", help=names)
    parser.add_argument("--profile", default="demo", help=f"{', '.join(PROFILES)}; default: demo")
    folder = "run folder (default results/runs/EXPERIMENT_PROFILE)"
    parser.add_argument("--out", type=Path, help=folder)
    _add_data(parser, "SPD_DATA")
    parser.add_argument("--weights", type=Path, help="encoder weights file (default: SPD_WEIGHTS)")
    start = "start from a finished run's best weights, or a saved network's, of the same kind"
    parser.add_argument("--init-from", type=Path, metavar="FOLDER", help=start)
    setting = "override a setting, for instance --set steps=500 --set silog_lambda=0.85"
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=setting)
    parser.add_argument("--workers", type=int, help="processes that prepare samples")
    between = "also save between evaluations"
    parser.add_argument("--checkpoint-every", type=int, default=0, metavar="STEPS", help=between)
    parser.add_argument("--tensorboard", action="store_true", help="also log to TensorBoard")
    refuse = "refuse a folder that holds a run"
    parser.add_argument("--no-resume", dest="resume", action="store_false", help=refuse)
    parser.set_defaults(command=_train)


def _train(args: argparse.Namespace) -> int:
    settings = parse_settings(args.set)
    arguments = {"experiment": "EXPERIMENT", "network": "EXPERIMENT"}
    arguments |= {"profile": "--profile", "device": "--device"}
    for name in arguments.keys() & settings.keys():
        raise ConfigError(f"--set {name}=... is no setting; use the argument {arguments[name]}")
    if args.weights is not None:
        settings["weights"] = str(args.weights)
    config = resolve(args.experiment, args.profile, device=args.device, **settings)
    out = args.out or DEFAULT_ROOT / f"{args.experiment}_{args.profile}"
    if _is_main_process():
        print(config.headline)
    data = open_data(config, args.data)
    run = fit(
        config,
        data.train,
        data.selection,
        out,
        resume=args.resume,
        init_from=args.init_from,
        device=args.device,
        workers=args.workers,
        checkpoint_every=args.checkpoint_every,
        tensorboard=args.tensorboard,
    )
    if _is_main_process():
        best = run.record
        print(
            f"{run.folder}: best selection AbsRel {best['best_sel_abs_rel']:.4f} at step "
            f"{best['best_step']}; weights in {run.best}"
        )
    return 0


def parse_settings(items: list[str]) -> dict[str, Any]:
    """Settings from "field=value" words; values are JSON, or text where they are not.

    ConfigError: a word without "=", a setting that is given twice, or JSON beyond all measure.
    """
    settings: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set takes FIELD=VALUE; got {shown(item)}")
        if name in settings:
            raise ConfigError(f"--set {name}=... is given twice; keep one")
        try:
            settings[name] = json.loads(text)
        except json.JSONDecodeError:
            settings[name] = {"None": None, "True": True, "False": False}.get(text, text)
        except (ValueError, RecursionError) as error:  # thousands of digits or brackets
            raise ConfigError(f"--set {name}={shown(text)}: {error}; correct it") from None
    return settings


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Arguments of `evaluate`."""
    parser.add_argument("run", type=Path, help="folder of a run")
    _add_data(parser, "the one it was trained with")
    _add_protocols(parser, ("eigen", "recorded"))
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")
    parser.add_argument("--no-dense", action="store_true", help="score points only")
    parser.add_argument("--no-k-sweep", action="store_true", help="leave the K sweep out")
    parser.set_defaults(command=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    run = Run.open(args.run)
    data = open_data_of(run, args.data)
    accelerator = make_accelerator(args.device)
    baselines = fit_image_free(data.train)
    result = evaluate_run(
        run,
        load(run.saved(run.best)).to(accelerator.device),
        data.test,
        baselines,
        protocols=args.protocols,
        dense=not args.no_dense,
        k_sweep=not args.no_k_sweep,
        flip=args.flip,
        processes=accelerator,
    )
    if _is_main_process():
        _print_scores(result)
        print(f"tables in {run.folder}")
    return 0


def add_score(parser: argparse.ArgumentParser) -> None:
    """Arguments of `score`."""
    text = "folder of ID.npy or ID.png, a depth map a frame, or a .csv of frame,u,v,depth"
    parser.add_argument("predictions", type=Path, nargs="?", help=text)
    store = "packed store; its test split is scored (default: SPD_DATA)"
    parser.add_argument("--data", type=Path, metavar="STORE", help=store)
    parser.add_argument("--unit", metavar="m|mm", help="unit of the predictions")
    step = "or the metres of one step of them"
    parser.add_argument("--scale", type=float, metavar="METRES", help=step)
    other = "read maps of another size than their frame bilinearly"
    parser.add_argument("--resized", action="store_true", help=other)
    parser.add_argument("--name", help="in tables (default: the folder's or file's)")
    _add_protocols(parser, ("eigen",))
    tables = "write metrics.csv, bins.csv, frames.csv and record.json there"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=tables)
    points = "instead, print the points that a .csv of predictions must answer"
    parser.add_argument("--points-of", type=Path, metavar="STORE", help=points)
    parser.set_defaults(command=_score)


def _score(args: argparse.Namespace) -> int:
    if args.points_of is not None:
        points = points_to_answer(PackedFrames(args.points_of, "test"), args.protocols)
        points.to_csv(sys.stdout, index=False, float_format="%g")
        return 0
    if args.predictions is None:
        raise ConfigError("give the folder or .csv of predictions, or --points-of STORE")
    store = args.data or os.environ.get("SPD_DATA")
    if not store:
        raise ConfigError("give the packed store to score on: --data STORE, or SPD_DATA")
    if args.out is not None:
        scores_folder(args.out)  # before the work
    metres, frames = metres_of(args.unit, args.scale), PackedFrames(store, "test")
    options = {"name": args.name, "resized": args.resized}
    stored = open_predictions(args.predictions, frames.ids, metres, **options)
    result = score(stored, frames, protocols=args.protocols)
    if args.out is not None:
        save_scores(args.out, result, stored, frames)
    _print_scores(result)
    if args.out is not None:
        print(f"tables in {args.out}")
    return 0


def _print_scores(result: Evaluation) -> None:
    for protocol, note in result.notes.items():
        print(f"{protocol}: {note}")
    table = wide_scores(result.metrics, SUMMARY)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))


def add_publish(parser: argparse.ArgumentParser) -> None:
    """Arguments of `publish`."""
    parser.add_argument("run", type=Path, help="folder of an evaluated run")
    parser.add_argument("target", type=Path, help="for instance results/measured/NAME")
    parser.set_defaults(command=_publish)


def _publish(args: argparse.Namespace) -> int:
    names = publish(Run.open(args.run), args.target)
    print(f"{args.target}: {', '.join(names)}")
    return 0


def _add_data(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--data", type=Path, help=f"packed store (default: {default})")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")


def _add_protocols(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    text = f"how to score, by name (docs/protocols.md); default: {' '.join(default)}"
    parser.add_argument("--protocols", nargs="+", default=default, metavar="NAME", help=text)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
