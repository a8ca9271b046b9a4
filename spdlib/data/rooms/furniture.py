"""What stands in `rooms`: solids, furniture built of them, walls with openings, whole rooms.

Furniture is built in its own frame: x along its width, y up from the floor, z from its back (0) to
its front, all in metres and in ordinary sizes, so that known objects tell the distance.
"""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

from spdlib.data.rooms import materials as stuff
from spdlib.data.rooms.materials import Material, Range

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


class Style:
    """The random numbers of one room and the materials that its furniture shares."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.size = rng, rng.uniform
        self.wood = stuff.wood(rng)
        self.body = self.wood if self.chance(0.6) else stuff.lacquer(rng)
        self.cloth, self.metal, self.wall = stuff.fabric(rng), stuff.metal(rng), stuff.paint(rng)
        self.trim = stuff.lacquer(rng) if self.chance(0.4) else stuff.WHITE

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def front(self, width: float, height: float, columns: int, rows: int) -> Material:
        """The body's material divided into doors or drawers."""
        cell = (width / columns, height / rows)
        return self.body._replace(cell=cell, stagger=0.0, shade=0.05, seam=0.004, seam_gain=0.3)


def legs(
    width: float, depth: float, height: float, thick: float, material: Material, label: str
) -> list[Solid]:
    """Four legs under a rectangle whose back edge is at z = 0."""
    x, half, material = width / 2 - thick, thick / 2, stuff.upright(material)
    return [
        box((cx - half, cx + half), (0, height), (cz - half, cz + half), material, label)
        for cz in (thick, depth - thick)
        for cx in (-x, x)
    ]


def chair(style: Style) -> Item:
    """A dining chair, or an office chair on a column."""
    w, d, seat, h = 0.44, 0.46, style.size(0.43, 0.48), style.size(0.8, 1.0)
    cover = style.cloth if style.chance(0.5) else style.wood
    solids = [
        box(w, (seat - 0.05, seat), (0.02, d), cover, "chair"),
        box(w, (seat + 0.12, h), (0.0, 0.045), cover, "chair", tilt=-0.12),
    ]
    if style.chance(0.35):
        solids.append(post(0, d / 2, 0.03, (0.08, seat), style.metal, "chair"))
        solids.append(post(0, d / 2, 0.28, (0.03, 0.08), stuff.SCREEN, "chair"))
    else:
        solids += legs(w, d, seat, 0.04, style.wood, "chair")
        rail = stuff.upright(style.wood)
        for x in (-w / 2 + 0.02, w / 2 - 0.02):
            solids.append(box((x - 0.02, x + 0.02), (seat, h), (0.0, 0.04), rail, "chair", -0.12))
    return Item(w, d, h, solids)


def table(style: Style) -> Item:
    """A dining table, round or rectangular, with chairs around it."""
    h, d = style.size(0.71, 0.77), style.size(0.75, 1.0)
    w = d if style.chance(0.3) else style.size(1.1, 2.2)
    reach = 0.42
    if w == d:
        solids = [
            post(0, d / 2, d / 2, (h - 0.035, h), style.wood, "table"),
            post(0, d / 2, 0.05, (0, h), style.metal, "table"),
            post(0, d / 2, 0.26, (0, 0.03), style.metal, "table"),
        ]
    else:
        solids = [box(w, (h - 0.04, h), (0, d), style.wood, "table")]
        solids += legs(w, d, h, 0.06, style.wood, "table")
    seats = max(1, int(w / 0.6))
    for i in range(seats):
        x = (i + 0.5) * w / seats - w / 2
        for z, yaw in ((-0.25, 0.0), (d + 0.25, math.pi)):
            if style.chance(0.75):
                pull = style.size(-0.1, 0.15) * (1 if z < 0 else -1)
                solids += moved(chair(style).solids, x, z - pull, yaw + style.size(-0.3, 0.3))
    top = Top((-w * 0.4, w * 0.4), (reach + 0.1, reach + d - 0.1), h)
    return Item(w + 0.1, d + 2 * reach, 0.95, moved(solids, 0, reach), top)


def coffee_table(style: Style) -> Item:
    """A low table."""
    w, d, h = style.size(0.7, 1.3), style.size(0.45, 0.7), style.size(0.36, 0.48)
    solids = [box(w, (h - 0.04, h), (0, d), style.wood, "table")]
    solids += legs(w, d, h, 0.05, style.wood, "table")
    if style.chance(0.5):
        x = (-w * 0.45, w * 0.45)
        solids.append(box(x, (0.12, 0.15), (0.03, d - 0.03), style.wood, "table"))
    return Item(w, d, h, solids, Top((-w * 0.4, w * 0.4), (0.08, d - 0.08), h))


