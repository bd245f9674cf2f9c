from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from trainer.logging.log_file import log_file


def test_rank_0_writes_everything_and_prints_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, warnings.showwarning)
    logger = logging.getLogger("trainer.somewhere")
    for _ in range(2):  # a resume appends
        with log_file(tmp_path, rank=0, level="info", level_replica="warning"):
            logger.debug("quiet")
            logger.info("started")
            logger.warning("careful:\n  two lines")
            try:
                raise ValueError("bad\nthing")
            except ValueError as error:
                logger.error("failed: %s", error, exc_info=error)
        assert (list(root.handlers), root.level, warnings.showwarning) == before
    logger.warning("after the run")
    text = (tmp_path / "train.log").read_text()
    assert text.count("INFO trainer.somewhere: started") == 2
    assert text.count('raise ValueError("bad\\nthing")') == 2
    assert "quiet" not in text
    assert "after the run" not in text
    out, err = capsys.readouterr()
    failure = "ERROR: failed: bad thing"
    assert err.splitlines()[:4] == ["WARNING: careful: two lines", failure] * 2
    assert out == ""


def test_pythons_warnings_arrive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), log_file(tmp_path, rank=0, level="info", level_replica="warning"):
        warnings.simplefilter("always")
        warnings.warn("old API", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old API" in (tmp_path / "train.log").read_text()
    assert capsys.readouterr().err == ""


def test_another_rank_writes_no_file_and_says_who_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with log_file(tmp_path, rank=1, level="info", level_replica="error"):
        logging.getLogger("trainer").warning("not printed")
        logging.getLogger("trainer").error("printed")
    assert capsys.readouterr().err == "[rank 1] ERROR: printed\n"
    assert list(tmp_path.iterdir()) == []
