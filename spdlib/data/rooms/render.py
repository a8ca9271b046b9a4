"""Procedural indoor frames with exact depth, rendered in torch in batches.

`layout` draws a furnished room, `rays` finds what its pixels see, `materials` colours it; here it
is lit, seen by NYU's camera and made a frame.

Frame i of seed s depends on (s, i) and the size alone: rooms are drawn on the CPU from their own
generator, whatever the batch or the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spdlib.data.frames import Frame
from spdlib.data.rooms.furniture import BALL, BOX, CYLINDER, LABELS
from spdlib.data.rooms.layout import Pose, Room, sample_pose, sample_room
from spdlib.data.rooms.materials import shade
from spdlib.data.rooms.rays import (
    TILE,
    View,
    directions,
    make_views,
    stack,
    trace,
    untiled,
    view_arrays,
)
from spdlib.errors import DataError
from spdlib.geometry import NYU_CAMERA, Camera, Size

MEDIAN_DEPTH, MEDIAN_SPREAD, DEPTH_SPREAD = 2.66, 0.36, 0.41
"""What viewpoints aim at: median over the frames of a frame's median depth in metres, standard
deviation of its logarithm, and that of log depth within a frame. The last lies above NYU's 0.35,
as the best of ten viewpoints falls short of it: rendered frames have 0.35 to 0.37. Beyond 5 m lie
5.3 % of the pixels of seed 0, fewer than NYU's 7 to 9 % (which depends on the frames counted)."""
POSES = 10
"""Viewpoints tried per room."""
BARE = [LABELS[name] for name in ("wall", "floor", "ceiling", "door", "window")]
"""Classes that do not furnish a view."""
MAP_SIZE, MAP_REACH, MAP_BLUR, MAP_RATE = 64, 2.2, 3, 12.0
"""Shadow maps: pixels a side, largest X/Z they cover, width of the blur, sharpness per metre."""
CPU_PIXELS, GPU_PIXELS = 2**16, 2**22
"""Rendered together: what fits a CPU's cache, or fills a GPU."""
EXPOSURES = ((0.0, 0.0), (0.5, 0.5))
"""Offsets in pixels of the two pictures that make a smooth one; depth comes from the first."""


class RoomBatch(NamedTuple):
    """Rendered frames: uint8 [B, H, W, 3], float32 [B, H, W] metres, uint8 [B, H, W]."""

    images: Tensor
    depths: Tensor
    labels: Tensor


@dataclass(frozen=True)
class SceneBatch:
    """B rooms, each with its camera and L lights, as tensors on one device.

    Attributes:
        camera: B views of all solids.
        lamps: B * L views of the solids that throw shadows.
        half: [B, P, 3] half extents in metres.
        label: [B, P] class.
        rows: [B, P, 25] material, a number that differs between solids, texture origin.
        light_turn: [B, L, 3, 3] from the camera's frame to the light's.
        light_place: [B, L, 3] lights in the camera frame.
        light: [B, L, 5] colour, reach and beam.
        up: [B, 3] the vertical in the camera frame.
    """

    camera: View
    lamps: View
    half: Tensor
    label: Tensor
    rows: Tensor
    light_turn: Tensor
    light_place: Tensor
    light: Tensor
    up: Tensor


def pack_rooms(rooms: Sequence[Room], poses: Sequence[Pose], device: str = "cpu") -> SceneBatch:
    """Rooms with one camera each, as tensors on a device."""
    columns: dict[str, list[np.ndarray]] = {}
    cameras, lamps = [], []
    for room, pose in zip(rooms, poses, strict=True):
        lights = [light.pose for light in room.lights]
        casts = np.array([solid.casts for solid in room.solids])
        cameras.append(view_arrays(room, [pose], np.ones_like(casts)))
        lamps.append(view_arrays(room, lights, casts))
        for name, values in room_arrays(room, pose).items():
            columns.setdefault(name, []).append(values)
    tensors = {name: stack(arrays, device) for name, arrays in columns.items()}
    return SceneBatch(make_views(cameras, device), make_views(lamps, device), **tensors)


def room_arrays(room: Room, pose: Pose) -> dict[str, np.ndarray]:
    """`SceneBatch`'s arrays of one room, except its views."""
    camera, lights = np.array(pose.axes()), room.lights
    place = np.array([light.pose.position for light in lights]) - np.array(pose.position)
    solids = enumerate(room.solids)
    rows = [[*solid.material.row(), i * 7919 % 65536, *solid.origin] for i, solid in solids]
    return {
        "half": np.array([solid.half for solid in room.solids]),
        "label": np.array([solid.label for solid in room.solids], np.uint8),
        "rows": np.array(rows),
        "light_turn": np.array([light.pose.axes() for light in lights]) @ camera.T,
        "light_place": place @ camera.T,
        "light": np.array([[*light.colour, light.reach, light.beam] for light in lights]),
        "up": camera[:, 1],
    }