def desk(style: Style) -> Item:
    """A desk with drawers, a monitor and a chair."""
    w, d, h = style.size(1.1, 1.7), style.size(0.6, 0.8), style.size(0.71, 0.76)
    drawers = style.front(0.4, h, 1, 3)
    solids = [
        box(w, (h - 0.035, h), (0, d), style.wood, "desk"),
        box((-w / 2, -w / 2 + 0.4), (0, h - 0.035), (0.02, d - 0.03), drawers, "desk"),
        box((w / 2 - 0.04, w / 2), (0, h - 0.035), (0.02, d - 0.03), style.wood, "desk"),
    ]
    x = style.size(-0.2, 0.3)
    if style.chance(0.8):
        mw, mh, dark = style.size(0.22, 0.3), style.size(0.3, 0.38), stuff.SCREEN
        keys = stuff.thing(style.rng)
        solids += [
            box((x - mw, x + mw), (h + 0.1, h + 0.1 + mh), (0.14, 0.18), dark, "television"),
            box((x - 0.03, x + 0.03), (h, h + 0.2), (0.11, 0.14), dark, "television"),
            box((x - 0.22, x + 0.22), (h, h + 0.025), (0.4, 0.54), keys, "other_prop"),
        ]
    seat = chair(style).solids
    x, z = x + style.size(-0.2, 0.2), d + style.size(0.2, 0.45)
    solids += moved(seat, x, z, math.pi + style.size(-0.7, 0.7))
    return Item(w, d + 0.5, h, solids, Top((-w * 0.45, w * 0.45), (0.08, d - 0.1), h))


def bed(style: Style) -> Item:
    """A bed with its head at the wall, pillows and night stands."""
    w, d, h = style.rng.choice([0.95, 1.4, 1.6, 1.9]), style.size(1.95, 2.1), style.size(0.45, 0.62)
    sheet = stuff.fabric(style.rng, (0.0, 0.25))._replace(colour=(0.88, 0.86, 0.82))
    quilt = stuff.fabric(style.rng)
    solids = [
        box(w, (0.12, h - 0.2), (0.04, d), style.body, "bed"),
        box(w, (h - 0.2, h), (0.06, d - 0.02), sheet, "bed"),
        box((-w / 2 - 0.04, w / 2 + 0.04), (h - 0.28, h + 0.04), (0.65, d + 0.03), quilt, "bed"),
        box(w, (0, style.size(0.8, 1.25)), (0, 0.06), style.wood, "bed"),
    ]
    count = 1 if w < 1.2 else 2
    for i in range(count):
        x = (i + 0.5) * w / count - w / 2
        solids.append(ball((x, h + 0.12, 0.27), (0.33, 0.1, 0.2), sheet, "pillow", tilt=0.6))
    if style.chance(0.4):
        place, cover = (style.size(-0.3, 0.3), h + 0.14, 0.5), stuff.fabric(style.rng)
        solids.append(ball(place, (0.2, 0.09, 0.17), cover, "pillow", tilt=0.8))
    for side in (-1, 1):
        if style.chance(0.7):
            solids += moved(night_stand(style).solids, side * (w / 2 + 0.32), 0)
    return Item(w + 1.2, d + 0.1, h, solids, Top((-w * 0.4, w * 0.4), (0.8, d - 0.1), h + 0.04))


def night_stand(style: Style) -> Item:
    """A bedside cabinet, usually with a lamp."""
    w, d, h = 0.45, 0.4, style.size(0.5, 0.65)
    solids = [box(w, (0, h), (0, d), style.front(w, h, 1, 2), "night_stand")]
    if style.chance(0.7):
        solids += table_lamp(style, 0, d / 2, h)
    return Item(w, d, h, solids)


def table_lamp(style: Style, x: float, z: float, y: float) -> list[Solid]:
    """A lamp standing at height y."""
    lit = stuff.lit_shade(style.rng)
    lit = lit._replace(glow=lit.glow if style.chance(0.4) else 0.0)
    foot = ball((x, y + 0.12, z), (0.07, 0.12, 0.07), style.metal, "lamp")
    shade = post(x, z, style.size(0.12, 0.18), (y + 0.24, y + 0.48), lit, "lamp")
    return [foot, shade._replace(casts=False)]


