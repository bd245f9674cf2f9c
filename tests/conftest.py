"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trainer.config.composer import Composition
from trainer.config.composer import compose as compose_config


@pytest.fixture
def compose() -> Callable[..., Composition]:
    """``compose(*overrides)``: a checked composition, its ``config`` typed."""

    def composed(*overrides: str, **settings: Any) -> Composition:
        return compose_config(overrides, **settings)

    return composed
