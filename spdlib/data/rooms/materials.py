"""Procedural materials of `rooms`: one parameter row per surface, one shader for all of them.

A surface is a base colour on which a pattern of cells (planks, tiles, book spines, drawers), seams
between them, fine grain and coarse blotches are laid. All lengths are metres, so that the scale of
a texture tells the distance. Patterns fade where they become finer than a pixel.
"""

from __future__ import annotations

import colorsys
from functools import cache
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

RGB = tuple[float, float, float]
Range = tuple[float, float]
NOISE_SIZE = 256
WIDE = 1e3
"""A cell so wide that the pattern has no seam along that axis."""


class Material(NamedTuple):
    """How a surface looks.

    Attributes:
        colour: sRGB base colour in 0..1.
        accent: sRGB colour that cells are mixed with, at random amounts up to `mix`.
        cell: width and height of a cell in metres.
        stagger: shift of every second row of cells, as a share of the cell's width.
        mix: largest share of `accent` in a cell.
        shade: random brightness of cells, relative.
        hue: random colour of cells, relative.
        seam: half width of the line between cells in metres.
        seam_gain: brightness of that line relative to the surface.
        grain: texels per metre of the fine noise along s and t.
        grain_gain: relative strength of the fine noise.
        blotch: texels per metre of the coarse noise.
        blotch_gain: relative strength of the coarse noise.
        gloss: strength of highlights.
        glow: light that the surface emits, in units of its colour.
    """

    colour: RGB
    accent: RGB = (1.0, 1.0, 1.0)
    cell: tuple[float, float] = (WIDE, WIDE)
    stagger: float = 0.0
    mix: float = 0.0
    shade: float = 0.0
    hue: float = 0.0
    seam: float = 0.0
    seam_gain: float = 0.5
    grain: tuple[float, float] = (60.0, 60.0)
    grain_gain: float = 0.0
    blotch: float = 3.0
    blotch_gain: float = 0.06
    gloss: float = 0.0
    glow: float = 0.0

    def row(self) -> list[float]:
        """The parameters as numbers, colours in linear light, in the order `shade` reads them."""
        colours = [channel**2.2 for channel in (*self.colour, *self.accent)]
        return [*colours, *self.cell, *self[3:9], *self.grain, *self[10:]]

    def upright(self) -> Material:
        """The same with its grain along t, as in legs and posts."""
        return self._replace(grain=(self.grain[1], self.grain[0]))


WHITE = Material((0.9, 0.89, 0.86), blotch_gain=0.03, gloss=0.05)
CERAMIC = Material((0.93, 0.92, 0.9), blotch_gain=0.02, gloss=0.5)
SCREEN = Material((0.1, 0.1, 0.11), gloss=0.6, blotch_gain=0.02)
"""White lacquer, sanitary ware, and a switched-off display."""