def sofa(style: Style, seats: int = 0) -> Item:
    """A sofa of one to three seats with cushions."""
    seats = seats or style.rng.choice([2, 3, 3])
    place, arm, cloth = style.size(0.55, 0.7), style.size(0.12, 0.24), style.cloth
    w, d, seat, h = seats * place + 2 * arm, style.size(0.8, 0.95), 0.43, style.size(0.75, 0.95)
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
        if style.chance(0.4):
            centre, cover = (x + place / 2, seat + 0.19, 0.42), stuff.fabric(style.rng)
            solids.append(ball(centre, (0.21, 0.09, 0.19), cover, "pillow", tilt=1.1))
    return Item(w, d, h, solids, Top((-inner, inner), (0.4, d - 0.1), seat + 0.02))


def armchair(style: Style) -> Item:
    """A sofa for one."""
    return sofa(style, seats=1)


def cabinet(style: Style) -> Item:
    """A dresser, sideboard, wardrobe or filing cabinet with a top board and handles."""
    kind = style.rng.choice(["dresser", "dresser", "sideboard", "wardrobe", "file"])
    w, d, h, columns, rows = {
        "dresser": (style.size(0.75, 1.3), 0.48, style.size(0.75, 1.15), 2, 4),
        "sideboard": (style.size(1.2, 1.9), 0.45, style.size(0.7, 0.9), 3, 1),
        "wardrobe": (style.size(0.9, 1.8), 0.6, style.size(1.85, 2.2), 3, 1),
        "file": (0.45, 0.6, style.size(0.7, 1.35), 1, 4),
    }[kind]
    name = "dresser" if kind == "dresser" else "cabinet"
    front = style.front(w, h - 0.05, columns, rows)
    solids = [
        box(w, (0.05, h), (0, d), front, name),
        box((-w / 2 - 0.02, w / 2 + 0.02), (h, h + 0.03), (0, d + 0.02), style.body, name),
    ]
    for i in range(columns):
        for j in range(rows):
            x, y = (i + 0.5) * w / columns - w / 2, 0.05 + (j + 0.5) * (h - 0.05) / rows
            handle = (x - 0.05, x + 0.05), (y - 0.008, y + 0.008), (d, d + 0.03)
            solids.append(box(*handle, style.metal, name))
    top = Top((-w * 0.45, w * 0.45), (0.08, d - 0.08), h + 0.03)
    return Item(w, d, h, solids, top if h < 1.5 else None)


def bookshelf(style: Style) -> Item:
    """Open shelves with rows of books and some gaps."""
    w, d, shelves = style.size(0.7, 1.6), style.size(0.26, 0.36), style.rng.choice([2, 4, 5, 6])
    step = style.size(0.3, 0.38)
    h = shelves * step + 0.1
    wood, side = style.body, stuff.upright(style.body)
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
        while left < w / 2 - 0.2 and style.chance(0.85):
            right = min(left + style.size(0.2, 0.9), w / 2 - 0.03)
            tall, front = style.size(0.18, step - 0.04), style.size(0.16, d - 0.02)
            spines = stuff.books(style.rng, tall + 0.01)
            solids.append(box((left, right), (y, y + tall), (0.03, front), spines, "books"))
            left = right + style.size(0.02, 0.25)
    return Item(w, d, h, solids, Top((-w * 0.45, w * 0.45), (0.05, d - 0.05), h))


