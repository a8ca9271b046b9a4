"""Each bad input ends in one clear error, in good time, and nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.hostile.bench import DOORS, Bad, Bench
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.valid import Valid

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Valid:
    return Valid(tmp_path_factory.mktemp("valid"))


@pytest.mark.parametrize("bad", CATALOGUE, ids=[f"{bad.door}: {bad.what}" for bad in CATALOGUE])
def test_one_clear_error_and_nothing_lost(bad: Bad, valid: Valid, tmp_path: Path) -> None:
    bench, door = Bench(valid, tmp_path), DOORS[bad.door]
    made = bad.made(bench)
    before = bench.snapshot()
    with pytest.raises(door.errors) as raised:
        door.enter(bench, made)
    message = str(raised.value)
    assert re.search(bad.says, message, re.DOTALL), message
    assert len(message) < 600, message
    after = bench.snapshot()
    assert {name: after.get(name) for name in before} == before
    left = [name for name in after.keys() - before.keys() if not _belongs(Path(name), tmp_path)]
    assert not left, f"left behind: {left}"


def _belongs(path: Path, root: Path) -> bool:
    """Whether a door's own copies of valid files may lie there."""
    return path.relative_to(root).parts[0] in ("sync_root", "notebook")


def test_the_catalogue_names_every_door_and_no_input_twice() -> None:
    assert {bad.door for bad in CATALOGUE} == set(DOORS)
    names = [(bad.door, bad.what) for bad in CATALOGUE]
    assert len(names) == len(set(names)) >= 150
