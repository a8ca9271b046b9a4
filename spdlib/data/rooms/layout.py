"""Whole rooms of `rooms`: walls with doors and windows, furniture put in place, lights, viewpoints.

A room spans x in [-width/2, width/2], z in [-depth/2, depth/2] and y in [0, height], in metres.
Open doors show a wider space around it, closed by outer walls, so that every ray hits something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import numpy as np

from spdlib.data.rooms.furniture import BALL, Item, Parts, Solid, Style, Top, moved
from spdlib.data.rooms.materials import SCREEN, WHITE, Material

THICKNESS = 0.14
"""Thickness of the walls in metres."""
KINDS = "bedroom bedroom living living kitchen kitchen dining office office bathroom"
"""Kinds of room, as often as they are drawn."""
SIDES = {"bathroom": (1.9, 3.8), "bedroom": (2.8, 5.5), "kitchen": (2.6, 6.5)}
"""Range of width and depth in metres, where it is not (3.2, 9.0)."""
ANCHORS = {
    "bedroom": "bed",
    "living": "sofa television",
    "dining": "cabinet",
    "kitchen": "counter counter",
    "office": "desk bookshelf",
    "bathroom": "vanity toilet bathtub",
}
"""What each kind of room is made for, by the names of `Style`; placed first."""
WALL_ITEMS = {
    "bedroom": "bed 6 cabinet 3 desk 1.5 bookshelf 1 television .7 armchair .7 floor_lamp 1 "
    "carton .5",
    "living": "sofa 5 armchair 1.5 television 2 bookshelf 1.5 cabinet 1.5 floor_lamp 1.5 plant 1.5 "
    "desk .5",
    "kitchen": "counter 7 cabinet 1 stool .7 carton .5 bookshelf .4",
    "dining": "cabinet 3 plant 1 bookshelf 1 armchair 1 floor_lamp .7",
    "office": "desk 5 bookshelf 3 cabinet 2 chair 1 plant .7 carton .6",
    "bathroom": "vanity 2 toilet .5 bathtub 1 cabinet 1 stool .7",
}
"""What stands at the walls of each kind of room, with its weight."""
FREE_ITEMS = {
    "bedroom": "armchair 1 chair 1 stool 1 carton .5",
    "living": "coffee_table 4 armchair 2 stool 1 table .7",
    "kitchen": "table 3 stool 1.5 chair 1",
    "dining": "table 6 chair 1",
    "office": "table 2 chair 2 desk 1.5 carton .5",
    "bathroom": "stool 1 carton .4",
}
"""What stands free in each kind of room."""


class Rectangle(NamedTuple):
    """An upright rectangle on the floor or on a wall."""

    x0: float
    x1: float
    y0: float
    y1: float

    def meets(self, others: list[Rectangle]) -> bool:
        """Whether it overlaps one of the others."""
        return any(
            self.x0 < o.x1 and o.x0 < self.x1 and self.y0 < o.y1 and o.y0 < self.y1 for o in others
        )


class Pose(NamedTuple):
    """A viewpoint: position in metres, angles in radians (pitch up, roll clockwise positive)."""

    position: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def axes(self) -> np.ndarray:
        """The camera's x (right), y (down) and z (forward) axes in the room, as rows [3, 3]."""
        cy, sy = math.cos(self.yaw), math.sin(self.yaw)
        cp, sp = math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        level = np.array([(-cy, 0.0, sy), (sy * sp, -cp, cy * sp), (sy * cp, sp, cy * cp)])
        right, down, forward = level
        return np.array([cr * right + sr * down, cr * down - sr * right, forward])


class Light(NamedTuple):
    """A lamp, a window or a bright patch of the ceiling.

    Attributes:
        pose: where it is and where it shines; it casts shadows into a wide cone around that.
        colour: [3] linear light.
        reach: distance in metres at which it has lost half of its strength.
        beam: 0 shines evenly everywhere, 1 like a flat patch (Lambert).
    """

    pose: Pose
    colour: np.ndarray
    reach: float
    beam: float


