"""This process's place among the ranks, what the ranks agree on, and which device belongs to which rank."""

from .groups import *  # noqa: F403
