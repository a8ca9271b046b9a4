"""What tests of figures share."""

from __future__ import annotations

import io

import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure


def drawn(figure: Figure) -> np.ndarray:
    """The figure's pixels; drawing raises where an artist cannot be drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    buffer.seek(0)
    picture = matplotlib.image.imread(buffer)
    assert picture[..., :3].std() > 0.01
    return picture


def words(figure: Figure) -> list[str]:
    """Everything written in a figure after drawing it."""
    drawn(figure)
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text().strip()]