def counter(style: Style) -> Item:
    """A run of kitchen cabinets with worktop, tiles, wall cabinets, oven and often a fridge."""
    w, d, h = style.size(1.5, 3.2), 0.6, style.size(0.86, 0.93)
    doors = max(2, round(w / 0.5))
    top = stuff.stone(style.rng) if style.chance(0.7) else style.wood
    tiles = stuff.wall_tiles(style.rng)
    solids = [
        box(w, (0.1, h), (0, d - 0.04), style.front(w, h - 0.1, doors, 1), "cabinet"),
        box(w, (0, 0.1), (0, d - 0.1), stuff.SCREEN, "cabinet"),
        box((-w / 2 - 0.01, w / 2 + 0.01), (h, h + 0.035), (0, d), top, "counter"),
        box(w, (h, h + 0.5), (0, 0.012), tiles, "wall"),
    ]
    if style.chance(0.75):
        low, high = style.size(1.4, 1.5), style.size(2.05, 2.25)
        front = style.front(w, high - low, doors, 1)
        solids.append(box(w, (low, high), (0, 0.34), front, "cabinet"))
    if style.chance(0.6):
        x = style.size(-w / 2 + 0.3, w / 2 - 0.3)
        hob, dark, name = (h, h + 0.045), stuff.SCREEN, "other_furniture"
        solids += [
            box((x - 0.3, x + 0.3), (0.12, h), (0, d - 0.02), style.metal, name),
            box((x - 0.24, x + 0.24), (0.25, 0.62), (0, d - 0.01), dark, name),
            box((x - 0.29, x + 0.29), hob, (0.04, d - 0.05), dark, name),
        ]
    width = w
    if style.chance(0.6):
        fw, fh, fd = style.size(0.6, 0.9), style.size(1.6, 1.9), style.size(0.62, 0.75)
        skin = style.metal if style.chance(0.4) else stuff.WHITE
        skin = skin._replace(cell=(stuff.WIDE, fh * 0.65), seam=0.006)
        solids.append(box((w / 2 + 0.02, w / 2 + 0.02 + fw), (0.02, fh), (0, fd), skin, "fridge"))
        solids = moved(solids, -fw / 2, 0)
        width = w + fw
    shift = (w - width) / 2
    worktop = Top((shift - w * 0.45, shift + w * 0.45), (0.1, 0.5), h + 0.035)
    return Item(width, 0.75, 2.2, solids, worktop)


def television(style: Style) -> Item:
    """A low cabinet with a television."""
    w, d, h = style.size(1.0, 1.7), 0.42, style.size(0.4, 0.6)
    sw, sh = style.size(0.35, 0.6), style.size(0.45, 0.7)
    solids = [
        box(w, (0.03, h), (0, d), style.front(w, h, 3, 1), "cabinet"),
        box((-sw, sw), (h + 0.05, h + 0.05 + sh), (0.15, 0.2), stuff.SCREEN, "television"),
        box((-0.2, 0.2), (h, h + 0.06), (0.1, 0.26), stuff.SCREEN, "television"),
    ]
    return Item(w, d, h + sh, solids, Top((-w * 0.45, w * 0.45), (0.25, d - 0.03), h))


def vanity(style: Style) -> Item:
    """A bathroom cabinet with basin and mirror."""
    w, d, h = style.size(0.7, 1.5), 0.52, style.size(0.8, 0.88)
    glass = Material((0.55, 0.58, 0.6), blotch=2, blotch_gain=0.35, gloss=0.6)
    x, top = style.size(-w / 4, w / 4), stuff.stone(style.rng)
    solids = [
        box(w, (0.08, h), (0, d - 0.03), style.front(w, h, 2, 1), "cabinet"),
        box((-w / 2 - 0.02, w / 2 + 0.02), (h, h + 0.04), (0, d), top, "counter"),
        Solid(CYLINDER, (x, h + 0.05, d / 2), (0.24, 0.02, 0.18), stuff.CERAMIC, "sink"),
        post(x, 0.1, 0.018, (h + 0.04, h + 0.2), style.metal, "sink"),
        box(w, (h + 0.25, h + 1.1), (0, 0.02), glass, "mirror"),
    ]
    return Item(w, d, 1.95, solids, Top((-w * 0.48, w * 0.48), (0.08, d - 0.1), h + 0.04))


def toilet(style: Style) -> Item:
    """A toilet with its cistern."""
    white = stuff.CERAMIC
    solids = [
        box((-0.22, 0.22), (0.38, 0.76), (0.02, 0.2), white, "toilet"),
        box((-0.11, 0.11), (0, 0.36), (0.15, 0.5), white, "toilet"),
        Solid(CYLINDER, (0, 0.38, 0.42), (0.19, 0.04, 0.26), white, "toilet"),
        ball((0, 0.3, 0.4), (0.17, 0.16, 0.24), white, "toilet"),
    ]
    return Item(0.5, 0.72, 0.76, solids, Top((-0.18, 0.18), (0.06, 0.16), 0.76))