@dataclass
class Wall:
    """A wall's frame (x along it, z into the room, origin in the middle of its foot).

    `taken` holds its openings and what hangs on it or stands before it.
    """

    length: float
    x: float
    z: float
    yaw: float
    taken: list[Rectangle] = field(default_factory=list)

    def at(self, along: float, out: float) -> tuple[float, float]:
        """Position (x, z) in the room of a place on the floor."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + c * along + s * out, self.z - s * along + c * out


@dataclass
class Room:
    """A furnished, lit room."""

    width: float
    depth: float
    height: float
    kind: str
    solids: list[Solid] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)
    taken: list[Rectangle] = field(default_factory=list)

    def claim(self, x: float, z: float, half_x: float, half_z: float, yaw: float = 0.0) -> bool:
        """Reserves the floor under a turned rectangle; False if it is taken or outside."""
        c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
        hx, hz = c * half_x + s * half_z, s * half_x + c * half_z
        place = Rectangle(x - hx, x + hx, z - hz, z + hz)
        inside = abs(x) + hx <= self.width / 2 + 1e-6 and abs(z) + hz <= self.depth / 2 + 1e-6
        if not inside or place.meets(self.taken):
            return False
        self.taken.append(place)
        return True


def pick(style: Style, choices: str) -> Item:
    """One piece of furniture of a list of names and weights."""
    names, weights = choices.split()[::2], map(float, choices.split()[1::2])
    return style.made(style.rng.choices(names, list(weights))[0])


def sample_room(rng: Random) -> Room:
    """Draws a room with everything in it."""
    style = Style(rng)
    kind = rng.choice(KINDS.split())
    sides = SIDES.get(kind, (3.2, 9.0))
    w, d = style.size(*sides), style.size(*sides)
    room = Room(w, d, style.size(2.35, 3.0), kind)
    add_enclosure(room, style)
    along_x = Wall(w, 0, -d / 2, 0.0), Wall(w, 0, d / 2, math.pi)
    along_z = Wall(d, -w / 2, 0, math.pi / 2), Wall(d, w / 2, 0, -math.pi / 2)
    walls = [along_x[0], along_z[0], along_x[1], along_z[1]]
    for wall in walls:
        add_wall(room, style, wall)
    for name in ANCHORS[kind].split():
        item = style.made(name)
        for _ in range(8):
            wall = rng.choice(walls)
            left, right = -wall.length / 2, wall.length / 2 - item.width
            if place_at_wall(room, style, wall, item, style.size(left, max(left, right))):
                break
    furnish_floor(room, style)
    for wall in walls:
        furnish_wall(room, style, wall)
    add_lights(room, style)
    return room


def add_enclosure(room: Room, style: Style) -> None:
    """Floor, ceiling and the outer walls that close the space beyond the doors."""
    margin = style.size(1.3, 3.0)
    x, z, h = room.width / 2 + margin, room.depth / 2 + margin, room.height
    ceiling = WHITE if style.chance(0.8) else style.stone()
    outer, y, shell = style.paint(), (-0.1, h + 0.1), Parts("wall", casts=False)
    shell.box((-x, x), (-0.2, 0), (-z, z), style.floor(), label="floor")
    shell.box((-x, x), (h, h + 0.2), (-z, z), ceiling, label="ceiling")
    shell.box((-x, x), y, (-z - 0.2, -z), outer)
    shell.box((-x, x), y, (z, z + 0.2), outer)
    shell.sides(x, x + 0.2, y, (-z, z), outer)
    room.solids += shell
    if style.chance(0.3):
        add_block(room, style)


def add_block(room: Room, style: Style) -> None:
    """A chimney, closet or column from floor to ceiling, which makes the room less of a box."""
    half_x, half_z = style.size(0.15, 0.2 * room.width), style.size(0.15, 0.2 * room.depth)
    x = style.choice([-1, 1]) * (room.width / 2 - half_x)
    z = style.size(-1, 1) * (room.depth / 2 - half_z)
    room.claim(x, z, half_x, half_z)
    around_x, around_z = (-half_x - 0.014, half_x + 0.014), (-half_z - 0.014, half_z + 0.014)
    block = Parts("wall")
    block.box((-half_x, half_x), (0, room.height), (-half_z, half_z), style.wall)
    block.box(around_x, (0, 0.09), around_z, style.trim)
    room.solids += moved(block, x, z)


def add_wall(room: Room, style: Style, wall: Wall) -> None:
    """Builds a wall with its door or windows."""
    kind = style.rng.random()
    if kind < 0.3:
        width, x = style.size(0.8, 1.0), style.size(-wall.length / 2 + 0.6, wall.length / 2 - 0.6)
        width = style.size(1.2, 2.0) if wall.length > 4 and style.chance(0.2) else width
        wall.taken = [Rectangle(x - width / 2, x + width / 2, 0.0, style.size(2.0, 2.1))]
    elif kind < 0.65:
        count = style.choice([1, 1, 2, 3]) if wall.length > 3.5 else 1
        sill, pitch = style.choice([0.4, 0.8, 0.9, 1.0]), wall.length / count
        width, top = pitch * style.size(0.35, 0.75), style.size(1.95, 2.25)
        centres = [(i + 0.5) * pitch - wall.length / 2 for i in range(count)]
        wall.taken = [Rectangle(x - width / 2, x + width / 2, sill, top) for x in centres]
    solids = wall_pieces(style, wall, room.height)
    glass = style.pane()
    for opening in wall.taken:
        if opening.y0 > 0:
            solids += window(style, opening, glass)
        else:
            solids += door(style, opening)
            room.claim(*wall.at((opening.x0 + opening.x1) / 2, 0.3), 0.4, 0.3, wall.yaw)
    room.solids += moved(solids, wall.x, wall.z, wall.yaw)


def wall_pieces(style: Style, wall: Wall, height: float) -> list[Solid]:
    """A wall cut around its openings, with skirting boards and frames."""
    paint, trim, inside, skirting = style.wall, style.trim, (-THICKNESS, 0), (0, 0.014)
    parts, end = Parts("wall", casts=False), wall.length / 2 + THICKNESS
    edges = [-end, *[x for o in wall.taken for x in (o.x0, o.x1)], end]
    for x0, x1 in zip(edges[::2], edges[1::2], strict=True):
        parts.box((x0, x1), (0, height), inside, paint)
        parts.box((x0, x1), (0, 0.09), skirting, trim)
    for x0, x1, y0, y1 in wall.taken:
        name = "window" if y0 > 0 else "door"
        parts.box((x0, x1), (y1, height), inside, paint)
        if y0 > 0:
            parts.box((x0, x1), (0, y0), inside, paint)
            parts.box((x0, x1), (0, 0.09), skirting, trim)
            parts.box((x0 - 0.1, x1 + 0.1), (y0 - 0.04, y0), (-0.1, 0.05), trim, label=name)
        for x in (x0 - 0.07, x1):
            parts.box((x, x + 0.07), (y0, y1), (-0.02, 0.022), trim, label=name)
        parts.box((x0 - 0.07, x1 + 0.07), (y1, y1 + 0.08), (-0.02, 0.024), trim, label=name)
    corners = [[c - h for c, h in zip(part.centre, part.half, strict=True)] for part in parts]
    # so that the texture is that of all of the wall
    origins = [(left + 20, low, back) for left, low, back in corners]
    return [part._replace(origin=place) for part, place in zip(parts, origins, strict=True)]


def window(style: Style, opening: Rectangle, glass: Material) -> list[Solid]:
    """A pane in its opening, often with curtains."""
    x0, x1, y0, y1 = opening
    parts = Parts("curtain", casts=False)  # too close to the window's light to throw shadows
    behind = (-THICKNESS - 0.02, -THICKNESS + 0.03)
    parts.box((x0, x1), (y0, y1), behind, glass, label="window")
    if style.chance(0.35):
        cloth, share = style.curtain(), style.size(0.1, 0.4)
        low, wide = style.choice([0.05, y0 - 0.1]), (x1 - x0) * share + 0.1
        for left in (x0 - 0.15, x1 + 0.15 - wide):
            parts.box((left, left + wide), (low, y1 + 0.12), (0.04, 0.1), cloth)
        rod = (x0 - 0.3, x1 + 0.3), (y1 + 0.12, y1 + 0.15), (0.05, 0.08)
        parts.box(*rod, style.steel, casts=True)
    return parts


def door(style: Style, opening: Rectangle) -> list[Solid]:
    """A door leaf, closed or open, or a free passage; something stands in the space beyond."""
    x0, x1, _, y1 = opening
    state, width = style.rng.random(), x1 - x0
    solids: list[Solid] = []
    if width < 1.1 and state < 0.8:
        leaf = style.trim if style.chance(0.5) else style.timber.upright()
        rows, columns = style.choice([1, 2, 3]), style.choice([1, 2])
        leaf = leaf._replace(cell=(width / columns, y1 / rows), seam=0.012, seam_gain=0.7)
        panel = Parts("door")
        panel.box((0, width), (0.01, y1), (-0.04, 0), leaf)
        panel.add(BALL, (width - 0.07, 1.0, 0.04), (0.03, 0.03, 0.03), style.steel)
        solids += moved(panel, x0, -0.05, 0.0 if state < 0.5 else style.size(0.4, 1.9))
    if state >= 0.5:
        item, far = pick(style, WALL_ITEMS["living"]), style.size(1.6, 2.4)
        solids += moved(item.solids, (x0 + x1) / 2 + style.size(-0.4, 0.4), -far)
    return solids


def place_at_wall(room: Room, style: Style, wall: Wall, item: Item, x: float) -> bool:
    """Stands an item at a wall with its left edge at x; False if something is in the way."""
    centre, back = x + item.width / 2, style.size(0.015, 0.06)
    outline = Rectangle(x, x + item.width, 0.05, item.height)
    middle = wall.at(centre, back + item.depth / 2)
    free = not outline.meets(wall.taken)
    if not free or not room.claim(*middle, item.width / 2, item.depth / 2, wall.yaw):
        return False
    place_item(room, style, item, *wall.at(centre, back), wall.yaw)
    wall.taken.append(outline)
    return True


def place_item(room: Room, style: Style, item: Item, x: float, z: float, yaw: float) -> None:
    """Adds an item and the clutter on it."""
    solids = list(item.solids)
    if item.top:
        solids += style.clutter(item.top, style.choice([0, 1, 3, 5, 8]))
    room.solids += moved(solids, x, z, yaw)


def furnish_wall(room: Room, style: Style, wall: Wall) -> None:
    """Puts furniture along a wall, then pictures above it."""
    x = -wall.length / 2 + style.size(0.0, 0.5)
    while x < wall.length / 2 - 0.4:
        item = pick(style, WALL_ITEMS[room.kind])
        if place_at_wall(room, style, wall, item, x):
            x += item.width + style.choice([0.02, 0.1, 0.4, 1.0])
        else:
            x += 0.35
    room.solids += moved(decorate(room, style, wall), wall.x, wall.z, wall.yaw)


def decorate(room: Room, style: Style, wall: Wall) -> list[Solid]:
    """Pictures, white boards and shelves where the wall is free."""
    parts = Parts("picture")
    for _ in range(style.choice([1, 3, 5])):
        w, h = style.size(0.12, 0.45), style.size(0.12, 0.4)
        if room.kind == "office" and style.chance(0.3):
            w, h = style.size(0.5, 0.9), 0.5
        x, y = style.size(-wall.length / 2 + w, wall.length / 2 - w), style.size(1.35, 1.75)
        place = Rectangle(x - w - 0.1, x + w + 0.1, y - h - 0.08, y + h + 0.08)
        if wall.length < 2 * w or place.meets(wall.taken):
            continue
        wall.taken.append(place)
        if style.chance(0.2):
            parts.box((x - w, x + w), (y, y + 0.03), (0, 0.24), style.timber, label="shelves")
            parts += style.clutter(Top((x - w * 0.9, x + w * 0.9), (0.06, 0.18), y + 0.03), 4)
            continue
        frame = style.choice([style.timber, WHITE, SCREEN])
        art, name, edge = WHITE._replace(gloss=0.3), "whiteboard", 0.02
        if w <= 0.45:
            art, name, edge = style.picture(), "picture", style.size(0.015, 0.06)
        inner = (x - w + edge, x + w - edge), (y - h + edge, y + h - edge)
        parts.box((x - w, x + w), (y - h, y + h), (0, 0.025), frame, label=name)
        parts.box(*inner, (0, 0.027), art, label=name)
    return [part._replace(casts=False) for part in parts]


def furnish_floor(room: Room, style: Style) -> None:
    """Free-standing furniture, and often a rug."""
    if style.chance(0.35):
        half_x, half_z = style.size(0.5, room.width * 0.35), style.size(0.4, room.depth * 0.35)
        rug = Parts("floor_mat")
        rug.box((-half_x, half_x), (0, 0.012), (-half_z, half_z), style.rug())
        room.solids += moved(rug, style.size(-0.5, 0.5), style.size(-0.5, 0.5))
    for _ in range(max(1, round(room.width * room.depth * style.size(0.08, 0.25)))):
        item = pick(style, FREE_ITEMS[room.kind])
        yaw = style.choice([0, 1, 2, 3]) * math.pi / 2 + style.rng.gauss(0, 0.15)
        for _ in range(4):
            x = style.size(-room.width / 2, room.width / 2)
            z = style.size(-room.depth / 2, room.depth / 2)
            if room.claim(x, z, item.width / 2 + 0.1, item.depth / 2 + 0.1, yaw):
                x, z = x - math.sin(yaw) * item.depth / 2, z - math.cos(yaw) * item.depth / 2
                place_item(room, style, item, x, z, yaw)
                break


def add_lights(room: Room, style: Style) -> None:
    """A ceiling lamp, a window or standing lamp, and the light that walls and ceiling return."""
    w, d, h = room.width, room.depth, room.height
    warm, down = np.array([1.0, style.size(0.78, 0.95), style.size(0.55, 0.88)]), -math.pi / 2
    x, z = style.size(-0.25, 0.25) * w, style.size(-0.25, 0.25) * d
    fixture, lamp = style.lit_shade()._replace(glow=3.0), Parts("lamp", casts=False)
    if style.chance(0.5):
        lamp.post(x, z, style.size(0.05, 0.25), (h - 0.04, h), fixture)
    else:
        lamp.add(BALL, (x, h - 0.02, z), (0.2, 0.09, 0.2), fixture)
    room.solids += lamp
    place = Pose((x, h - 0.2, z), pitch=down)
    room.lights.append(Light(place, warm * style.size(0.1, 2.5), style.size(1.0, 3), 0.0))
    room.lights.append(side_light(room, style, warm))
    bounce = warm * style.size(0.06, 0.25)
    for i, j in ((-0.3, -0.25), (0.3, -0.1), (0.0, 0.35)):
        room.lights.append(Light(Pose((i * w, h - 0.05, j * d), pitch=down), bounce, 4.0, 1.0))


def side_light(room: Room, style: Style, warm: np.ndarray) -> Light:
    """Daylight from a bright window, or a lamp in a corner."""
    panes = [s for s in room.solids if s.label == "window" and s.material.glow > 0.3]
    if not panes:
        x, z = (style.choice([-0.4, 0.4]) * side for side in (room.width, room.depth))
        pose = Pose((x, style.size(1.3, 2.0), z), math.atan2(-x, -z), -0.3)
        return Light(pose, warm * style.size(0.1, 0.9), style.size(0.5, 1.5), 0.0)
    pane = style.choice(panes)
    x, y, z = pane.centre[0] * 0.96, pane.centre[1], pane.centre[2] * 0.96
    colour = np.array([0.9, 1.0, 1.15]) * style.size(0.5, 3.5)
    return Light(Pose((x, y, z), pane.yaw, -0.3), colour, style.size(1.0, 3.0), 1.0)


def sample_pose(room: Room, rng: Random) -> Pose:
    """A hand-held viewpoint that looks into the room."""
    x = rng.uniform(-0.5, 0.5) * (room.width - 0.5)
    z = rng.uniform(-0.5, 0.5) * (room.depth - 0.5)
    target_x, target_z = rng.uniform(-0.5, 0.5) * room.width, rng.uniform(-0.5, 0.5) * room.depth
    yaw = math.atan2(target_x - x, target_z - z)
    height, pitch, roll = rng.gauss(1.4, 0.14), rng.gauss(-0.22, 0.15), rng.gauss(0.0, 0.035)
    return Pose((x, min(max(height, 0.9), 1.75), z), yaw, pitch, roll)
