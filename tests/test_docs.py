"""README and docs/ stay true: their links and tables, and the code that they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import spdlib
from spdlib.data.rooms import Rooms
from spdlib.study.evaluation import score
from spdlib.study.peers import open_predictions, save_scores

REPOSITORY = Path(__file__).resolve().parents[1]
MEASURED = REPOSITORY / "results" / "measured"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(page: str, language: str = "python") -> list[str]:
    """Fenced blocks of a page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (REPOSITORY / page).read_text(), re.M | re.S)


def heading_anchors(text: str) -> set[str]:
    """What `#...` may point at, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        found = (page.parent / name) if name else page
        if not found.exists() or (anchor and anchor not in heading_anchors(found.read_text())):
            broken.append(target)
    assert not broken


def test_readme_shows_each_trained_network_as_measured() -> None:
    """A row a network: parameters outside the encoder, MACs a query, minutes, AbsRel."""
    networks = pd.read_csv(MEASURED / "networks.csv").set_index("network")
    terms = pd.read_csv(MEASURED / "generations_nyu_labeled.csv")
    readme = PAGES[0].read_text()
    for row in terms[terms["protocol"].str.startswith("eigen")].to_dict("records"):
        once = networks.loc[row["network"]]
        cells = (
            f"`{row['network']}`",
            once["idea"],
            f"{row['decoder_parameters'] / 1e6:.1f} M",
            f"{once['macs_per_query'] / 1e6:.2f} M",
            f"{row['minutes']:.0f}",
            f"{row['abs_rel']:.3f}",
        )
        assert f"| {' | '.join(cells)} |" in readme


def test_readme_answers_a_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first block runs as it stands, with a small network where `make demo` leaves one."""
    monkeypatch.chdir(tmp_path)
    model = spdlib.create_model("v15_2", "mobilenetv3_small_050", image_size=(96, 128))
    model.save("results/runs/06_v15_2")
    Image.fromarray(np.full((480, 640, 3), 128, np.uint8)).save("room.png")
    names: dict[str, Any] = {}
    exec(blocks("README.md")[0], names)
    assert np.shape(names["depth"]) == (2,)


def test_the_examples_of_extending_run(tmp_path: Path) -> None:
    """One after the other, in a process of its own, for they register parts by name."""
    (tmp_path / "page.py").write_text("\n\n".join(blocks("docs/extending.md")))
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
    )


def test_the_examples_of_protocols_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small network and two rooms; the folders it names are written by what it describes."""
    monkeypatch.chdir(tmp_path)
    model = spdlib.create_model("v15_2", "mobilenetv2_035", image_size=(96, 128), focal=103.0)
    rooms = Rooms(2, size=(96, 128))
    names: dict[str, Any] = {"model": model, "frames": rooms}
    *evaluated, beside = blocks("docs/protocols.md")
    for block in evaluated:
        exec(block, names)
    assert len(names["table"]) == 4
    maps = tmp_path / "maps"
    maps.mkdir()
    for index, name in enumerate(rooms.ids):
        np.save(maps / f"{name}.npy", 1.1 * rooms[index].truth())
    for name, folder in (("v15_2", "06_v15_2"), ("their_network", "their_network")):
        stored = open_predictions(maps, rooms.ids, 1.0, name=name)
        save_scores(f"results/runs/{folder}", score(stored, rooms), stored, rooms)
    exec(beside.replace("eigen/raw", "eigen/exact"), names)
    assert set(names["both"].metrics["model"]) == {"v15_2", "their_network"}


def test_networks_page_names_what_the_code_has() -> None:
    """Where it says that a network's layer order is found, files hold these classes and methods."""
    page = REPOSITORY / "docs" / "networks.md"
    rows = re.findall(r"^\| `.*\.py\).*$", page.read_text(), re.M)
    assert len(rows) == 7
    for row in rows:
        _, networks, files, once, query, _ = row.split("|")
        code = "".join((page.parent / f).read_text() for f in re.findall(r"\]\((.*?)\)", files))
        for name in re.findall(r"`(\w+)`", networks):
            assert f'@register("{name}"' in code
        for name in re.findall(r"`(\w+)`", once + query):
            assert re.search(rf"^ *(def|class) {name}\b", code, re.M), f"{name} in {files}"
