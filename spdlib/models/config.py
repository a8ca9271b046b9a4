"""`ModelConfig`: everything needed to build a network again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spdlib.errors import ConfigError
from spdlib.geometry import Size
from spdlib.models.encoders import EncoderConfig


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a network again.

    Attributes:
        network: registered name, for instance "v15_2".
        encoder: the encoder and its input.
        image_size: height, width in pixels of the images it is trained on.
        focal: focal length in pixels of those images; None until it is known.
        options: the network's own settings, for instance {"init": "recorded"}.
    """

    network: str
    encoder: EncoderConfig
    image_size: Size
    focal: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size: Any = self.image_size
        whole = isinstance(size, tuple | list) and all(type(side) is int for side in size)
        if not whole or len(size) != 2 or min(size) < 1:
            raise ConfigError(
                f"image_size must be height and width in whole pixels, both positive; got {size!r}"
            )
        if self.focal is not None and not self.focal > 0:
            raise ConfigError(f"focal must be a positive length in pixels; got {self.focal}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)
