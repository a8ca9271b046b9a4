"""What stands in `rooms`: solids, furniture built of them, and the clutter on it.

Furniture is built in its own frame: x along its width, y up from the floor, z from its back (0) to
its front, all in metres and in ordinary sizes, so that known objects tell the distance.
"""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

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


def box(
    x: Range | float, y: Range, z: Range, material: Material, label: str, tilt: float = 0.0
) -> Solid:
    """A box from its extents along x, y and z; a number for x is a width, centred on 0."""
    x = x if isinstance(x, tuple) else (-x / 2, x / 2)
    centre = ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, (z[0] + z[1]) / 2)
    half = ((x[1] - x[0]) / 2, (y[1] - y[0]) / 2, (z[1] - z[0]) / 2)
    return Solid(BOX, centre, half, material, label, tilt=tilt)


def post(x: float, z: float, radius: float, y: Range, material: Material, label: str) -> Solid:
    """An upright cylinder from y[0] to y[1]."""
    half = (radius, (y[1] - y[0]) / 2, radius)
    return Solid(CYLINDER, (x, (y[0] + y[1]) / 2, z), half, material, label)


def ball(centre: Vector, half: Vector, material: Material, label: str, tilt: float = 0.0) -> Solid:
    """An ellipsoid."""
    return Solid(BALL, centre, half, material, label, tilt=tilt)