def gathered(values: Tensor, owner: Tensor) -> Tensor:
    """Numbers [K, N] of the solids that pixels [N] show, from [B, P, ...]."""
    table = values.flatten(0, 1).flatten(1).T.contiguous()
    return table.index_select(1, owner)


@dataclass
class Surface:
    """What N pixels of each of B frames see, in the camera frame.

    Attributes:
        point: [3, B * N] position in metres.
        normal: [3, B * N] outward unit normal.
        rows: [25, B * N] material parameters.
        along: two surface coordinates [B * N] in metres.
        footprint: [B * N] size of a pixel on the surface in metres.
    """

    point: Tensor
    normal: Tensor
    rows: Tensor
    along: tuple[Tensor, Tensor]
    footprint: Tensor


def surfaces(
    scene: SceneBatch, rays: Tensor, depth: Tensor, owner: Tensor, focal: float
) -> Surface:
    """Geometry and texture coordinates where rays [3, N] (third component 1) end."""
    point = depth * rays
    turn = gathered(scene.camera.turn, owner).view(3, 3, -1)
    unit = gathered(scene.camera.start, owner) + (turn * point).sum(1)  # [3, N]
    shape = gathered(scene.camera.shape[..., None], owner)[0]
    half, rows = gathered(scene.half, owner), gathered(scene.rows, owner)
    outward, axis = outward_axis(unit, shape)
    normal = (turn * outward[:, None]).sum(0)
    normal = normal / normal.square().sum(0).sqrt()
    place = (unit + 1) * half + rows[-3:]
    turned = torch.atan2(unit[0], unit[2]) * half[0]
    s = torch.where(axis == 0, place[2], torch.where(axis == 3, turned, place[0]))
    t = torch.where(axis == 1, place[2], place[1])
    facing = (normal * rays).sum(0).abs() / rays.square().sum(0).sqrt()
    return Surface(point, normal, rows, (s, t), depth / focal / facing.clamp(min=0.25).sqrt())