class Materials:
    """Draws materials from one stream of random numbers."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.size, self.choice = rng, rng.uniform, rng.choice

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def tone(self, hue: Range, saturation: Range, value: Range) -> RGB:
        """Random sRGB colour from ranges of hue, saturation and value."""
        h, s, v = (self.size(*bounds) for bounds in (hue, saturation, value))
        return colorsys.hsv_to_rgb(h % 1.0, s, v)

    def paint(self) -> Material:
        """Wall paint, mostly pale and warm; now and then wallpaper or a strong colour."""
        colour = self.tone((0.05, 0.17), (0.04, 0.35), (0.62, 0.93))
        if self.chance(0.2):
            colour = self.tone((0.0, 0.65), (0.1, 0.42), (0.4, 0.85))
        plain = Material(colour, grain=(90, 90), grain_gain=0.05, blotch=1.5, blotch_gain=0.08)
        if self.chance(0.15):
            return plain._replace(cell=(self.size(0.06, 0.2), WIDE), mix=0.4, shade=0.1)
        if self.chance(0.08):
            brick = plain._replace(cell=(0.22, 0.072), stagger=0.5, shade=0.25)
            return brick._replace(seam=0.005, seam_gain=0.7)
        return plain

    def wood(self, value: Range = (0.22, 0.72)) -> Material:
        """Furniture wood: grain along s."""
        colour, gloss = self.tone((0.03, 0.1), (0.25, 0.68), value), self.size(0.02, 0.15)
        return Material(colour, grain=(4, 110), grain_gain=0.3, blotch_gain=0.1, gloss=gloss)

    def lacquer(self) -> Material:
        """Painted furniture: white, grey, black or one colour."""
        value = self.choice([(0.82, 0.95), (0.82, 0.95), (0.3, 0.6), (0.05, 0.15)])
        saturation = (0.0, 0.12) if self.chance(0.88) else (0.3, 0.6)
        return Material(self.tone((0.0, 1.0), saturation, value), blotch_gain=0.05, gloss=0.1)

    def stone(self) -> Material:
        """Counter tops and ceramics."""
        colour = self.tone((0.0, 0.15), (0.0, 0.2), (0.25, 0.92))
        veined = Material(colour, grain=(45, 45), grain_gain=0.14, blotch=9, blotch_gain=0.1)
        return veined._replace(gloss=0.35)

    def fabric(self, saturation: Range = (0.05, 0.55)) -> Material:
        """Upholstery, bedding and clothes: plain, striped, checked or patterned."""
        hue = (0.0, 1.0) if self.chance(0.5) else (0.0, 0.15)
        colour = self.tone(hue, saturation, (0.16, 0.85))
        plain = Material(colour, grain=(150, 150), grain_gain=0.25, blotch=6, blotch_gain=0.15)
        pattern = self.rng.random()
        accent = self.tone((0.0, 0.2), (0.0, 0.5), (0.3, 0.95))
        if pattern < 0.12:
            return plain._replace(cell=(self.size(0.02, 0.08), WIDE), accent=accent, mix=0.7)
        if pattern < 0.3:
            side = self.size(0.012, 0.05)
            return plain._replace(cell=(side, side), accent=accent, mix=0.6, shade=0.3, stagger=0.5)
        return plain

    def curtain(self) -> Material:
        """Cloth with vertical folds."""
        return self.fabric()._replace(cell=(self.size(0.05, 0.1), WIDE), shade=0.8, mix=0.0)

    def floor(self) -> Material:
        """Planks, tiles or carpet."""
        kind = self.rng.random()
        if kind < 0.4:
            size = (self.size(0.8, 1.4), self.size(0.07, 0.15))
            planks = self.wood((0.3, 0.75))._replace(cell=size, stagger=0.37, shade=0.4, gloss=0.2)
            return planks._replace(seam=0.0025, seam_gain=0.35)
        if kind < 0.65:
            side, tiles = self.choice([0.2, 0.3, 0.33, 0.45]), self.stone()
            mix, seam_gain = self.choice([0.05, 0.1, 0.4]), self.choice([0.55, 1.3])
            tiles = tiles._replace(cell=(side, side), shade=0.15, mix=mix)
            return tiles._replace(seam=0.006, seam_gain=seam_gain)
        colour = self.tone((0.0, 0.17), (0.05, 0.5), (0.3, 0.8))
        return Material(colour, grain=(120, 120), grain_gain=0.35, blotch=12, blotch_gain=0.13)

    def rug(self) -> Material:
        """A patterned carpet."""
        accent = self.tone((0.0, 0.2), (0.1, 0.6), (0.5, 0.9))
        cell = (self.size(0.03, 0.25), self.choice([WIDE, self.size(0.03, 0.25)]))
        return self.fabric((0.2, 0.7))._replace(cell=cell, accent=accent, mix=0.6, shade=0.25)

    def wall_tiles(self) -> Material:
        """Glazed tiles of kitchens and bathrooms."""
        side, glaze = self.choice([0.1, 0.15, 0.2]), self.stone()
        glaze = glaze._replace(colour=self.tone((0.05, 0.6), (0.02, 0.2), (0.7, 0.93)), shade=0.12)
        return glaze._replace(cell=(side, side), seam=0.004, seam_gain=0.6, grain_gain=0.05)

    def books(self, height: float) -> Material:
        """A row of book spines `height` metres tall."""
        cell = (self.size(0.02, 0.045), height)
        spines = Material((0.5, 0.45, 0.42), cell=cell, shade=1.0, hue=1.5, grain=(4, 25))
        return spines._replace(seam=0.003, seam_gain=0.15, grain_gain=0.5)

    def picture(self) -> Material:
        """A painting, photograph or poster."""
        colour = self.tone((0.0, 1.0), (0.05, 0.4), (0.3, 0.85))
        cell = (self.size(0.1, 0.6), self.size(0.1, 0.4))
        patches = Material(colour, cell=cell, stagger=0.5, hue=0.7, shade=0.7)
        return patches._replace(blotch=14, blotch_gain=0.7, grain=(40, 40), grain_gain=0.5)

    def pane(self) -> Material:
        """A window: bright sky, or dark at night, behind muntins or blinds."""
        colour = self.tone((0.5, 0.62), (0.0, 0.25), (0.85, 1.0))
        glow = self.choice([0.05, 0.6, 1.2, 2.0, 3.0])
        glass = Material(colour, blotch=5, blotch_gain=0.25, glow=glow, gloss=0.3)
        if self.chance(0.4):
            return glass._replace(cell=(WIDE, 0.05), seam=0.011, seam_gain=0.45, glow=glow / 2)
        cell = (self.size(0.3, 0.7), self.size(0.35, 0.8))
        return glass._replace(cell=cell, seam=0.02, seam_gain=0.3 if glow > 0.5 else 6.0)

    def metal(self) -> Material:
        """Steel, chrome or aluminium."""
        colour = self.tone((0.55, 0.65), (0.0, 0.06), (0.35, 0.8))
        return Material(colour, gloss=0.5, grain=(3, 200), grain_gain=0.1)

    def leaves(self) -> Material:
        """Foliage seen from far enough."""
        colour = self.tone((0.2, 0.36), (0.3, 0.7), (0.3, 0.6))
        return Material(colour, grain=(40, 40), grain_gain=0.5, blotch=25, blotch_gain=0.4)

    def lit_shade(self) -> Material:
        """A lamp shade with the lamp on."""
        return Material(self.tone((0.08, 0.14), (0.1, 0.4), (0.9, 1.0)), glow=self.size(0.6, 2.5))

    def thing(self) -> Material:
        """Clutter of any colour."""
        vivid = 0.85 * self.rng.random() ** 2
        colour = self.tone((0.0, 1.0), (vivid, vivid), (0.08, 0.95))
        plain = Material(colour, gloss=self.size(0, 0.3))
        if self.chance(0.4):
            return plain._replace(cell=(0.09, 0.05), hue=0.4, shade=0.6, stagger=0.3)
        return plain


@cache
def noise_tables() -> tuple[Tensor, Tensor, Tensor]:
    """Fine and coarse periodic noise [1, 1, 257, 257] of variance 1; cell colours [65536, 3]."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(NOISE_SIZE) * NOISE_SIZE
    radius = torch.hypot(frequency[:, None], frequency[None, :]).clamp(min=1)
    white = torch.fft.fft2(torch.randn(NOISE_SIZE, NOISE_SIZE, generator=generator))
    fields = (torch.fft.ifft2(white * radius**-slope).real for slope in (0.35, 1.1))
    fine, coarse = (
        functional.pad((field / field.std())[None, None], (0, 1, 0, 1), mode="circular")
        for field in fields
    )
    return fine, coarse, torch.rand(65536, 3, generator=generator)


