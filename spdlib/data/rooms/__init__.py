"""Procedural indoor rooms with exact depth."""

from spdlib.data.rooms.render import Rooms

__all__ = ["Rooms"]