def outward_axis(unit: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Outward direction [3, N] at points on unit solids; the face met: 0, 1, 2, or 3 (round)."""
    size = unit.abs()
    longest = torch.where(size[2] > torch.maximum(size[0], size[1]), 2, (size[1] > size[0]).long())
    cap = (shape == CYLINDER) & (size[1] > torch.hypot(unit[0], unit[2]))
    axis = torch.where(shape == BOX, longest, torch.where(cap, 1, 3))
    flat = torch.stack([(axis == k) * unit[k].sign() for k in range(3)])
    bent = torch.stack([unit[0], unit[1] * (shape == BALL), unit[2]])
    return torch.where(axis == 3, bent, flat), axis


def shadow_maps(lamps: View) -> Tensor:
    """Blurred exponential shadow maps [V, 1, S, S] (Annen et al. 2008) of V lights."""
    places = (torch.arange(MAP_SIZE, device=lamps.turn.device) + 0.5) / MAP_SIZE
    rays = ((places * 2 - 1) * MAP_REACH).expand(len(lamps.turn), -1)
    depth, _ = trace(lamps, rays, rays)
    depth = untiled(depth, len(rays), MAP_SIZE // TILE).clamp(max=6.0)
    darkness = (MAP_RATE * depth)[:, None].exp()
    blur = (MAP_BLUR, 1, MAP_BLUR // 2)
    return functional.avg_pool2d(darkness, *blur, count_include_pad=False).log()


def light_up(scene: SceneBatch, maps: Tensor, surface: Surface, albedo: Tensor) -> Tensor:
    """Radiance [3, B * N] of surfaces under all lights, with soft shadows and highlights."""
    frames, lights = scene.light.shape[:2]
    split = (frames, -1)
    point, normal = surface.point.unflatten(1, split), surface.normal.unflatten(1, split)
    gloss, glow = surface.rows[19].view(split), surface.rows[20].view(split)
    albedo = albedo.unflatten(1, split)
    back = -point / point.square().sum(0).sqrt()
    total = albedo * (0.14 + 0.04 * (normal * scene.up.T[..., None]).sum(0) + glow)
    for i in range(lights):
        colour, reach, beam = scene.light[:, i].split([3, 1, 1], dim=1)
        path = scene.light_place[:, i].T[..., None] - point  # [3, B, N]
        square = path.square().sum(0)
        towards = path * square.rsqrt()
        seen = light_seen(maps[:, i], -(scene.light_turn[:, i] @ path.transpose(0, 1)), beam)
        facing = (normal * towards).sum(0).clamp(min=0)
        middle = back + towards
        mirrored = (normal * middle).sum(0).clamp(min=0) * middle.square().sum(0).rsqrt()
        shine = gloss * mirrored.pow(40)
        strength = seen / (1 + square / reach.square())
        total = total + (albedo * facing + shine) * strength * colour.T[..., None]
    return total.flatten(1)


def light_seen(shadow: Tensor, place: Tensor, beam: Tensor) -> Tensor:
    """How much of a light reaches points.

    Args:
        shadow: [B, 1, S, S] its shadow map.
        place: [B, 3, N] points in the light's frame.
        beam: [B, 1] 0 for lamps, 1 for flat patches.

    Returns:
        [B, N], 0 to 1.
    """
    depth = place[:, 2]
    grid = (place[:, :2] / (depth.clamp(min=0.05)[:, None] * MAP_REACH)).movedim(1, -1)
    blocked = functional.grid_sample(
        shadow, grid[:, None], padding_mode="border", align_corners=False
    )[:, 0, 0]
    open_path = (blocked - MAP_RATE * depth + 0.3).clamp(max=0).exp()
    outside = (grid.abs().amax(-1) > 1) | (depth < 0.05)
    cosine = depth.clamp(min=0) * place.square().sum(1).rsqrt()
    return torch.where(outside, 1.0, open_path) * torch.lerp(torch.ones_like(depth), cosine, beam)


def expose(
    scene: SceneBatch, maps: Tensor, camera: Camera, shift: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Radiance [B, 3, H, W], depth [B, H, W] and labels [B, H, W] along shifted pixel rays."""
    views = len(scene.up)
    x, y = directions(camera, views, shift, str(scene.up.device))
    depth, owner = trace(scene.camera, x, y)
    crop = (slice(None), slice(camera.height), slice(camera.width))
    depth, owner = (untiled(v, views, x.shape[1] // TILE)[crop] for v in (depth, owner))
    x, y = x[:, None, : camera.width], y[:, : camera.height, None]
    rays = torch.stack([x.expand_as(depth), y.expand_as(depth), torch.ones_like(depth)])
    surface = surfaces(scene, rays.flatten(1), depth.flatten(), owner.flatten(), camera.focal)
    albedo = shade(surface.rows[:22], *surface.along, surface.footprint)
    light = light_up(scene, maps, surface, albedo).view(3, *depth.shape).transpose(0, 1)
    return light, depth, scene.label.view(-1)[owner]


class Sensor(NamedTuple):
    """The camera's electronics for one frame.

    Attributes:
        level: mean brightness aimed at, linear.
        balance: gains of red, green and blue.
        vignette: loss of light in the corners.
        noise: standard deviation of the noise at full brightness.
        black: light below which pixels are black.
        gamma: exponent of the tone curve.
        seed: of the noise.
    """

    level: float
    balance: tuple[float, float, float]
    vignette: float
    noise: float
    black: float
    gamma: float
    seed: int


def sample_sensor(rng: Random) -> Sensor:
    """Draws exposure, white balance and noise like those of NYU's camera."""
    warm = rng.gauss(0.05, 0.1)
    balance = (1 + warm, 1.0, 1.1 - warm + rng.gauss(0, 0.05))
    level, vignette = rng.uniform(0.13, 0.36), rng.uniform(0.05, 0.35)
    noise, black = rng.uniform(0.004, 0.02), rng.uniform(0.0, 0.02)
    gamma, seed = rng.uniform(0.5, 0.66), rng.getrandbits(40)
    return Sensor(level, balance, vignette, noise, black, gamma, seed)


def develop(radiance: Tensor, sensors: Sequence[Sensor]) -> Tensor:
    """uint8 pictures [B, H, W, 3] of radiance [B, 3, H, W]: exposure, colour, vignette, noise."""
    height, width = radiance.shape[2:]
    device = radiance.device

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1, 1)

    mean = radiance.clamp(max=2).double().mean((1, 2, 3)).float().view(-1, 1, 1, 1)
    balance = torch.tensor([sensor.balance for sensor in sensors], device=device)[..., None, None]
    y = torch.linspace(-1, 1, height, device=device)[:, None]
    x = torch.linspace(-1, 1, width, device=device)
    light = radiance * (column([sensor.level for sensor in sensors]) / mean) * balance
    light = light * (1 - column([sensor.vignette for sensor in sensors]) * (x * x + y * y) / 2)
    light = torch.where(light > 0.6, 1 - 0.4 * (-(light - 0.6) / 0.4).exp(), light)  # soft shoulder
    generators = [torch.Generator().manual_seed(sensor.seed) for sensor in sensors]
    noises = [torch.randn(3, height, width, generator=generator) for generator in generators]
    strength = column([sensor.noise for sensor in sensors]) * (0.02 + light).sqrt()
    noise = torch.stack(noises).to(device) * strength
    gamma = column([sensor.gamma for sensor in sensors])
    light = light + noise - column([sensor.black for sensor in sensors])
    values = light.clamp(0, 1).pow(gamma) * 255
    return values.round().byte().permute(0, 2, 3, 1).contiguous()


def choose_pose(room: Room, rng: Random) -> Pose:
    """The viewpoint, of several, that comes closest to a view drawn from NYU's statistics."""
    poses = [sample_pose(room, rng) for _ in range(POSES)]
    median = MEDIAN_DEPTH * math.exp(rng.gauss(0, MEDIAN_SPREAD))
    spread = max(rng.gauss(DEPTH_SPREAD, 0.1), 0.05)
    views = make_views([view_arrays(room, poses, np.ones(len(room.solids), bool))], "cpu")
    depth, owner = trace(views, *directions(NYU_CAMERA.resized(TILE, TILE), POSES, (0, 0), "cpu"))
    inside = (views.start.abs() < 1.02).all(-1).any(-1)
    bare = torch.tensor([solid.label in BARE for solid in room.solids])[owner % len(room.solids)]
    cost = 1.5 * (depth.median(1).values / median).log().abs()
    cost += 2.0 * (depth.log().std(1) - spread).abs()
    cost += 0.6 * bare.float().mean(1) + 10.0 * inside + 5.0 * (depth.amin(1) < 0.6)
    return poses[int(cost.argmin())]


def render_rooms(
    indices: Sequence[int], seed: int = 0, size: Size = (240, 320), device: str = "cpu"
) -> RoomBatch:
    """Renders frames of a seed.

    Args:
        indices: which frames, any non-negative numbers.
        seed: of the rooms.
        size: height and width in pixels; the camera is NYU's, resized.
        device: where to render; the result stays there.

    One call uses one CPU thread; to use several cores, read `Rooms` with a loader's workers.
    """
    pixels = len(EXPOSURES) * size[0] * size[1]
    step = max(1, (CPU_PIXELS if device == "cpu" else GPU_PIXELS) // pixels)
    groups = [indices[i : i + step] for i in range(0, len(indices), step)]
    with one_thread():
        parts = [render_some(group, seed, size, device) for group in groups]
    return RoomBatch(*(torch.cat(values) for values in zip(*parts, strict=True)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch to one CPU thread: tensors here are too small to gain from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def render_some(indices: Sequence[int], seed: int, size: Size, device: str) -> RoomBatch:
    """Renders frames in one go."""
    generators = [Random(f"rooms/{seed}/{index}") for index in indices]
    rooms = [sample_room(rng) for rng in generators]
    poses = [choose_pose(room, rng) for room, rng in zip(rooms, generators, strict=True)]
    sensors = [sample_sensor(rng) for rng in generators]
    scene = pack_rooms(rooms, poses, device)
    camera = NYU_CAMERA.resized(*size)
    maps = shadow_maps(scene.lamps).unflatten(0, (len(rooms), -1))
    light, depth, label = expose(scene, maps, camera, EXPOSURES[0])
    between = expose(scene, maps, camera, EXPOSURES[1])[0]
    between = functional.pad(between, (1, 0, 1, 0), mode="replicate")
    light = (light.clamp(max=3) + functional.avg_pool2d(between.clamp(max=3), 2, 1)) / 2
    return RoomBatch(develop(light, sensors), depth.contiguous(), label.contiguous())


@dataclass(frozen=True)
class Rooms:
    """Frames `start` to `start + count - 1` of a seed; see `render_rooms`.

    Attributes:
        count: number of frames.
        seed: of the rooms.
        size: height and width in pixels.
        start: number of the first frame.
        device: where frames are rendered; they are handed out as arrays.
    """

    count: int
    seed: int = 0
    size: Size = (240, 320)
    start: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.count < 1 or self.start < 0:
            raise DataError(f"rooms need count >= 1 and start >= 0; got {self}")
        if min(self.size) < TILE:
            raise DataError(f"rooms need a size of at least {TILE}x{TILE} pixels; got {self.size}")

    @property
    def ids(self) -> list[str]:
        """Frame names in order."""
        return [f"room_{self.seed}_{self.start + i:06d}" for i in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Frame:
        if not -self.count <= index < self.count:
            raise IndexError(f"frame {index} of {self.count} rooms")
        number = self.start + index % self.count
        images, depths, labels = render_rooms([number], self.seed, self.size, self.device)
        return Frame(
            id=f"room_{self.seed}_{number:06d}",
            image=images[0].cpu().numpy(),
            depths={"exact": depths[0].cpu().numpy()},
            camera=NYU_CAMERA.resized(*self.size),
            labels=labels[0].cpu().numpy(),
        )