def read_noise(table: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Periodic noise at texel coordinates s, t [N], bilinear."""
    grid = torch.stack([s, t], -1).remainder(NOISE_SIZE) * (2 / NOISE_SIZE) - 1
    return functional.grid_sample(
        table, grid[None, None], mode="bilinear", padding_mode="border", align_corners=True
    )[0, 0, 0]


def seam_cover(position: Tensor, cell: Tensor, seam: Tensor, footprint: Tensor) -> Tensor:
    """Share [N] of a pixel that a seam covers; `position` is the fraction of a cell, 0..1."""
    distance = (0.5 - (position - 0.5).abs()) * cell  # from the pixel to the seam's middle
    right = torch.minimum(seam, distance + footprint / 2)
    left = torch.maximum(-seam, distance - footprint / 2)
    return ((right - left) / footprint).clamp(0, 1)


def shade(rows: Tensor, s: Tensor, t: Tensor, footprint: Tensor) -> Tensor:
    """Reflectance [3, N] of surfaces in linear light; may exceed 1 where a surface is bright.

    Rows [22, N] hold the columns of `Material.row`, then an integer 0..65535 that differs between
    surfaces. Surface coordinates s, t and the footprint of a pixel on the surface are [N] metres.
    """
    fine, coarse, cell_colours = noise_tables()
    cell_s, cell_t, stagger, mix, vary, hue, seam, seam_gain = rows[6:14]
    grain_s, grain_t, grain_gain, blotch, blotch_gain = rows[14:19]
    row = t / cell_t
    row_index = row.floor()
    column = s / cell_s + stagger * row_index.remainder(2)
    column_index = column.floor()
    key = (column_index * 17 + row_index * 293 + rows[-1]).remainder(65536)
    random = cell_colours.index_select(0, key.long()).T  # [3, N]
    visible = (torch.minimum(cell_s, cell_t) / footprint / 2).clamp(max=1)  # share of the pattern
    base = torch.lerp(rows[:3], rows[3:6], mix * random[0])
    colour = base * (1 + visible * (hue * (random - 0.5) + vary * (random[1] - 0.5)))
    cover = torch.maximum(
        seam_cover(column - column_index, cell_s, seam, footprint),
        seam_cover(row - row_index, cell_t, seam, footprint),
    )
    resolved = (0.7 / (torch.maximum(grain_s, grain_t) * footprint)).clamp(max=1)
    place = key.remainder(251)  # no two cells show the same piece of noise
    gain = 1 + grain_gain * resolved * read_noise(fine, s * grain_s + place, t * grain_t)
    gain = gain + blotch_gain * read_noise(coarse, s * blotch + place, t * blotch)
    return (colour * gain * torch.lerp(torch.ones_like(cover), seam_gain, cover)).clamp(min=0.004)