def bathtub(style: Style) -> Item:
    """A bathtub of four sides and a bottom, often with a curtain."""
    w, d, h, white = style.size(1.5, 1.75), 0.75, 0.55, stuff.CERAMIC
    solids = [
        box(w, (0, 0.15), (0, d), white, "bathtub"),
        box(w, (0, h), (0, 0.07), white, "bathtub"),
        box(w, (0, h), (d - 0.07, d), white, "bathtub"),
        box((-w / 2, -w / 2 + 0.1), (0, h), (0, d), white, "bathtub"),
        box((w / 2 - 0.1, w / 2), (0, h), (0, d), white, "bathtub"),
    ]
    if style.chance(0.5):
        cloth, x = stuff.curtain(style.rng), (-w / 2, style.size(-0.4, 0.6))
        solids.append(box(x, (0.3, 2.0), (d - 0.04, d - 0.01), cloth, "curtain"))
    return Item(w, d, h, solids)


def floor_lamp(style: Style) -> Item:
    """A lamp on a pole."""
    h, radius, lit = style.size(1.4, 1.8), style.size(0.15, 0.22), stuff.lit_shade(style.rng)
    solids = [
        post(0, 0.18, 0.015, (0, h), style.metal, "lamp"),
        post(0, 0.18, 0.14, (0, 0.03), style.metal, "lamp"),
        post(0, 0.18, radius, (h - 0.28, h), lit, "lamp")._replace(casts=False),
    ]
    return Item(0.4, 0.4, h, solids)


def plant(style: Style) -> Item:
    """A potted plant of ellipsoid leaves."""
    h, green = style.size(0.6, 1.5), stuff.leaves(style.rng)
    solids = [
        post(0, 0.25, 0.15, (0, 0.28), stuff.thing(style.rng), "other_prop"),
        post(0, 0.25, 0.02, (0.28, h * 0.8), style.wood, "other_prop"),
    ]
    for _ in range(18):
        x, y, z = style.size(-0.22, 0.22), style.size(0.35 * h + 0.1, h), style.size(-0.2, 0.2)
        half, tilt = (style.size(0.03, 0.08), 0.015, style.size(0.08, 0.17)), style.size(-0.9, 0.4)
        leaf = ball((0, 0, 0), half, green, "other_prop", tilt)
        turned = moved([leaf], x, z, style.size(-math.pi, math.pi), y)
        solids += moved(turned, 0, 0.28)
    return Item(0.6, 0.6, h, solids)


def stool(style: Style) -> Item:
    """A stool, ottoman or waste bin."""
    r, h = style.size(0.14, 0.35), style.size(0.28, 0.5)
    material = style.cloth if r > 0.22 else stuff.thing(style.rng)
    return Item(2 * r, 2 * r, h, [post(0, r, r, (0, h), material, "other_furniture")])


def carton(style: Style) -> Item:
    """Boxes and bags stacked on the floor."""
    w, d, h = style.size(0.25, 0.6), style.size(0.25, 0.5), style.size(0.2, 0.5)
    brown = Material(stuff.tone(style.rng, (0.06, 0.1), (0.3, 0.6), (0.4, 0.7)))
    solids = [box(w, (0, h), (0, d), brown, "box")]
    if style.chance(0.5):
        lid, x = stuff.thing(style.rng), (-w * 0.4, w * 0.4)
        second = box(x, (h, h + 0.22), (-d / 3, d / 3), lid, "box")
        solids += moved([second], 0, d / 2, style.size(-0.4, 0.4))
    return Item(w, d, h, solids)


def clutter(style: Style, top: Top, count: int) -> list[Solid]:
    """Things that lie or stand on a surface: books, cups, bottles, boxes, fruit, lamps."""
    solids: list[Solid] = []
    for _ in range(count):
        x, z, y = style.size(*top.x), style.size(*top.z), top.y
        material, kind = stuff.thing(style.rng), style.rng.random()
        if kind < 0.4:
            w, d, h = style.size(0.03, 0.13), style.size(0.03, 0.1), style.size(0.02, 0.2)
            things = [box((-w, w), (0, h), (-d, d), material, "other_prop")]
        elif kind < 0.6:
            y_range, spines = (0, style.size(0.01, 0.09)), stuff.books(style.rng, 0.02)
            things = [box((-0.11, 0.11), y_range, (-0.15, 0.15), spines, "books")]
        elif kind < 0.85:
            r, h = style.size(0.03, 0.07), style.size(0.08, 0.3)
            things = [post(0, 0, r, (0, h), material, "other_prop")]
        elif kind < 0.95:
            r = style.size(0.04, 0.11)
            things = [ball((0, r * 0.8, 0), (r, r * 0.8, r), material, "other_prop")]
        else:
            things = table_lamp(style, 0, 0, 0)
        solids += moved(things, x, z, style.size(-math.pi, math.pi), y)
    return solids
