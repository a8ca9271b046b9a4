"""The networks in one table: idea, parameters, cost, and the best that the log has of each.

Every network is built with the default encoder and image size, with random weights. MACs are
counted while it runs (see `spdlib.models.counting`): of one image, and of one query among 256.
Nothing is timed. What is printed is the table of docs/networks.md, with the published scores on
equal terms.

    python -m spdlib bench networks
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from spdlib.errors import SPDError
from spdlib.machine import code_version, machine
from spdlib.models import DepthModel, create_model, list_models
from spdlib.models.base import count_parameters
from spdlib.models.counting import QUERIES, macs_per_image, macs_per_query
from spdlib.study.generations import EqualTerms
from spdlib.study.recorded import recorded_best, recorded_facts
from spdlib.study.runs import write_json, write_table

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "measured" / "networks.csv"
COMPARISON = OUTPUT.with_name("generations_nyu_labeled")
SCORES = ("abs_rel", "rmse", "delta1")


def network_row(name: str) -> dict[str, Any]:
    """What the table says of a network."""
    model = create_model(name)
    height, width = model.config.image_size
    return {
        "network": name,
        "idea": model.idea,
        "encoder": model.config.encoder.name,
        "image_size": f"{height}x{width}",
        "parameters": count_parameters(model),
        "trainable": trainable(model),
        "macs_per_image": macs_per_image(model),
        "macs_per_query": macs_per_query(model),
        "queries_independent": model.queries_are_independent,
        **recorded_row(name),
    }


def trainable(model: DepthModel) -> int:
    """Number of parameters that training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def recorded_row(name: str) -> dict[str, Any]:
    """The log's best epoch of a network, and how it was judged; nothing if there is none."""
    best = recorded_best(name)
    if not best:
        return {column: None for column in ("recorded_in", "epoch", "protocol", *SCORES)}
    facts = recorded_facts(best["experiment"])
    frames, points = (f"{facts[f'val_{what}']:.0f} {what}" for what in ("frames", "points"))
    return {
        "recorded_in": best["experiment"],
        "epoch": best["epoch"],
        "protocol": f"recorded: {frames}, {points}, {facts['val_view']}",
        **{score: best.get(score) for score in SCORES},
    }


def markdown(table: pd.DataFrame, measured: pd.DataFrame) -> str:
    """The table of docs/networks.md.

    Args:
        table: a row a network.
        measured: `networks` of the comparison on equal terms.
    """
    eigen = measured[measured["protocol"].str.startswith("eigen")]
    here = dict(zip(eigen["network"], eigen["abs_rel"], strict=True))
    lines = [
        "| network | in one line | parameters | MACs, image | MACs, query | log's best | here |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in table.to_dict("records"):
        name, own = row["network"], f"{row['parameters'] / 1e6:.1f} M"
        if row["trainable"] < 0.9 * row["parameters"]:
            own += f" ({row['trainable'] / 1e6:.1f} trained)"
        cost = f"{row['macs_per_image'] / 1e9:.1f} G | {row['macs_per_query'] / 1e6:.2f} M"
        best = f"{row['abs_rel']:.3f}" if pd.notna(row["abs_rel"]) else "–"
        score = f"{here[name]:.3f}" if name in here else "–"
        lines.append(f"| `{name}` | {row['idea']} | {own} | {cost} | {best} | {score} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", default=list_models(), help="default: all")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    args = parser.parse_args(given)
    table = pd.DataFrame([network_row(name) for name in tqdm(args.networks, desc="networks")])
    write_table(args.out, table)
    record = {"machine": machine(), "code": code_version(), "settings": {"queries": QUERIES}}
    write_json(args.out.with_suffix(".json"), record)
    print(markdown(table, EqualTerms.read(COMPARISON).networks))
    print(f"written to {args.out}")


if __name__ == "__main__":
    try:
        main()
    except SPDError as error:
        sys.exit(f"error: {error}")
