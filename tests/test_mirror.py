"""tests/ mirrors trainer/: a directory of tests is named after a room, and a file after a module of that room."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent / "trainer"

OF_THE_PROJECT = {"agreement/test_agreement", "test_floors", "test_mirror", "test_packaging", "test_readme"}
OF_SEVERAL_MODULES = {
    "api": {"page"},
    "checkpoint": {"store_ranks"},
    "cli": {"bad_input", "import"},  # import_.py: import is a keyword
    "cluster": {"config"},
    "data": {"datasets"},
    "evaluation": {"standalone"},
    "interchange": {"engines"},
    "logging": {"trackers"},
    "model": {"models"},
    "optim": {"arguments", "offered", "optim", "runs", "sharded"},
    "parallel": {"agreement", "close", "engines", "infinity", "runs"},
    "schema": {"options", "pure"},
    "sweep": {"sweep"},
    "task": {"items"},
    "train": {"callbacks", "closing", "fields", "resume", "splits"},
}
"""Room -> tests of a subject that no single module of it has."""


def test_every_test_is_found_by_the_name_of_its_module() -> None:
    strays = []
    for path in sorted(TESTS.rglob("test_*.py")):
        place = path.relative_to(TESTS).with_suffix("")
        room, name = place.parent, place.name.removeprefix("test_")
        known = place.as_posix() in OF_THE_PROJECT or name in OF_SEVERAL_MODULES.get(room.as_posix(), ())
        if not known and not (ROOT / room / f"{name}.py").exists() and not (ROOT / room / name).is_dir():
            strays.append(place.as_posix())
    assert strays == []


def test_every_exception_exists_and_is_needed() -> None:
    for room, names in OF_SEVERAL_MODULES.items():
        assert (ROOT / room).is_dir(), room
        for name in names:
            assert (TESTS / room / f"test_{name}.py").exists(), f"{room}/test_{name}.py"
            assert not (ROOT / room / f"{name}.py").exists(), f"{room}/{name}.py"
