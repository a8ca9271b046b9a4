"""`open_study`: one experiment from its record to its verdict, a line a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from IPython.display import Markdown
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from spdlib.data.frames import evenly_spaced
from spdlib.models import DepthModel, load
from spdlib.models.counting import macs_per_image, macs_per_query
from spdlib.study.comparison import compare, fairness, recorded_scores
from spdlib.study.config import RunConfig
from spdlib.study.datasets import DataSets, open_data
from spdlib.study.diagnostics import per_bin_table, range_table
from spdlib.study.entrants import fit_image_free
from spdlib.study.evaluation import Evaluation, evaluate_run
from spdlib.study.generations import EqualTerms
from spdlib.study.profiles import deviations, resolve
from spdlib.study.recorded import on_record
from spdlib.study.runs import Run
from spdlib.study.training import build_model, fit
from spdlib.study.training.preflight import check
from spdlib.study.training.setup import claim, settle
from spdlib.view import plots, questions, report
from spdlib.view.diagram import network_diagram
from spdlib.view.generations import equal_terms_verdict, learning_side_by_side, pairs_apart
from spdlib.view.inside import layers_at_work, where_it_looks

EQUAL_TERMS = Path("results") / "measured" / "generations_nyu_labeled"
"""Published tables of all networks on equal terms."""


def open_study(
    experiment: str,
    profile: str = "demo",
    *,
    name: str = "",
    data: str = "",
    weights: str = "",
    out: str = "",
    threads: int = 0,
    **settings: Any,
) -> Study:
    """Start the study of an experiment; its folder is taken, nothing is trained yet.

    Args:
        experiment: name of an experiment, or of a registered network.
        profile: "smoke", "demo", "nyu_labeled", "equal_terms" or "paper".
        name: of the run's folder under results/runs/; default the experiment's.
        data: packed store with real frames; empty takes SPD_DATA. Rooms need none.
        weights: file of encoder weights; empty takes SPD_WEIGHTS, or else timm's download.
        out: folder of the run; see `report.run_folder`.
        threads: of the CPU; 0 leaves them to PyTorch.
        settings: of the run or the network by name, named faults included. "", None, False and
            whole-number zeros keep what experiment and profile say.

    Raises:
        ConfigError: unknown names, or settings that contradict each other.
        RunError: the folder holds a run with other settings, or one that is being trained.
    """
    if threads:
        torch.set_num_threads(threads)
    given = report.settings_of(weights=report.from_root(weights), **settings)
    config = resolve(experiment, profile, **given)
    folder = report.run_folder(out, name or experiment, profile)
    print(config.headline)
    return Study(config, folder, report.from_root(data) or None)


class Study:
    """One experiment, step by step: a step returns the figure or table that a notebook shows.

    A step that needs an earlier one makes it happen: the first that needs frames opens them, the
    first that needs scores evaluates. Figures and most tables are kept in the run's `folder`.
    """

    def __init__(self, config: RunConfig, folder: Path, store: str | None = None) -> None:
        # before a figure overwrites another run's; one that trains may be looked at meanwhile
        run = Run(folder)
        with nullcontext() if run.state_path.exists() else claim(run, config, resume=True):
            settle(run, config, resume=True)
        self.config, self.folder, self.store = config, folder, store
        self.network_name = config.model.network
        self._compared: pd.DataFrame | None = None

    @cached_property
    def data(self) -> DataSets:
        """Frames to learn from, to choose weights by, and to report on."""
        return open_data(self.config, self.store)

    @cached_property
    def model(self) -> DepthModel:
        """The network before its first step."""
        return build_model(self.config, self.data.train)

    @cached_property
    def run(self) -> Run:
        """The trained run; one that was interrupted is continued, a finished one is read."""
        return fit(self.config, self.data.train, self.data.selection, self.folder)

    @cached_property
    def best(self) -> DepthModel:
        """The network with the weights that score best on the selection frames."""
        return load(self.run.saved(self.run.best)).to(
            "cuda" if torch.cuda.is_available() else "cpu"
        )

    @cached_property
    def result(self) -> Evaluation:
        """Scores of the best weights and of the image-free baselines on the test frames."""
        return evaluate_run(self.run, self.best, self.data.test, fit_image_free(self.data.train))

    def log(self, *experiments: str) -> Styler:
        """How the log ran some of its experiments, and what it measured."""
        return report.shown(report.log_table(experiments))

    def frames(self, count: int = 6) -> Figure:
        """Some of the frames to learn from, each above its depth."""
        train = self.data.train
        chosen = [train[index] for index in evenly_spaced(len(train), count)]
        depths = [frame.truth(self.config.data.truth) for frame in chosen]
        return self._keep("frames", plots.contact_sheet([f.image for f in chosen], depths))

    def depths(self) -> Figure:
        """How often each depth occurs."""
        sets = {"to learn from": self.data.train, "to report on": self.data.test}
        truth = self.config.data.truth
        depths = {name: questions.depths_of(frames, truth) for name, frames in sets.items()}
        return self._keep("depths", plots.depth_histogram(depths))

    def network(self) -> Figure:
        """What runs once per image and what per query, drawn from the network itself."""
        return self._keep("network", network_diagram(self.model))

    def costs(self) -> Styler:
        """Parameters by component; multiply-accumulates are printed."""
        image, query = macs_per_image(self.model), macs_per_query(self.model)
        print(f"{image / 1e9:.2f} G MACs an image, {query / 1e6:.2f} M MACs a query among 256")
        return self._table("parameters", self.model.parameter_table())

    def preflight(self) -> Styler:
        """Checks of frames and network; a violation stops the run here."""
        return report.shown(check(self.model, self.data.train, self.data.selection, self.config))

    def deviations(self) -> Styler:
        """Where this run differs from the recorded one."""
        return self._table("deviations", deviations(self.config))

    def train(self) -> Figure:
        """Train, or continue, or read a finished run; its learning curves."""
        record = self.run.record
        best, step = record["best_sel_abs_rel"], record["best_step"]
        print(f"best selection AbsRel {best:.3f}, at step {step}; weights in {self.run.best.name}/")
        return self._keep("learning_curves", plots.learning_curves(self.run.history))

    def ranges(self) -> Figure:
        """Smallest and largest prediction beside the truth's, epoch by epoch."""
        self.run.write_table("ranges", range_table(self.run.history))
        return self._keep("depth_ranges", plots.depth_ranges(self.run.history))

    def gradients(self) -> Styler:
        """Which parameters the gradient of the last evaluated step reached."""
        return report.shown(self.run.gradients)

    def scores(self) -> Styler:
        """Scores of the network and the baselines under every protocol; its notes are printed."""
        for protocol, note in self.result.notes.items():
            print(f"{protocol}: {note}\n")
        return report.shown(report.score_table(self.result.metrics))

    def score_bars(self) -> Figure:
        """AbsRel of the network beside the baselines'."""
        return self._keep("scores", plots.score_bars(self.result.metrics))

    def improvements(self, wanted: float | None = None) -> Figure:
        """How far AbsRel lies below each baseline's, with intervals, and the `wanted` percent."""
        return self._keep("improvements", plots.improvement_intervals(self._gains, wanted=wanted))

    def bins(self) -> Figure:
        """AbsRel by true depth."""
        return self._keep("bins", plots.bin_bars(self.result.bins))

    def bin_table(self) -> Styler:
        """The same as a table."""
        return report.shown(per_bin_table(self.result.bins).reset_index())

    def predicted_against_true(self) -> Figure:
        """Predictions at the eigen points of all test frames over the truth."""
        answers = self.result.answers(self.config.data.truth)
        title = f"{self.network_name}, {answers['frame'].nunique()} test frames, eigen points"
        drawn = plots.predicted_against_true(answers["prediction"], answers["truth"], title)
        return self._keep("predicted_against_true", drawn)

    def error_maps(self) -> Figure:
        """Truth, prediction and error of four test frames, evenly spaced, not chosen."""
        examples = list(self.result.examples.values())[:4]
        image, truth, dense = (
            [each[key] for each in examples] for key in ("image", "truth", "dense")
        )
        title = f"{self.network_name}: dense path, whole frames"
        return self._keep("error_maps", plots.error_maps(image, truth, dense, title))

    def sparse_and_dense(self) -> Figure:
        """Queries against the dense path at the same places."""
        pairs = self.result.sparse_and_dense()
        return self._keep("sparse_and_dense", plots.sparse_against_dense(pairs))

    def accuracy_at_k(self) -> Figure:
        """The same points in groups of different size."""
        return self._keep("accuracy_at_k", plots.accuracy_at_k(self.result.k_sweep))

    def where_it_looks(self, which: str = "near") -> Figure:
        """Where the query at the nearest ("near") or farthest ("far") point reads the image."""
        frame = self.data.test[0]
        points, near, far = questions.near_and_far(frame, self.config.data.truth)
        scene = self.best.encode(frame.image, frame.camera)
        index = {"near": near, "far": far}[which]
        return self._keep(f"where_{which}", where_it_looks(frame.image, scene, points, index))

    def inside(self) -> Styler:
        """What the network does within, over some test frames."""
        return report.shown(self.result.inside)

    def layers(self) -> Figure:
        """The same, layer by layer."""
        return self._keep("layers", layers_at_work(self.result.inside))

    def beside_record(self, experiment: str = "") -> Styler | None:
        """The run's final scores beside the epoch that the log quotes of an experiment.

        By default that of this study; None without a record.
        """
        experiment = experiment or self.config.experiment
        if not on_record(experiment):
            print(f"the log has no run of {experiment}")
            return None
        self._compared = compare(self.run, experiment)
        return self._table("beside_recorded", report.beside_recorded(self._compared))

    def fairness(self) -> Styler | None:
        """What of `beside_record` is a fair comparison, and what is not and why."""
        return None if self._compared is None else self._table("fairness", fairness(self._compared))

    def recorded_curves(self) -> Figure | None:
        """The run beside the record, epoch by epoch, after `beside_record`."""
        if self._compared is None:
            return None
        return self._keep("recorded_beside", plots.recorded_beside(self._compared))

    @cached_property
    def equal_terms(self) -> EqualTerms:
        """The published comparison of all networks on the same frames, steps and loss."""
        return EqualTerms.read(report.project_root() / EQUAL_TERMS)

    def generations(self) -> Figure:
        """How all networks learn on equal terms."""
        return self._keep("generations", learning_side_by_side(self.equal_terms.curves))

    def pairs(self) -> Figure:
        """Every pair of networks on equal terms, with its interval."""
        return self._keep("pairs", pairs_apart(self.equal_terms))

    def generation_table(self) -> Styler:
        """Scores, parameters and minutes of all networks on equal terms."""
        aside = ["experiment", "parameters", "steps", "silog", "s_star", "machine", "commit"]
        words = {
            "decoder_parameters": "outside the encoder",
            "sel_abs_rel": "selection AbsRel",
            "abs_rel_at_equal_minutes": "at equal minutes",
        }
        table = self.equal_terms.networks.drop(columns=aside)
        return report.shown(table.rename(columns=words | report.METRICS))

    def generation_verdict(self, first: Sequence[str], second: Sequence[str]) -> Markdown:
        """Whether the networks `first` beat the networks `second` on equal terms."""
        return Markdown(equal_terms_verdict(self.equal_terms, first, second))

    def verdict(self, wanted: float = 0) -> Markdown:
        """What the numbers say about the network: is it `wanted` percent below both baselines?"""
        name = self.network_name
        _, scores = recorded_scores(self.result.metrics, name)
        return Markdown(report.verdict(self._gains, self.run.history, name, wanted, scores))

    def findings(self) -> Markdown:
        """What the diagnostics say, in words."""
        tables = self.run.history, self.result.bins, self.result.inside
        return Markdown(report.findings(*tables, self.network_name))

    def close(self) -> None:
        """Print where the run lies, with its short table."""
        self.run.write_table("improvements", self._gains)
        print(report.closing(self.run))

    @cached_property
    def _gains(self) -> pd.DataFrame:
        return report.improvements(self.result.metrics, self.result.frames, self.network_name)

    def _keep(self, name: str, figure: Figure) -> Figure:
        return report.keep(self.folder, name, figure)

    def _table(self, name: str, table: pd.DataFrame) -> Styler:
        Run(self.folder).write_table(name, table)
        return report.shown(table)
