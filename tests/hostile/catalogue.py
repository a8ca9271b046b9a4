"""Bad inputs, one row each: what it is, how it is made, what the one error must say."""

from __future__ import annotations

from tests.hostile.catalogue_data import DATA
from tests.hostile.catalogue_peers import PEERS
from tests.hostile.catalogue_values import VALUES
from tests.hostile.catalogue_work import WORK

CATALOGUE = (*VALUES, *DATA, *PEERS, *WORK)
