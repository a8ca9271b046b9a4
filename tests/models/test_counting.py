"""Multiply-accumulates, counted by running."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spdlib.models import create_model
from spdlib.models.counting import counted_macs, gathered_bytes, macs_per_image, macs_per_query

ENCODER, SIZE = "mobilenetv2_035", (64, 96)


def test_products_convolutions_and_attention_by_hand() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert counted_macs(lambda: nn.Linear(5, 7)(torch.rand(11, 5))) == 11 * 5 * 7
    assert counted_macs(lambda: nn.Conv2d(3, 4, 3, padding=1)(x)) == 2 * 64 * 3 * 4 * 9
    q, k = torch.rand(1, 2, 5, 16), torch.rand(1, 2, 9, 16)
    attention = counted_macs(lambda: F.scaled_dot_product_attention(q, k, k))
    assert attention == 2 * 2 * 5 * 9 * 16
    assert counted_macs(lambda: x.relu().softmax(1)) == 0


def test_gathers_by_hand() -> None:
    """Rows of 6 float32 numbers; a bilinear value is made of four."""
    rows, index = torch.rand(10, 6), torch.randint(0, 10, (5, 3))
    assert gathered_bytes(lambda: F.embedding_bag(index, rows, mode="sum")) == 5 * 3 * 6 * 4
    assert gathered_bytes(lambda: rows.index_select(0, index[0])) == 3 * 6 * 4
    level, grid = torch.rand(2, 6, 4, 5), torch.rand(2, 7, 1, 2)
    found = gathered_bytes(lambda: F.grid_sample(level, grid, align_corners=False))
    assert found == 4 * 2 * 7 * 6 * 4
    assert gathered_bytes(lambda: rows @ rows.mT) == 0


def test_v15_2_costs_what_the_formulas_say() -> None:
    """733,440 and 171,232 with bilinear reads, which are not counted here."""
    model = create_model("v15_2", ENCODER, image_size=SIZE)
    model.execution = "reference"
    assert macs_per_query(model) == 733_440 - 4 * 75 * 64
    folded = create_model("v15_2", ENCODER, image_size=SIZE)
    codes = 2 * 75 * 64 * 64  # projected once, shared by all queries
    between = 4 * (3 * 2 * 4 * 25 + 64)  # interpolation of scores and weights, s8 at the point
    instead = 2_944  # sums over 75 codes, not 25 positions and 2 sources
    assert macs_per_query(folded, queries=1) == 171_232 - between + instead + codes
    assert macs_per_query(folded, queries=4096) == 171_232 - between + instead + codes // 4096


@pytest.mark.parametrize("name", ["v15_2", "v14_dual"])
def test_an_image_costs_in_proportion_to_its_pixels(name: str) -> None:
    model = create_model(name, ENCODER, image_size=SIZE)
    whole = macs_per_image(model, (128, 192))
    assert 3.5 < whole / macs_per_image(model) < 6.0  # attention over cells grows faster
    assert macs_per_image(model, (120, 180)) == whole  # padded
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_company_costs_only_where_queries_see_each_other() -> None:
    alone = create_model("v15_2", ENCODER, image_size=SIZE)
    alone.execution = "reference"  # the fast form projects the codes once, for all queries
    assert macs_per_query(alone, queries=8) == macs_per_query(alone, queries=64)
    canvas = create_model("v14_dual", ENCODER, image_size=SIZE)
    few, many = (n * macs_per_query(canvas, queries=n) for n in (8, 64))
    attention = 5 * 2 * (64**2 - 8**2) * 192  # five layers of Q2Q: scores and sums
    assert many - few > attention
