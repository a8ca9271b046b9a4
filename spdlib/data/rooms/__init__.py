"""Procedural indoor rooms with exact depth: `Rooms` are frames, `render_rooms` renders a batch."""

from spdlib.data.rooms.render import RoomBatch, Rooms, render_rooms

__all__ = ["RoomBatch", "Rooms", "render_rooms"]