def moved(solids: list[Solid], x: float, z: float, yaw: float = 0.0, y: float = 0.0) -> list[Solid]:
    """Solids turned about the vertical axis, then shifted."""
    c, s = math.cos(yaw), math.sin(yaw)

    def turned(solid: Solid) -> Solid:
        i, j, k = solid.centre
        centre = (x + c * i + s * k, y + j, z - s * i + c * k)
        return solid._replace(centre=centre, yaw=solid.yaw + yaw)

    return [turned(solid) for solid in solids]


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

    def legs(self, w: float, d: float, h: float, thick: float, label: str) -> list[Solid]:
        """Four legs of height h under a rectangle whose back edge is at z = 0."""
        end, half, wood = w / 2 - thick, thick / 2, self.timber.upright()
        corners = [(x, z) for z in (thick, d - thick) for x in (-end, end)]
        sides = [((x - half, x + half), (z - half, z + half)) for x, z in corners]
        return [box(along, (0, h), across, wood, label) for along, across in sides]

    def chair(self) -> Item:
        """A dining chair, or an office chair on a column."""
        w, d, seat, h = 0.44, 0.46, self.size(0.43, 0.48), self.size(0.8, 1.0)
        cover = self.cloth if self.chance(0.5) else self.timber
        solids = [
            box(w, (seat - 0.05, seat), (0.02, d), cover, "chair"),
            box(w, (seat + 0.12, h), (0.0, 0.045), cover, "chair", tilt=-0.12),
        ]
        if self.chance(0.35):
            solids.append(post(0, d / 2, 0.03, (0.08, seat), self.steel, "chair"))
            solids.append(post(0, d / 2, 0.28, (0.03, 0.08), SCREEN, "chair"))
        else:
            solids += self.legs(w, d, seat, 0.04, "chair")
            rail = self.timber.upright()
            for x in (-w / 2 + 0.02, w / 2 - 0.02):
                side = (x - 0.02, x + 0.02)
                solids.append(box(side, (seat, h), (0.0, 0.04), rail, "chair", tilt=-0.12))
        return Item(w, d, h, solids)

    def table(self) -> Item:
        """A dining table, round or rectangular, with chairs around it."""
        h, d = self.size(0.71, 0.77), self.size(0.75, 1.0)
        w = d if self.chance(0.3) else self.size(1.1, 2.2)
        reach = 0.42
        if w == d:
            solids = [
                post(0, d / 2, d / 2, (h - 0.035, h), self.timber, "table"),
                post(0, d / 2, 0.05, (0, h), self.steel, "table"),
                post(0, d / 2, 0.26, (0, 0.03), self.steel, "table"),
            ]
        else:
            solids = [box(w, (h - 0.04, h), (0, d), self.timber, "table")]
            solids += self.legs(w, d, h, 0.06, "table")
        seats = max(1, int(w / 0.6))
        for i in range(seats):
            x = (i + 0.5) * w / seats - w / 2
            for z, yaw in ((-0.25, 0.0), (d + 0.25, math.pi)):
                if self.chance(0.75):
                    pull = self.size(-0.1, 0.15) * (1 if z < 0 else -1)
                    solids += moved(self.chair().solids, x, z - pull, yaw + self.size(-0.3, 0.3))
        top = Top((-w * 0.4, w * 0.4), (reach + 0.1, reach + d - 0.1), h)
        return Item(w + 0.1, d + 2 * reach, 0.95, moved(solids, 0, reach), top)

    def coffee_table(self) -> Item:
        """A low table."""
        w, d, h = self.size(0.7, 1.3), self.size(0.45, 0.7), self.size(0.36, 0.48)
        solids = [box(w, (h - 0.04, h), (0, d), self.timber, "table")]
        solids += self.legs(w, d, h, 0.05, "table")
        if self.chance(0.5):
            x = (-w * 0.45, w * 0.45)
            solids.append(box(x, (0.12, 0.15), (0.03, d - 0.03), self.timber, "table"))
        return Item(w, d, h, solids, Top((-w * 0.4, w * 0.4), (0.08, d - 0.08), h))

    def desk(self) -> Item:
        """A desk with drawers, a monitor and a chair."""
        w, d, h = self.size(1.1, 1.7), self.size(0.6, 0.8), self.size(0.71, 0.76)
        drawers = self.front(0.4, h, 1, 3)
        solids = [
            box(w, (h - 0.035, h), (0, d), self.timber, "desk"),
            box((-w / 2, -w / 2 + 0.4), (0, h - 0.035), (0.02, d - 0.03), drawers, "desk"),
            box((w / 2 - 0.04, w / 2), (0, h - 0.035), (0.02, d - 0.03), self.timber, "desk"),
        ]
        x = self.size(-0.2, 0.3)
        if self.chance(0.8):
            mw, mh, dark = self.size(0.22, 0.3), self.size(0.3, 0.38), SCREEN
            keys = self.thing()
            solids += [
                box((x - mw, x + mw), (h + 0.1, h + 0.1 + mh), (0.14, 0.18), dark, "television"),
                box((x - 0.03, x + 0.03), (h, h + 0.2), (0.11, 0.14), dark, "television"),
                box((x - 0.22, x + 0.22), (h, h + 0.025), (0.4, 0.54), keys, "other_prop"),
            ]
        seat = self.chair().solids
        x, z = x + self.size(-0.2, 0.2), d + self.size(0.2, 0.45)
        solids += moved(seat, x, z, math.pi + self.size(-0.7, 0.7))
        return Item(w, d + 0.5, h, solids, Top((-w * 0.45, w * 0.45), (0.08, d - 0.1), h))

    def bed(self) -> Item:
        """A bed with its head at the wall, pillows and night stands."""
        w = self.choice([0.95, 1.4, 1.6, 1.9])
        d, h, wide = self.size(1.95, 2.1), self.size(0.45, 0.62), (-w / 2 - 0.04, w / 2 + 0.04)
        sheet = self.fabric((0.0, 0.25))._replace(colour=(0.88, 0.86, 0.82))
        quilt = self.fabric()
        solids = [
            box(w, (0.12, h - 0.2), (0.04, d), self.body, "bed"),
            box(w, (h - 0.2, h), (0.06, d - 0.02), sheet, "bed"),
            box(wide, (h - 0.28, h + 0.04), (0.65, d + 0.03), quilt, "bed"),
            box(w, (0, self.size(0.8, 1.25)), (0, 0.06), self.timber, "bed"),
        ]
        count = 1 if w < 1.2 else 2
        for i in range(count):
            x = (i + 0.5) * w / count - w / 2
            solids.append(ball((x, h + 0.12, 0.27), (0.33, 0.1, 0.2), sheet, "pillow", tilt=0.6))
        if self.chance(0.4):
            place, cover = (self.size(-0.3, 0.3), h + 0.14, 0.5), self.fabric()
            solids.append(ball(place, (0.2, 0.09, 0.17), cover, "pillow", tilt=0.8))
        for side in (-1, 1):
            if self.chance(0.7):
                solids += moved(self.night_stand().solids, side * (w / 2 + 0.32), 0)
        return Item(w + 1.2, d + 0.1, h, solids, Top((-w * 0.4, w * 0.4), (0.8, d - 0.1), h + 0.04))

    def night_stand(self) -> Item:
        """A bedside cabinet, usually with a lamp."""
        w, d, h = 0.45, 0.4, self.size(0.5, 0.65)
        solids = [box(w, (0, h), (0, d), self.front(w, h, 1, 2), "night_stand")]
        if self.chance(0.7):
            solids += self.table_lamp(0, d / 2, h)
        return Item(w, d, h, solids)

    def table_lamp(self, x: float, z: float, y: float) -> list[Solid]:
        """A lamp standing at height y."""
        lit = self.lit_shade()
        lit = lit._replace(glow=lit.glow if self.chance(0.4) else 0.0)
        foot = ball((x, y + 0.12, z), (0.07, 0.12, 0.07), self.steel, "lamp")
        shade = post(x, z, self.size(0.12, 0.18), (y + 0.24, y + 0.48), lit, "lamp")
        return [foot, shade._replace(casts=False)]

    def sofa(self, seats: int = 0) -> Item:
        """A sofa of one to three seats with cushions."""
        seats = seats or self.choice([2, 3, 3])
        place, arm, cloth = self.size(0.55, 0.7), self.size(0.12, 0.24), self.cloth
        w, d, seat, h = seats * place + 2 * arm, self.size(0.8, 0.95), 0.43, self.size(0.75, 0.95)
        inner = w / 2 - arm
        solids = [
            box(w, (0.06, seat - 0.12), (0.05, d), cloth, "sofa"),
            box(w, (0.06, h - 0.05), (0, 0.2), cloth, "sofa"),
            box((-w / 2, -inner), (0.06, seat + 0.18), (0.02, d), cloth, "sofa"),
            box((inner, w / 2), (0.06, seat + 0.18), (0.02, d), cloth, "sofa"),
        ]
        for i in range(seats):
            x, low = -inner + i * place, (seat - 0.12, seat + 0.02)
            bottom, back = (x + 0.01, x + place - 0.01), (x + 0.02, x + place - 0.02)
            solids.append(box(bottom, low, (0.18, d + 0.02), cloth, "sofa"))
            solids.append(box(back, (seat, h), (0.15, 0.32), cloth, "sofa", tilt=-0.15))
            if self.chance(0.4):
                centre, cover = (x + place / 2, seat + 0.19, 0.42), self.fabric()
                solids.append(ball(centre, (0.21, 0.09, 0.19), cover, "pillow", tilt=1.1))
        return Item(w, d, h, solids, Top((-inner, inner), (0.4, d - 0.1), seat + 0.02))

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
        name = "dresser" if kind == "dresser" else "cabinet"
        front = self.front(w, h - 0.05, columns, rows)
        solids = [
            box(w, (0.05, h), (0, d), front, name),
            box((-w / 2 - 0.02, w / 2 + 0.02), (h, h + 0.03), (0, d + 0.02), self.body, name),
        ]
        for i in range(columns):
            for j in range(rows):
                x, y = (i + 0.5) * w / columns - w / 2, 0.05 + (j + 0.5) * (h - 0.05) / rows
                handle = (x - 0.05, x + 0.05), (y - 0.008, y + 0.008), (d, d + 0.03)
                solids.append(box(*handle, self.steel, name))
        top = Top((-w * 0.45, w * 0.45), (0.08, d - 0.08), h + 0.03)
        return Item(w, d, h, solids, top if h < 1.5 else None)

    def bookshelf(self) -> Item:
        """Open shelves with rows of books and some gaps."""
        w, d, shelves = self.size(0.7, 1.6), self.size(0.26, 0.36), self.choice([2, 4, 5, 6])
        step = self.size(0.3, 0.38)
        h = shelves * step + 0.1
        wood, side = self.body, self.body.upright()
        solids = [
            box(w, (0, h), (0, 0.02), side, "bookshelf"),
            box((-w / 2, -w / 2 + 0.025), (0, h), (0, d), side, "bookshelf"),
            box((w / 2 - 0.025, w / 2), (0, h), (0, d), side, "bookshelf"),
            box(w, (0, 0.08), (0, d), wood, "bookshelf"),
        ]
        for i in range(shelves):
            y = 0.08 + i * step
            solids.append(box(w, (y + step - 0.022, y + step), (0, d), wood, "bookshelf"))
            left = -w / 2 + 0.03
            while left < w / 2 - 0.2 and self.chance(0.85):
                right = min(left + self.size(0.2, 0.9), w / 2 - 0.03)
                tall, front = self.size(0.18, step - 0.04), self.size(0.16, d - 0.02)
                spines = self.books(tall + 0.01)
                solids.append(box((left, right), (y, y + tall), (0.03, front), spines, "books"))
                left = right + self.size(0.02, 0.25)
        return Item(w, d, h, solids, Top((-w * 0.45, w * 0.45), (0.05, d - 0.05), h))

    def counter(self) -> Item:
        """A run of kitchen cabinets with worktop, tiles, wall cabinets, oven and often a fridge."""
        w, d, h = self.size(1.5, 3.2), 0.6, self.size(0.86, 0.93)
        doors = max(2, round(w / 0.5))
        top = self.stone() if self.chance(0.7) else self.timber
        tiles = self.wall_tiles()
        solids = [
            box(w, (0.1, h), (0, d - 0.04), self.front(w, h - 0.1, doors, 1), "cabinet"),
            box(w, (0, 0.1), (0, d - 0.1), SCREEN, "cabinet"),
            box((-w / 2 - 0.01, w / 2 + 0.01), (h, h + 0.035), (0, d), top, "counter"),
            box(w, (h, h + 0.5), (0, 0.012), tiles, "wall"),
        ]
        if self.chance(0.75):
            low, high = self.size(1.4, 1.5), self.size(2.05, 2.25)
            front = self.front(w, high - low, doors, 1)
            solids.append(box(w, (low, high), (0, 0.34), front, "cabinet"))
        if self.chance(0.6):
            x = self.size(-w / 2 + 0.3, w / 2 - 0.3)
            hob, dark, name = (h, h + 0.045), SCREEN, "other_furniture"
            solids += [
                box((x - 0.3, x + 0.3), (0.12, h), (0, d - 0.02), self.steel, name),
                box((x - 0.24, x + 0.24), (0.25, 0.62), (0, d - 0.01), dark, name),
                box((x - 0.29, x + 0.29), hob, (0.04, d - 0.05), dark, name),
            ]
        width = w
        if self.chance(0.6):
            fw, fh, fd = self.size(0.6, 0.9), self.size(1.6, 1.9), self.size(0.62, 0.75)
            skin = self.steel if self.chance(0.4) else WHITE
            skin = skin._replace(cell=(WIDE, fh * 0.65), seam=0.006)
            beside = (w / 2 + 0.02, w / 2 + 0.02 + fw)
            solids.append(box(beside, (0.02, fh), (0, fd), skin, "fridge"))
            solids = moved(solids, -fw / 2, 0)
            width = w + fw
        shift = (w - width) / 2
        worktop = Top((shift - w * 0.45, shift + w * 0.45), (0.1, 0.5), h + 0.035)
        return Item(width, 0.75, 2.2, solids, worktop)

    def television(self) -> Item:
        """A low cabinet with a television."""
        w, d, h = self.size(1.0, 1.7), 0.42, self.size(0.4, 0.6)
        sw, sh = self.size(0.35, 0.6), self.size(0.45, 0.7)
        solids = [
            box(w, (0.03, h), (0, d), self.front(w, h, 3, 1), "cabinet"),
            box((-sw, sw), (h + 0.05, h + 0.05 + sh), (0.15, 0.2), SCREEN, "television"),
            box((-0.2, 0.2), (h, h + 0.06), (0.1, 0.26), SCREEN, "television"),
        ]
        return Item(w, d, h + sh, solids, Top((-w * 0.45, w * 0.45), (0.25, d - 0.03), h))

    def vanity(self) -> Item:
        """A bathroom cabinet with basin and mirror."""
        w, d, h = self.size(0.7, 1.5), 0.52, self.size(0.8, 0.88)
        glass = Material((0.55, 0.58, 0.6), blotch=2, blotch_gain=0.35, gloss=0.6)
        x, top = self.size(-w / 4, w / 4), self.stone()
        solids = [
            box(w, (0.08, h), (0, d - 0.03), self.front(w, h, 2, 1), "cabinet"),
            box((-w / 2 - 0.02, w / 2 + 0.02), (h, h + 0.04), (0, d), top, "counter"),
            Solid(CYLINDER, (x, h + 0.05, d / 2), (0.24, 0.02, 0.18), CERAMIC, "sink"),
            post(x, 0.1, 0.018, (h + 0.04, h + 0.2), self.steel, "sink"),
            box(w, (h + 0.25, h + 1.1), (0, 0.02), glass, "mirror"),
        ]
        return Item(w, d, 1.95, solids, Top((-w * 0.48, w * 0.48), (0.08, d - 0.1), h + 0.04))

    def toilet(self) -> Item:
        """A toilet with its cistern."""
        white = CERAMIC
        solids = [
            box((-0.22, 0.22), (0.38, 0.76), (0.02, 0.2), white, "toilet"),
            box((-0.11, 0.11), (0, 0.36), (0.15, 0.5), white, "toilet"),
            Solid(CYLINDER, (0, 0.38, 0.42), (0.19, 0.04, 0.26), white, "toilet"),
            ball((0, 0.3, 0.4), (0.17, 0.16, 0.24), white, "toilet"),
        ]
        return Item(0.5, 0.72, 0.76, solids, Top((-0.18, 0.18), (0.06, 0.16), 0.76))

    def bathtub(self) -> Item:
        """A bathtub of four sides and a bottom, often with a curtain."""
        w, d, h, white = self.size(1.5, 1.75), 0.75, 0.55, CERAMIC
        solids = [
            box(w, (0, 0.15), (0, d), white, "bathtub"),
            box(w, (0, h), (0, 0.07), white, "bathtub"),
            box(w, (0, h), (d - 0.07, d), white, "bathtub"),
            box((-w / 2, -w / 2 + 0.1), (0, h), (0, d), white, "bathtub"),
            box((w / 2 - 0.1, w / 2), (0, h), (0, d), white, "bathtub"),
        ]
        if self.chance(0.5):
            cloth, x = self.curtain(), (-w / 2, self.size(-0.4, 0.6))
            solids.append(box(x, (0.3, 2.0), (d - 0.04, d - 0.01), cloth, "curtain"))
        return Item(w, d, h, solids)

    def floor_lamp(self) -> Item:
        """A lamp on a pole."""
        h, radius, lit = self.size(1.4, 1.8), self.size(0.15, 0.22), self.lit_shade()
        solids = [
            post(0, 0.18, 0.015, (0, h), self.steel, "lamp"),
            post(0, 0.18, 0.14, (0, 0.03), self.steel, "lamp"),
            post(0, 0.18, radius, (h - 0.28, h), lit, "lamp")._replace(casts=False),
        ]
        return Item(0.4, 0.4, h, solids)

    def plant(self) -> Item:
        """A potted plant of ellipsoid leaves."""
        h, green = self.size(0.6, 1.5), self.leaves()
        solids = [
            post(0, 0.25, 0.15, (0, 0.28), self.thing(), "other_prop"),
            post(0, 0.25, 0.02, (0.28, h * 0.8), self.timber, "other_prop"),
        ]
        for _ in range(18):
            x, y, z = self.size(-0.22, 0.22), self.size(0.35 * h + 0.1, h), self.size(-0.2, 0.2)
            half, tilt = (self.size(0.03, 0.08), 0.015, self.size(0.08, 0.17)), self.size(-0.9, 0.4)
            leaf = ball((0, 0, 0), half, green, "other_prop", tilt)
            turned = moved([leaf], x, z, self.size(-math.pi, math.pi), y)
            solids += moved(turned, 0, 0.28)
        return Item(0.6, 0.6, h, solids)

    def stool(self) -> Item:
        """A stool, ottoman or waste bin."""
        r, h = self.size(0.14, 0.35), self.size(0.28, 0.5)
        material = self.cloth if r > 0.22 else self.thing()
        return Item(2 * r, 2 * r, h, [post(0, r, r, (0, h), material, "other_furniture")])

    def carton(self) -> Item:
        """Boxes and bags stacked on the floor."""
        w, d, h = self.size(0.25, 0.6), self.size(0.25, 0.5), self.size(0.2, 0.5)
        brown = Material(self.tone((0.06, 0.1), (0.3, 0.6), (0.4, 0.7)))
        solids = [box(w, (0, h), (0, d), brown, "box")]
        if self.chance(0.5):
            lid, x = self.thing(), (-w * 0.4, w * 0.4)
            second = box(x, (h, h + 0.22), (-d / 3, d / 3), lid, "box")
            solids += moved([second], 0, d / 2, self.size(-0.4, 0.4))
        return Item(w, d, h, solids)

    def clutter(self, top: Top, count: int) -> list[Solid]:
        """Things that lie or stand on a surface: books, cups, bottles, boxes, fruit, lamps."""
        solids: list[Solid] = []
        for _ in range(count):
            x, z, y = self.size(*top.x), self.size(*top.z), top.y
            material, kind = self.thing(), self.rng.random()
            if kind < 0.4:
                w, d, h = self.size(0.03, 0.13), self.size(0.03, 0.1), self.size(0.02, 0.2)
                things = [box((-w, w), (0, h), (-d, d), material, "other_prop")]
            elif kind < 0.6:
                y_range, spines = (0, self.size(0.01, 0.09)), self.books(0.02)
                things = [box((-0.11, 0.11), y_range, (-0.15, 0.15), spines, "books")]
            elif kind < 0.85:
                r, h = self.size(0.03, 0.07), self.size(0.08, 0.3)
                things = [post(0, 0, r, (0, h), material, "other_prop")]
            elif kind < 0.95:
                r = self.size(0.04, 0.11)
                things = [ball((0, r * 0.8, 0), (r, r * 0.8, r), material, "other_prop")]
            else:
                things = self.table_lamp(0, 0, 0)
            solids += moved(things, x, z, self.size(-math.pi, math.pi), y)
        return solids
