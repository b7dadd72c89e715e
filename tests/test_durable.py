"""Files that are written whole, once, by one of two writers."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sinks.durable import write_new


def test_of_two_writers_of_a_name_one_has_written_it(tmp_path: Path) -> None:
    assert write_new(tmp_path / "a", b"one")
    assert not write_new(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_that_was_made_and_is_said_to_exist_is_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Any, target: Any) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists", str(target))

    monkeypatch.setattr(os, "link", link)
    assert write_new(tmp_path / "a", b"one")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
