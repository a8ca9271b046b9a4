"""What stands in `rooms`: solids, furniture built of them, and the clutter on it.

Furniture is built in its own frame: x along its width, y up from the floor, z from its back (0) to
its front, all in metres and in ordinary sizes, so that known objects tell the distance.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any, NamedTuple

from spdlib.data.rooms.materials import CERAMIC, SCREEN, WHITE, WIDE, Material, Materials, Range

Vector = tuple[float, float, float]
BOX, CYLINDER, BALL = 0, 1, 2


class Solid(NamedTuple):
    """A box, an upright elliptic cylinder or an ellipsoid.

    Attributes:
        shape: BOX, CYLINDER or BALL.
        centre: position in metres, y up.
        half: half extents along its own axes in metres.
        material: its surface.
        label: what it is part of.
        yaw: turn about the vertical in radians.
        tilt: turn about its own x axis, before the yaw.
        casts: whether it throws shadows.
        origin: where its texture starts along x, y and z, so that walls of pieces show no joints.
    """

    shape: int
    centre: Vector
    half: Vector
    material: Material
    label: str
    yaw: float = 0.0
    tilt: float = 0.0
    casts: bool = True
    origin: Vector = (0.0, 0.0, 0.0)


class Parts(list[Solid]):
    """Solids put together in one frame, and the attributes that most of them share."""

    def __init__(self, label: str, **shared: Any) -> None:
        super().__init__()
        self.shared = {"label": label, **shared}

    def add(self, shape: int, centre: Vector, half: Vector, material: Material, **own: Any) -> None:
        """Adds a solid; `own` are attributes that it does not share."""
        self.append(Solid(shape, centre, half, material, **{**self.shared, **own}))

    def box(self, x: Range | float, y: Range, z: Range, material: Material, **own: Any) -> None:
        """Adds a box from its extents along x, y and z; a number for x is a width, centred on 0."""
        x = x if isinstance(x, tuple) else (-x / 2, x / 2)
        centre = ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, (z[0] + z[1]) / 2)
        half = ((x[1] - x[0]) / 2, (y[1] - y[0]) / 2, (z[1] - z[0]) / 2)
        self.add(BOX, centre, half, material, **own)

    def sides(
        self, inner: float, outer: float, y: Range, z: Range, material: Material, **own: Any
    ) -> None:
        """Adds a box at the left from x = -outer to -inner, and its mirror image at the right."""
        self.box((-outer, -inner), y, z, material, **own)
        self.box((inner, outer), y, z, material, **own)

    def post(
        self, x: float, z: float, radius: float, y: Range, material: Material, **own: Any
    ) -> None:
        """Adds an upright cylinder from y[0] to y[1]."""
        centre, half = (x, (y[0] + y[1]) / 2, z), (radius, (y[1] - y[0]) / 2, radius)
        self.add(CYLINDER, centre, half, material, **own)


def moved(solids: list[Solid], x: float, z: float, yaw: float = 0.0, y: float = 0.0) -> list[Solid]:
    """Solids turned about the vertical axis, then shifted."""
    c, s = math.cos(yaw), math.sin(yaw)
    placed = []
    for solid in solids:
        i, j, k = solid.centre
        centre = (x + c * i + s * k, y + j, z - s * i + c * k)
        placed.append(solid._replace(centre=centre, yaw=solid.yaw + yaw))
    return placed


class Top(NamedTuple):
    """A horizontal surface that carries clutter: extents along x and z, height."""

    x: Range
    z: Range
    y: float


class Item(NamedTuple):
    """A piece of furniture in its own frame, with its footprint, its height and its top."""

    width: float
    depth: float
    height: float
    solids: list[Solid]
    top: Top | None = None


class Style(Materials):
    """Makes the furniture of one room, which shares some materials."""

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self.timber = self.wood()
        self.body = self.timber if self.chance(0.6) else self.lacquer()
        self.cloth, self.steel, self.wall = self.fabric(), self.metal(), self.paint()
        self.trim = self.lacquer() if self.chance(0.4) else WHITE

    def made(self, name: str) -> Item:
        """The piece of furniture that the method of this name makes."""
        item: Item = getattr(self, name)()
        return item

    def front(self, width: float, height: float, columns: int, rows: int) -> Material:
        """The body's material divided into doors or drawers."""
        cell = (width / columns, height / rows)
        return self.body._replace(cell=cell, stagger=0.0, shade=0.05, seam=0.004, seam_gain=0.3)

    def legs(self, parts: Parts, w: float, d: float, h: float, thick: float) -> None:
        """Four legs of height h under a rectangle whose back edge is at z = 0."""
        x, half, wood = w / 2 - thick, thick / 2, self.timber.upright()
        for z in (thick, d - thick):
            parts.sides(x - half, x + half, (0, h), (z - half, z + half), wood)

    def chair(self) -> Item:
        """A dining chair, or an office chair on a column."""
        w, d, seat, h = 0.44, 0.46, self.size(0.43, 0.48), self.size(0.8, 1.0)
        cover, parts = self.cloth if self.chance(0.5) else self.timber, Parts("chair")
        parts.box(w, (seat - 0.05, seat), (0.02, d), cover)
        parts.box(w, (seat + 0.12, h), (0.0, 0.045), cover, tilt=-0.12)
        if self.chance(0.35):
            parts.post(0, d / 2, 0.03, (0.08, seat), self.steel)
            parts.post(0, d / 2, 0.28, (0.03, 0.08), SCREEN)
        else:
            self.legs(parts, w, d, seat, 0.04)
            x, rail = w / 2 - 0.02, self.timber.upright()
            parts.sides(x - 0.02, x + 0.02, (seat, h), (0.0, 0.04), rail, tilt=-0.12)
        return Item(w, d, h, parts)

    def table(self) -> Item:
        """A dining table, round or rectangular, with chairs around it."""
        h, d = self.size(0.71, 0.77), self.size(0.75, 1.0)
        w = d if self.chance(0.3) else self.size(1.1, 2.2)
        reach, parts = 0.42, Parts("table")
        if w == d:
            parts.post(0, d / 2, d / 2, (h - 0.035, h), self.timber)
            parts.post(0, d / 2, 0.05, (0, h), self.steel)
            parts.post(0, d / 2, 0.26, (0, 0.03), self.steel)
        else:
            parts.box(w, (h - 0.04, h), (0, d), self.timber)
            self.legs(parts, w, d, h, 0.06)
        seats = max(1, int(w / 0.6))
        for i in range(seats):
            x = (i + 0.5) * w / seats - w / 2
            for z, yaw in ((-0.25, 0.0), (d + 0.25, math.pi)):
                if self.chance(0.75):
                    pull = self.size(-0.1, 0.15) * (1 if z < 0 else -1)
                    parts += moved(self.chair().solids, x, z - pull, yaw + self.size(-0.3, 0.3))
        top = Top((-w * 0.4, w * 0.4), (reach + 0.1, reach + d - 0.1), h)
        return Item(w + 0.1, d + 2 * reach, 0.95, moved(parts, 0, reach), top)

    def coffee_table(self) -> Item:
        """A low table."""
        w, d, h = self.size(0.7, 1.3), self.size(0.45, 0.7), self.size(0.36, 0.48)
        parts = Parts("table")
        parts.box(w, (h - 0.04, h), (0, d), self.timber)
        self.legs(parts, w, d, h, 0.05)
        if self.chance(0.5):
            parts.box((-w * 0.45, w * 0.45), (0.12, 0.15), (0.03, d - 0.03), self.timber)
        return Item(w, d, h, parts, Top((-w * 0.4, w * 0.4), (0.08, d - 0.08), h))

    def desk(self) -> Item:
        """A desk with drawers, a monitor and a chair."""
        w, d, h = self.size(1.1, 1.7), self.size(0.6, 0.8), self.size(0.71, 0.76)
        parts, drawers = Parts("desk"), self.front(0.4, h, 1, 3)
        parts.box(w, (h - 0.035, h), (0, d), self.timber)
        parts.box((-w / 2, -w / 2 + 0.4), (0, h - 0.035), (0.02, d - 0.03), drawers)
        parts.box((w / 2 - 0.04, w / 2), (0, h - 0.035), (0.02, d - 0.03), self.timber)
        x = self.size(-0.2, 0.3)
        if self.chance(0.8):
            half, tall, keys = self.size(0.22, 0.3), self.size(0.3, 0.38), self.thing()
            screen, foot = (x - half, x + half), (x - 0.03, x + 0.03)
            upright = (h + 0.1, h + 0.1 + tall)
            parts.box(screen, upright, (0.14, 0.18), SCREEN, label="television")
            parts.box(foot, (h, h + 0.2), (0.11, 0.14), SCREEN, label="television")
            parts.box((x - 0.22, x + 0.22), (h, h + 0.025), (0.4, 0.54), keys, label="other_prop")
        seat = self.chair().solids
        x, z = x + self.size(-0.2, 0.2), d + self.size(0.2, 0.45)
        parts += moved(seat, x, z, math.pi + self.size(-0.7, 0.7))
        return Item(w, d + 0.5, h, parts, Top((-w * 0.45, w * 0.45), (0.08, d - 0.1), h))

    def bed(self) -> Item:
        """A bed with its head at the wall, pillows and night stands."""
        w = self.choice([0.95, 1.4, 1.6, 1.9])
        d, h, wide = self.size(1.95, 2.1), self.size(0.45, 0.62), (-w / 2 - 0.04, w / 2 + 0.04)
        sheet = self.fabric((0.0, 0.25))._replace(colour=(0.88, 0.86, 0.82))
        parts, quilt = Parts("bed"), self.fabric()
        parts.box(w, (0.12, h - 0.2), (0.04, d), self.body)
        parts.box(w, (h - 0.2, h), (0.06, d - 0.02), sheet)
        parts.box(wide, (h - 0.28, h + 0.04), (0.65, d + 0.03), quilt)
        parts.box(w, (0, self.size(0.8, 1.25)), (0, 0.06), self.timber)
        count = 1 if w < 1.2 else 2
        for i in range(count):
            place = ((i + 0.5) * w / count - w / 2, h + 0.12, 0.27)
            parts.add(BALL, place, (0.33, 0.1, 0.2), sheet, label="pillow", tilt=0.6)
        if self.chance(0.4):
            place, cover = (self.size(-0.3, 0.3), h + 0.14, 0.5), self.fabric()
            parts.add(BALL, place, (0.2, 0.09, 0.17), cover, label="pillow", tilt=0.8)
        for side in (-1, 1):
            if self.chance(0.7):
                parts += moved(self.night_stand().solids, side * (w / 2 + 0.32), 0)
        return Item(w + 1.2, d + 0.1, h, parts, Top((-w * 0.4, w * 0.4), (0.8, d - 0.1), h + 0.04))

    def night_stand(self) -> Item:
        """A bedside cabinet, usually with a lamp."""
        w, d, h, parts = 0.45, 0.4, self.size(0.5, 0.65), Parts("night_stand")
        parts.box(w, (0, h), (0, d), self.front(w, h, 1, 2))
        if self.chance(0.7):
            self.table_lamp(parts, 0, d / 2, h)
        return Item(w, d, h, parts)

    def table_lamp(self, parts: Parts, x: float, z: float, y: float) -> None:
        """A lamp standing at height y."""
        lit = self.lit_shade()
        lit = lit._replace(glow=lit.glow if self.chance(0.4) else 0.0)
        parts.add(BALL, (x, y + 0.12, z), (0.07, 0.12, 0.07), self.steel, label="lamp")
        radius, upright = self.size(0.12, 0.18), (y + 0.24, y + 0.48)
        parts.post(x, z, radius, upright, lit, label="lamp", casts=False)

    def sofa(self, seats: int = 0) -> Item:
        """A sofa of one to three seats with cushions."""
        seats = seats or self.choice([2, 3, 3])
        place, arm, cloth = self.size(0.55, 0.7), self.size(0.12, 0.24), self.cloth
        w, d, seat, h = seats * place + 2 * arm, self.size(0.8, 0.95), 0.43, self.size(0.75, 0.95)
        inner, parts = w / 2 - arm, Parts("sofa")
        parts.box(w, (0.06, seat - 0.12), (0.05, d), cloth)
        parts.box(w, (0.06, h - 0.05), (0, 0.2), cloth)
        parts.sides(inner, w / 2, (0.06, seat + 0.18), (0.02, d), cloth)
        for i in range(seats):
            x, low = -inner + i * place, (seat - 0.12, seat + 0.02)
            parts.box((x + 0.01, x + place - 0.01), low, (0.18, d + 0.02), cloth)
            parts.box((x + 0.02, x + place - 0.02), (seat, h), (0.15, 0.32), cloth, tilt=-0.15)
            if self.chance(0.4):
                centre, cover = (x + place / 2, seat + 0.19, 0.42), self.fabric()
                parts.add(BALL, centre, (0.21, 0.09, 0.19), cover, label="pillow", tilt=1.1)
        return Item(w, d, h, parts, Top((-inner, inner), (0.4, d - 0.1), seat + 0.02))

    def armchair(self) -> Item:
        """A sofa for one."""
        return self.sofa(seats=1)

    def cabinet(self) -> Item:
        """A dresser, sideboard, wardrobe or filing cabinet with a top board and handles."""
        kind = self.choice(["dresser", "dresser", "sideboard", "wardrobe", "file"])
        w, d, h, columns, rows = {
            "dresser": (self.size(0.75, 1.3), 0.48, self.size(0.75, 1.15), 2, 4),
            "sideboard": (self.size(1.2, 1.9), 0.45, self.size(0.7, 0.9), 3, 1),
            "wardrobe": (self.size(0.9, 1.8), 0.6, self.size(1.85, 2.2), 3, 1),
            "file": (0.45, 0.6, self.size(0.7, 1.35), 1, 4),
        }[kind]
        parts = Parts("dresser" if kind == "dresser" else "cabinet")
        parts.box(w, (0.05, h), (0, d), self.front(w, h - 0.05, columns, rows))
        parts.box((-w / 2 - 0.02, w / 2 + 0.02), (h, h + 0.03), (0, d + 0.02), self.body)
        for i in range(columns):
            for j in range(rows):
                x, y = (i + 0.5) * w / columns - w / 2, 0.05 + (j + 0.5) * (h - 0.05) / rows
                parts.box((x - 0.05, x + 0.05), (y - 0.008, y + 0.008), (d, d + 0.03), self.steel)
        top = Top((-w * 0.45, w * 0.45), (0.08, d - 0.08), h + 0.03)
        return Item(w, d, h, parts, top if h < 1.5 else None)

    def bookshelf(self) -> Item:
        """Open shelves with rows of books and some gaps."""
        w, d, shelves = self.size(0.7, 1.6), self.size(0.26, 0.36), self.choice([2, 4, 5, 6])
        step = self.size(0.3, 0.38)
        h, side, parts = shelves * step + 0.1, self.body.upright(), Parts("bookshelf")
        parts.box(w, (0, h), (0, 0.02), side)
        parts.sides(w / 2 - 0.025, w / 2, (0, h), (0, d), side)
        parts.box(w, (0, 0.08), (0, d), self.body)
        for i in range(shelves):
            y = 0.08 + i * step
            parts.box(w, (y + step - 0.022, y + step), (0, d), self.body)
            left = -w / 2 + 0.03
            while left < w / 2 - 0.2 and self.chance(0.85):
                right = min(left + self.size(0.2, 0.9), w / 2 - 0.03)
                tall, front = self.size(0.18, step - 0.04), self.size(0.16, d - 0.02)
                spines = self.books(tall + 0.01)
                parts.box((left, right), (y, y + tall), (0.03, front), spines, label="books")
                left = right + self.size(0.02, 0.25)
        return Item(w, d, h, parts, Top((-w * 0.45, w * 0.45), (0.05, d - 0.05), h))

    def counter(self) -> Item:
        """A run of kitchen cabinets with worktop, tiles, wall cabinets, oven and often a fridge."""
        w, d, h = self.size(1.5, 3.2), 0.6, self.size(0.86, 0.93)
        doors, board = max(2, round(w / 0.5)), (-w / 2 - 0.01, w / 2 + 0.01)
        top = self.stone() if self.chance(0.7) else self.timber
        tiles, parts = self.wall_tiles(), Parts("cabinet")
        parts.box(w, (0.1, h), (0, d - 0.04), self.front(w, h - 0.1, doors, 1))
        parts.box(w, (0, 0.1), (0, d - 0.1), SCREEN)
        parts.box(board, (h, h + 0.035), (0, d), top, label="counter")
        parts.box(w, (h, h + 0.5), (0, 0.012), tiles, label="wall")
        if self.chance(0.75):
            low, high = self.size(1.4, 1.5), self.size(2.05, 2.25)
            parts.box(w, (low, high), (0, 0.34), self.front(w, high - low, doors, 1))
        if self.chance(0.6):
            x, oven = self.size(-w / 2 + 0.3, w / 2 - 0.3), Parts("other_furniture")
            oven.box((x - 0.3, x + 0.3), (0.12, h), (0, d - 0.02), self.steel)
            oven.box((x - 0.24, x + 0.24), (0.25, 0.62), (0, d - 0.01), SCREEN)
            oven.box((x - 0.29, x + 0.29), (h, h + 0.045), (0.04, d - 0.05), SCREEN)
            parts += oven
        fridge = 0.0
        if self.chance(0.6):
            fridge, high, deep = self.size(0.6, 0.9), self.size(1.6, 1.9), self.size(0.62, 0.75)
            skin = self.steel if self.chance(0.4) else WHITE
            skin = skin._replace(cell=(WIDE, high * 0.65), seam=0.006)
            beside = (w / 2 + 0.02, w / 2 + 0.02 + fridge)
            parts.box(beside, (0.02, high), (0, deep), skin, label="fridge")
        shift = (w - (w + fridge)) / 2
        worktop = Top((shift - w * 0.45, shift + w * 0.45), (0.1, 0.5), h + 0.035)
        return Item(w + fridge, 0.75, 2.2, moved(parts, -fridge / 2, 0), worktop)

    def television(self) -> Item:
        """A low cabinet with a television."""
        w, d, h = self.size(1.0, 1.7), 0.42, self.size(0.4, 0.6)
        sw, sh, parts = self.size(0.35, 0.6), self.size(0.45, 0.7), Parts("television")
        parts.box(w, (0.03, h), (0, d), self.front(w, h, 3, 1), label="cabinet")
        parts.box((-sw, sw), (h + 0.05, h + 0.05 + sh), (0.15, 0.2), SCREEN)
        parts.box((-0.2, 0.2), (h, h + 0.06), (0.1, 0.26), SCREEN)
        return Item(w, d, h + sh, parts, Top((-w * 0.45, w * 0.45), (0.25, d - 0.03), h))

    def vanity(self) -> Item:
        """A bathroom cabinet with basin and mirror."""
        w, d, h = self.size(0.7, 1.5), 0.52, self.size(0.8, 0.88)
        glass = Material((0.55, 0.58, 0.6), blotch=2, blotch_gain=0.35, gloss=0.6)
        x, top, parts = self.size(-w / 4, w / 4), self.stone(), Parts("sink")
        board, basin = (-w / 2 - 0.02, w / 2 + 0.02), (0.24, 0.02, 0.18)
        parts.box(w, (0.08, h), (0, d - 0.03), self.front(w, h, 2, 1), label="cabinet")
        parts.box(board, (h, h + 0.04), (0, d), top, label="counter")
        parts.add(CYLINDER, (x, h + 0.05, d / 2), basin, CERAMIC)
        parts.post(x, 0.1, 0.018, (h + 0.04, h + 0.2), self.steel)
        parts.box(w, (h + 0.25, h + 1.1), (0, 0.02), glass, label="mirror")
        return Item(w, d, 1.95, parts, Top((-w * 0.48, w * 0.48), (0.08, d - 0.1), h + 0.04))

    def toilet(self) -> Item:
        """A toilet with its cistern."""
        parts = Parts("toilet")
        parts.box((-0.22, 0.22), (0.38, 0.76), (0.02, 0.2), CERAMIC)
        parts.box((-0.11, 0.11), (0, 0.36), (0.15, 0.5), CERAMIC)
        parts.add(CYLINDER, (0, 0.38, 0.42), (0.19, 0.04, 0.26), CERAMIC)
        parts.add(BALL, (0, 0.3, 0.4), (0.17, 0.16, 0.24), CERAMIC)
        return Item(0.5, 0.72, 0.76, parts, Top((-0.18, 0.18), (0.06, 0.16), 0.76))

    def bathtub(self) -> Item:
        """A bathtub of four sides and a bottom, often with a curtain."""
        w, d, h, parts = self.size(1.5, 1.75), 0.75, 0.55, Parts("bathtub")
        parts.box(w, (0, 0.15), (0, d), CERAMIC)
        parts.box(w, (0, h), (0, 0.07), CERAMIC)
        parts.box(w, (0, h), (d - 0.07, d), CERAMIC)
        parts.sides(w / 2 - 0.1, w / 2, (0, h), (0, d), CERAMIC)
        if self.chance(0.5):
            cloth, x = self.curtain(), (-w / 2, self.size(-0.4, 0.6))
            parts.box(x, (0.3, 2.0), (d - 0.04, d - 0.01), cloth, label="curtain")
        return Item(w, d, h, parts)

    def floor_lamp(self) -> Item:
        """A lamp on a pole."""
        h, radius, lit = self.size(1.4, 1.8), self.size(0.15, 0.22), self.lit_shade()
        parts = Parts("lamp")
        parts.post(0, 0.18, 0.015, (0, h), self.steel)
        parts.post(0, 0.18, 0.14, (0, 0.03), self.steel)
        parts.post(0, 0.18, radius, (h - 0.28, h), lit, casts=False)
        return Item(0.4, 0.4, h, parts)

    def plant(self) -> Item:
        """A potted plant of ellipsoid leaves."""
        h, green, parts = self.size(0.6, 1.5), self.leaves(), Parts("other_prop")
        parts.post(0, 0.25, 0.15, (0, 0.28), self.thing())
        parts.post(0, 0.25, 0.02, (0.28, h * 0.8), self.timber)
        for _ in range(18):
            x, y, z = self.size(-0.22, 0.22), self.size(0.35 * h + 0.1, h), self.size(-0.2, 0.2)
            half, tilt = (self.size(0.03, 0.08), 0.015, self.size(0.08, 0.17)), self.size(-0.9, 0.4)
            yaw = self.size(-math.pi, math.pi)
            parts.add(BALL, (x, y, 0.28 + z), half, green, tilt=tilt, yaw=yaw)
        return Item(0.6, 0.6, h, parts)

    def stool(self) -> Item:
        """A stool, ottoman or waste bin."""
        r, h, parts = self.size(0.14, 0.35), self.size(0.28, 0.5), Parts("other_furniture")
        parts.post(0, r, r, (0, h), self.cloth if r > 0.22 else self.thing())
        return Item(2 * r, 2 * r, h, parts)

    def carton(self) -> Item:
        """Boxes and bags stacked on the floor."""
        w, d, h = self.size(0.25, 0.6), self.size(0.25, 0.5), self.size(0.2, 0.5)
        parts, upper = Parts("box"), Parts("box")
        parts.box(w, (0, h), (0, d), Material(self.tone((0.06, 0.1), (0.3, 0.6), (0.4, 0.7))))
        if self.chance(0.5):
            upper.box((-w * 0.4, w * 0.4), (h, h + 0.22), (-d / 3, d / 3), self.thing())
            parts += moved(upper, 0, d / 2, self.size(-0.4, 0.4))
        return Item(w, d, h, parts)

    def clutter(self, top: Top, count: int) -> list[Solid]:
        """Things that lie or stand on a surface: books, cups, bottles, boxes, fruit, lamps."""
        solids: list[Solid] = []
        for _ in range(count):
            x, z, thing = self.size(*top.x), self.size(*top.z), Parts("other_prop")
            material, kind = self.thing(), self.rng.random()
            if kind < 0.4:
                w, d, h = self.size(0.03, 0.13), self.size(0.03, 0.1), self.size(0.02, 0.2)
                thing.box((-w, w), (0, h), (-d, d), material)
            elif kind < 0.6:
                height, spines = self.size(0.01, 0.09), self.books(0.02)
                thing.box((-0.11, 0.11), (0, height), (-0.15, 0.15), spines, label="books")
            elif kind < 0.85:
                r, h = self.size(0.03, 0.07), self.size(0.08, 0.3)
                thing.post(0, 0, r, (0, h), material)
            elif kind < 0.95:
                r = self.size(0.04, 0.11)
                thing.add(BALL, (0, r * 0.8, 0), (r, r * 0.8, r), material)
            else:
                self.table_lamp(thing, 0, 0, 0)
            solids += moved(thing, x, z, self.size(-math.pi, math.pi), top.y)
        return solids
