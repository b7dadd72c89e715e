"""Rule files: what is read, what is refused, and what counts as a rule's logic."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rules import subjects, suppressions, vocabulary
from rules.rule import Kind, RuleError, load, load_all
from schemas.errors import SekishoError, UsageError
from schemas.events import ACCESS, ALLOCATION, PLACEMENT
from tests.rule_files import RULE, write


def test_a_file_is_read_field_by_field(tmp_path: Path) -> None:
    rule = load(write(tmp_path, RULE))
    assert (rule.id, rule.version, rule.kind, rule.link) == ("flag.access.big", 3, Kind.ROW, "access")
    assert rule.finding_kind == "flag"
    assert rule.streams == ("access",) and rule.subject == ("party",) and rule.each is None
    assert [(p.name, p.sql, p.text) for p in rule.parameters] == [
        ("limit", "100", "100 bytes"),
        ("window", "INTERVAL 5400 SECOND", "90 minutes"),
    ]
    assert [test.fires for test in rule.tests] == [("flag.access.big party:P-1",), ()]
    assert rule.render("party:{limit}") == "party:{limit} sent more than 100 bytes."


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 3", "version = true", "version must be an integer"),
        ("version = 3", "version = 0", "version must be an integer"),
        ('title = "Big"', 'title = " "', "title must be a text"),
        ('title = "Big"', "", "title must be a text"),
        ('kind = "row"', 'kind = "rwo"', "kind must be one of row, deadline, sweep"),
        ('severity = "high"', 'severity = "worse"', "severity must be one of"),
        ('streams = ["access"]', 'streams = ["acess"]', "streams may hold only"),
        ('streams = ["access"]', "streams = []", "streams must not be empty"),
        ('streams = ["access"]', 'streams = ["access", "access"]', "streams holds a value twice"),
        ('id = "flag.access.big"', 'id = "alarm.access.big"', "id is not gap.<link>"),
        ('title = "Big"', 'title = "Big"\neach = "nodes"', "each must be one of serials, conditions"),
        ('title = "Big"', 'title = "Big"\nseverty = "low"', "severty is not a field"),
        ("codified = false", "", "codified must be true or false"),
        ("codified = false", "codified = false\nfrom = 2026-01-01T00:00:00Z", "from must be a date"),
        ("value = 90", 'value = "90"', "value is not a duration"),
        ("value = 90", "value = -1", "value is not a duration"),
        ('unit = "minutes"', 'unit = "weeks"', "unit of a duration"),
        ('name = "more"', "", "name must be a text"),
        ('title = "Big"', "title = Big", "is not TOML"),
    ],
)
def test_a_fault_is_one_line_that_names_file_and_field(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in RULE
    path = write(tmp_path, RULE.replace(old, new, 1))
    with pytest.raises(SekishoError) as caught:
        load(path)
    text = str(caught.value)
    assert says in text and str(path) in text and "\n" not in text


@pytest.mark.parametrize("read", [load, suppressions.load])
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "dangling.toml").symlink_to(tmp_path / "nothing")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000)
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    for name in ("folder", "dangling", "deep", "bytes"):
        path = tmp_path / f"{name}.toml"
        with pytest.raises(RuleError, match=r"cannot be read|is not TOML") as raised:
            read(path)
        assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def test_two_files_with_one_id_are_refused(tmp_path: Path) -> None:
    write(tmp_path, RULE)
    write(tmp_path, RULE, name="flag.access.copy.toml")
    with pytest.raises(RuleError, match=r"already holds the rule flag\.access\.big"):
        load_all(tmp_path)


@pytest.mark.parametrize("folder", ["nothing", "."])
def test_a_folder_without_rules_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(UsageError, match="holds no rules"):
        load_all(tmp_path / folder)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("bytes_out > $limit", "bytes_out   >\n  $limit -- the cap", True),
        ('title = "Big"', 'title = "Large"', True),
        ("version = 3", "version = 4", True),
        ('severity = "high"', 'severity = "medium"', True),
        ("bytes_out > $limit", "bytes_out >= $limit", False),
        ("value = 100", "value = 101", False),
        ('subject = ["party"]', 'subject = ["source"]', False),
        ('streams = ["access"]', 'streams = ["access", "placement"]', False),
        ("operation <> 'x'", "operation <> 'x '", False),
    ],
)
def test_the_sha256_covers_the_logic_and_nothing_else(tmp_path: Path, old: str, new: str, same: bool) -> None:
    assert old in RULE
    before = load(write(tmp_path, RULE)).sha256
    after = load(write(tmp_path, RULE.replace(old, new, 1))).sha256
    assert (before == after) is same


def test_the_definition_of_a_macro_is_part_of_the_logic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = RULE.replace("bytes_out > $limit", "restricted(country, t) and bytes_out > $limit")
    before = load(write(tmp_path, text)).sha256
    plain = load(write(tmp_path, RULE)).sha256
    monkeypatch.setattr(
        vocabulary, "MACROS", {**vocabulary.MACROS, "restricted": "(country, moment) AS true"}
    )
    assert load(write(tmp_path, text)).sha256 != before
    assert load(write(tmp_path, RULE)).sha256 == plain


def test_names_become_columns_constants_and_typed_nulls() -> None:
    text = "stream = 'P.x' and P.status <> 'it''s stream' and mfa is null and not completed"
    placed = vocabulary.translate(text, PLACEMENT)
    assert placed.sql == (
        "'placement' = 'P.x' and \"P.status\" <> 'it''s stream'"
        " and CAST(NULL AS BOOLEAN) is null and not false"
    )
    assert placed.columns == {"P.status"} and not placed.element
    assert vocabulary.translate(text, ACCESS).columns == {"P.status", "mfa"}
    assert vocabulary.translate("completed", ACCESS, completed=True).sql == "true"


def test_calls_of_macros_are_told_from_what_stands_around_them() -> None:
    text = """mfa and outside( A.methods, coalesce(method, ')') ) or -- restricted(country, t)
        'restricted(' = method and (restricted(country,t)) and abs(1) > 0"""
    seen = vocabulary.translate(text, ACCESS)
    assert seen.calls == (
        """outside( "A.methods", coalesce("method", ')') )""",
        """restricted("country","t")""",
    )
    assert seen.sql == (
        """"mfa" and outside( "A.methods", coalesce("method", ')') ) or 'restricted(' = "method" """
        """and (restricted("country","t")) and abs(1) > 0"""
    )
    assert seen.sql_with({seen.calls[1]: "it"}).endswith('= "method" and (it) and abs(1) > 0')
    assert vocabulary.translate("mfa", ACCESS).calls == ()


def test_serials_see_their_asset_and_the_row() -> None:
    seen = vocabulary.translate("X.sku <> sku and serial <> ''", ALLOCATION, "serials")
    assert seen.columns == {"sku"} and seen.element == {"X.sku", "serial"}


@pytest.mark.parametrize(
    "condition",
    [
        "bytes > 1",  # misspelt
        "P.stat = 'x'",
        "Q.status = 'x'",
        "X.status = 'lost'",  # serials only
        "due_at < t",  # conditions only
        "model = 'H100'",  # as sent: sku is what compares
        "source_country = 'CN'",
        "occurred_at < t",
        "P.documents is null",
        "bytes_out > $missing",
        "(select 1) = 1",
        "true; drop table x",
        '"bytes_out" > 1',
        "'open",
    ],
)
def test_what_rule_sql_does_not_have_is_refused(condition: str) -> None:
    with pytest.raises(SekishoError, match="condition: "):
        vocabulary.translate(condition, ACCESS)


@pytest.mark.parametrize(
    ("subject", "each", "says"),
    [
        (("tenant",), None, "is not a subject name"),
        (("serial",), None, 'needs each = "serials"'),
        (("condition",), "serials", 'needs each = "conditions"'),
        (("topic",), None, "not for row rules"),
        (("workload",), None, "stream access has no workload"),
    ],
)
def test_a_subject_must_be_writable(subject: tuple[str, ...], each: str | None, says: str) -> None:
    with pytest.raises(SekishoError, match=says):
        subjects.translate(subject, ACCESS, each)
