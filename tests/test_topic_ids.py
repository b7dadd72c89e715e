"""A topic that was made anew is told from the one that the lake's records came from."""

from pathlib import Path

import pytest

from schemas.errors import SekishoError
from stream.topic_ids import check

ACCESS, PARTY = "custody.access", "custody.party"
LANDED = [(ACCESS, 0), (ACCESS, 1), (PARTY, 0)]


def test_topics_that_stay_are_fine(tmp_path: Path) -> None:
    ids = {ACCESS: "one", PARTY: "two"}
    check(tmp_path, ids, [], [])
    check(tmp_path, ids, LANDED, [])


def test_a_topic_made_anew_is_refused_until_each_partition_is_given_up(tmp_path: Path) -> None:
    check(tmp_path, {ACCESS: "one", PARTY: "two"}, [], [])
    for accepted in ([], [(ACCESS, 1)], [(PARTY, 0)]):
        with pytest.raises(SekishoError, match=f"--accept-hole {ACCESS}:0 --accept-hole {ACCESS}:1$"):
            check(tmp_path, {ACCESS: "other", PARTY: "two"}, LANDED, accepted)
    check(tmp_path, {ACCESS: "other", PARTY: "two"}, LANDED, [(ACCESS, 0), (ACCESS, 1)])
    check(tmp_path, {ACCESS: "other", PARTY: "two"}, LANDED, [])
    with pytest.raises(SekishoError, match=f"{ACCESS}: the topic was recreated"):
        check(tmp_path, {ACCESS: "one", PARTY: "two"}, LANDED, [])


def test_a_topic_of_which_nothing_has_landed_may_be_made_anew(tmp_path: Path) -> None:
    check(tmp_path, {ACCESS: "one"}, [], [])
    check(tmp_path, {ACCESS: "other"}, [(PARTY, 0)], [])


def test_a_lake_of_before_ids_were_noted_takes_those_there_are(tmp_path: Path) -> None:
    check(tmp_path, {ACCESS: "one"}, LANDED, [])
    with pytest.raises(SekishoError, match="recreated"):
        check(tmp_path, {ACCESS: "other"}, LANDED, [])


def test_brokers_without_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    check(tmp_path, {ACCESS: "one"}, LANDED, [])
    check(tmp_path, {ACCESS: None}, LANDED, [])
