"""Models compare as contract sections 3.3 and 3.4 say."""

import pyarrow as pa
import pytest

from schemas import models


@pytest.mark.parametrize(
    "written", ["NVIDIA H100 SXM", "nvidia h100 sxm", "H100-SXM", "h100_sxm", "Nvidia-H100SXM", " h 100 sxm "]
)
def test_ways_to_write_a_catalogue_model_compare_equal(written: str) -> None:
    assert models.model_key(written) == models.model_key("NVIDIA H100 SXM")


def test_variants_and_other_makers_stay_apart() -> None:
    names = ["NVIDIA H100", "NVIDIA H100 SXM", "NVIDIA H200", "AMD H100", "TPU v5e", "TPU v5p", "NVIDIA H20"]
    assert len({models.model_key(name) for name in names}) == len(names)


def test_the_maker_may_be_left_out_only_of_catalogue_models() -> None:
    assert models.model_key("MI300X") == models.model_key("AMD MI300X")
    assert models.model_key("Z999") != models.model_key("NVIDIA Z999")
    assert models.model_key("z 999") == models.model_key("Z-999")


@pytest.mark.parametrize(
    ("model", "controlled", "unknown"),
    [
        ("NVIDIA H20", False, False),
        ("h-20", False, False),
        ("NVIDIA H200", True, False),
        ("AMD MI308", True, True),
        ("Z999", True, True),
        ("AMD H20", True, True),
        ("-", True, True),
        (None, True, True),
    ],
)
def test_controlled_and_unknown(model: str | None, controlled: bool, unknown: bool) -> None:
    assert models.is_controlled(model) is controlled
    assert models.is_unknown(model) is unknown
    column = pa.array([None, model, "NVIDIA H100", model], pa.string()).slice(1)
    assert models.controlled(column).to_pylist() == [controlled, True, controlled]
    assert models.unknown(column).to_pylist() == [unknown, False, unknown]


def test_columns_and_lists_keep_nulls_and_slices() -> None:
    keys = models.model_keys(pa.array(["x", None, "H100", "NVIDIA H100"]).slice(1))
    assert keys.to_pylist() == [None, "nvidiah100", "nvidiah100"]
    lists = pa.array([["skip"], ["H20", "Z-9"], None, [], ["NVIDIA H20"]]).slice(1)
    assert models.model_key_lists(lists).to_pylist() == [["nvidiah20", "z9"], None, [], ["nvidiah20"]]
    assert models.model_keys(pa.array([], pa.string())).to_pylist() == []


def test_only_h20_is_uncontrolled_today() -> None:
    assert [key for key, kind in models._CLASS.items() if kind == models.UNCONTROLLED] == ["nvidiah20"]
