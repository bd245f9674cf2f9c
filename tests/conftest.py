"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trainer.compose import Composition
from trainer.compose import compose as compose_config


@pytest.fixture
def compose() -> Callable[..., Composition]:
    """``compose(*overrides)``: a checked composition, its ``config`` typed."""

    def composed(*overrides: str, **settings: Any) -> Composition:
        return compose_config(overrides, **settings)

    return composed
