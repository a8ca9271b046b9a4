"""The published counts of the two long trials hold what docs/reliability.md says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from tests.hostile.fuzz import NEVER
from tests.hostile.torture import HARMS, ONE

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "reliability.md").read_text()


def published(trial: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Counts and record of a trial."""
    table = REPOSITORY / "results" / "measured" / f"{trial}.csv"
    record = json.loads(table.with_suffix(".json").read_text())
    assert record["code"]["dirty"] is False
    return pd.read_csv(table, keep_default_na=False), record


def test_nothing_but_files_without_a_checksum_reads_as_other_content() -> None:
    table, _ = published("fuzz")
    assert table["mutations"].sum() >= 200_000
    assert not table[[*NEVER, "forbidden"]].to_numpy().any()
    of_bytes = table[table["damage"] == "bytes"]
    guarded = of_bytes[of_bytes["guard"] != "none"]
    assert len(guarded) and not guarded["other_content"].any()
    unguarded = of_bytes[of_bytes["other_content"] > 0]
    assert set(unguarded["guard"]) == {"none"}


def test_no_harm_breaks_a_promise() -> None:
    table, _ = published("torture")
    assert table["trials"].sum() >= 100
    assert (table["held"] == table["trials"]).all() and not table["broken"].any()
    commands = {"packing", "notebook", "training", "training in two processes"}
    assert set(table["command"]) == commands
    assert set(table["harm"]) == {*HARMS, ONE}
    assert table["hit"].sum() > 0.8 * table["trials"].sum()


def test_the_page_says_these_counts() -> None:
    fuzz, torture = (published(trial)[0] for trial in ("fuzz", "torture"))
    for count in (fuzz["mutations"].sum(), fuzz["clear_error"].sum(), torture["trials"].sum()):
        assert re.search(rf"(?<![\d,]){count:,}(?![\d,])", PAGE), f"{count:,}"
