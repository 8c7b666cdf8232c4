"""Records: every file format says the same, and every bad row is named by its line."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as arrow
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from dsmoe import InputError, Record, read_records

Row = dict[str, Any]

ROWS: list[Row] = [
    {
        "id": "q1",
        "domain": "biology",
        "question": "What is α,\nand “why”?",
        "options": ["yes", "no, never", 'a "c"'],
        "answer": "B",
        "source": "book",
        "group": "Alpha  One",
        "split": "test",
    },
    {
        "id": "q2",
        "domain": "law",
        "question": "Who?",
        "options": ["A", "B"],
        "answer": "A",
        "source": "book",
        "group": "who",
        "split": "dev",
    },
]
EXPECTED = [
    Record("q1", "biology", "What is α,\nand “why”?", ("yes", "no, never", 'a "c"'), 1, "book", "alpha one", "test"),
    Record("q2", "law", "Who?", ("A", "B"), 0, "book", "who", "dev"),
]
HUB_ROWS: list[Row] = [
    {
        "question_id": 70 + number,
        "question": row["question"],
        "options": row["options"],
        "answer": row["answer"],
        "answer_index": "ABC".index(row["answer"]),
        "cot_content": "",
        "category": row["domain"],
        "src": row["source"],
    }
    for number, row in enumerate(ROWS)
]
HUB_EXPECTED = [
    Record("70", "biology", EXPECTED[0].question, EXPECTED[0].options, 1, "book", "what is α, and “why”?"),
    Record("71", "law", "Who?", ("A", "B"), 0, "book", "who?"),
]


def jsonl(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({**row, "options": json.dumps(row["options"])} for row in rows)
    return text.getvalue().encode()


def as_parquet(rows: Sequence[Row]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Sequence[Row]], bytes]] = {
    "jsonl": jsonl,
    "jsonl.gz": lambda rows: gzip.compress(jsonl(rows), mtime=0),
    "json": lambda rows: json.dumps(list(rows)).encode(),
    "json.gz": lambda rows: gzip.compress(json.dumps(list(rows)).encode()),
    "csv": as_csv,
    "csv.gz": lambda rows: gzip.compress(as_csv(rows), mtime=0),
    "parquet": as_parquet,
}


def written(folder: Path, content: bytes | str, name: str = "records.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_records(path, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("suffix", WRITERS)
def test_formats_say_the_same(suffix: str, tmp_path: Path) -> None:
    assert read_records(written(tmp_path, WRITERS[suffix](ROWS), f"own.{suffix}")) == EXPECTED
    assert read_records(written(tmp_path, WRITERS[suffix](HUB_ROWS), f"hub.{suffix}")) == HUB_EXPECTED


def test_local_naming_of_mmlu_pro(tmp_path: Path) -> None:
    row = {"domain": "law", "question": "Who?", "options": ["A", "B"], "answer": "B", "question_id": 5, "source": "s"}
    (record,) = read_records(written(tmp_path, jsonl([row])))
    assert (record.id, record.domain, record.answer, record.source) == ("5", "law", 1, "s")


def test_a_field_that_is_null_leaves_it_to_its_other_name(tmp_path: Path) -> None:
    """As where a table has the columns of both."""
    (tmp_path / "both.jsonl").write_bytes(jsonl([{**row, "domain": None, "id": None} for row in HUB_ROWS]))
    assert read_records(tmp_path / "both.jsonl") == HUB_EXPECTED


def test_byte_order_mark_blank_lines_and_windows_ends_are_no_matter(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + jsonl(ROWS).replace(b"}\n", b"}\r\n\r\n")
    assert read_records(written(tmp_path, content)) == EXPECTED
    assert read_records(written(tmp_path, b"\xef\xbb\xbf" + as_csv(ROWS), "r.csv")) == EXPECTED


@pytest.mark.parametrize(
    ("answer", "options", "index"),
    [
        (1, ["x", "y"], 1),
        ("B", ["x", "y"], 1),
        ("y", ["x", "y"], 1),
        ("A", ["B", "A"], 0),  # a letter wins over an option of that text
        ("C", ["C", "y"], 0),  # …but only a letter that is one of the question's
        (" B ", ["x", "y"], 1),
        (0, ["5", "0"], 0),
        ("0", ["5", "0"], 1),
    ],
)
def test_answers(answer: object, options: list[str], index: int, tmp_path: Path) -> None:
    row = {"domain": "d", "question": "q", "options": options, "answer": answer}
    assert read_records(written(tmp_path, jsonl([row])))[0].answer == index


def test_optional_fields(tmp_path: Path) -> None:
    row = {"domain": "d", "question": "  The  Q? ", "options": ["x", "y"], "answer": 0}
    path = written(tmp_path, jsonl([row, {**row, "id": 0, "question": "other", "group": 0, "source": ""}]))
    bare, named = read_records(path)
    assert (bare.group, bare.source, bare.split) == ("the q?", str(path), None)
    assert bare.id == read_records(path)[0].id
    assert (named.id, named.group, named.source) == ("0", "0", str(path))


GOOD = '{"domain": "d", "question": "fine", "options": ["x", "y"], "answer": 0}\n'


def bad(**changes: object) -> str:
    row = {"domain": "d", "question": "q", "options": ["x", "y"], "answer": 0, **changes}
    return json.dumps({key: value for key, value in row.items() if value is not ...})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{oops", "is not JSON"),
        ('{"domain": "d"', "is not JSON"),
        ('{"id": ' + "9" * 5000 + "}", "is not JSON that can be read"),
        ("[" * 100_000, "is not JSON that can be read"),
        ("[1]", "is list, not an object"),
        ("7", "is int, not an object"),
        ("null", "is NoneType, not an object"),
        (bad(question=...), "field 'question' is missing"),
        (bad(domain=...), "field 'domain' is missing"),
        (bad(options=...), "field 'options' is missing"),
        (bad(answer=...), "field 'answer' is missing"),
        (bad(question=None), "field 'question' is missing"),
        (bad(question="  "), "field 'question' is empty"),
        (bad(domain=""), "field 'domain' is empty"),
        (bad(question=3), "field 'question' is int, not text"),
        (bad(domain=["d"]), "field 'domain' is list, not text"),
        (bad(options="x, y"), "field 'options' is text, not a JSON list"),
        (bad(options={"a": 1}), "field 'options' is dict, not a list"),
        (bad(options=["x", ""]), "option 1 is '', not a text"),
        (bad(options=["x", None]), "option 1 is None, not a text"),
        (bad(options=[1, 2]), "option 0 is 1, not a text"),
        (bad(options=["x"]), "has 1 options; allowed are 2 to 26"),
        (bad(options=[]), "has 0 options; allowed are 2 to 26"),
        (bad(options=[f"o{n}" for n in range(27)]), "has 27 options; allowed are 2 to 26"),
        (bad(answer=2), "answer 2 is not an index from 0 to 1"),
        (bad(answer=-1), "answer -1 is not an index from 0 to 1"),
        (bad(answer="C"), "answer 'C' is neither a letter from A to B nor one of the options"),
        (bad(answer="b"), "answer 'b' is neither a letter"),
        (bad(answer=True), "field 'answer' is bool"),
        (bad(answer=0.0), "field 'answer' is float"),
        (bad(options=["x", "x"], answer="x"), "answer 'x' is several of the options"),
        (bad(id=["a"]), "field 'id' is list, neither text nor a whole number"),
        (bad(group={"a": 1}), "field 'group' is dict, neither text nor a whole number"),
        (bad(source=1.5), "field 'source' is float, neither text nor a whole number"),
        (bad(split=True), "field 'split' is bool, neither text nor a whole number"),
        (bad(question="\ud800"), "field 'question' has half a character"),
        (bad(options=["x", "\udfff"]), "option 1 has half a character"),
        (bad(group="\ud800"), "field 'group' has half a character"),
    ],
)
def test_a_bad_record_is_named_by_its_line(line: str, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "\n" + line + "\n" + GOOD.replace("fine", "too"))
    message = refusal(path)
    assert message.startswith(f"{path}:3: ")
    assert reason in message
    assert "\n" not in message


def test_26_options_are_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, bad(options=[f"o{n}" for n in range(26)], answer="Z"))
    assert read_records(path)[0].answer == 25


def test_wrong_encoding(tmp_path: Path) -> None:
    latin = '{"question": "café"}\n'.encode("latin-1")
    assert (
        refusal(written(tmp_path, GOOD.encode() + latin))
        == f"{tmp_path}/records.jsonl:2: is not UTF-8 at byte 17 of the line"
    )
    table = 'domain,question,options,answer\nd,q,"[""x"",""y""]",A\nd,café,,\n'.encode("latin-1")
    assert "r.csv:3: is not UTF-8" in refusal(written(tmp_path, table, "r.csv"))
    assert "is not UTF-8 at byte" in refusal(written(tmp_path, b"[" + latin, "r.json"))


def test_duplicate_id_names_both_lines(tmp_path: Path) -> None:
    path = written(tmp_path, bad(id="same") + "\n" + GOOD + bad(id="same", question="other"))
    assert refusal(path) == f"{path}:3: id 'same' stands at {path}:1 already"


def test_all_errors_are_counted_and_ten_shown(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "{\n" * 13)
    first, *details = refusal(path).splitlines()
    assert first == f"{path}: 13 bad records"
    assert [line.split(": ")[0] for line in details[:-1]] == [f"  {path}:{number}" for number in range(2, 12)]
    assert details[-1] == "  … and 3 more"
    assert len(refusal(written(tmp_path, "{\n" * 10)).splitlines()) == 11


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("r.jsonl", b"", "has no records"),
        ("r.jsonl", b"\n \n", "has no records"),
        ("r.json", b"[]", "has no records"),
        ("r.csv", b"", "has no records"),
        ("r.csv", b"domain,question,options,answer\n", "has no records"),
        ("r.json", b"", ":1: is not JSON"),
        ("r.json", b"[\n{},\n{]", ":3: is not JSON"),
        ("r.json", b'{"a": 1}', "is dict, not a list of records"),
        ("r.json", b"[" * 100_000, "is not JSON that can be read"),
        ("r.json", b"[{}]", "record 0: field 'question' is missing"),
        ("r.csv", b'domain,question,options,answer\nd,"q,[],A\n', "is not CSV"),
        (
            "r.csv",
            b"domain,question,options,answer\nd,q, with a comma,[],A\n",
            "r.csv:2: has 1 more cells than the header",
        ),
        ("r.csv", b"domain,question\nd,q\n", "r.csv:2: field 'options' is missing"),
        ("r.parquet", b"PAR1 no", "is not Parquet"),
        ("r.parquet", b"", "is not Parquet"),
        ("r.jsonl.gz", b"not gzip", "cannot be read"),
        ("r.jsonl.gz", gzip.compress(GOOD.encode() * 50, mtime=0)[:40], "cannot be read"),
        ("r.txt", GOOD.encode(), "allowed are .jsonl, .json, .csv, .parquet"),
        ("r.gz", gzip.compress(GOOD.encode(), mtime=0), "allowed are .jsonl, .json, .csv, .parquet"),
        ("jsonl", GOOD.encode(), "allowed are .jsonl, .json, .csv, .parquet"),
    ],
)
def test_bad_files(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path, content, name)
    message = refusal(path)
    assert message.startswith(str(path))
    assert reason in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.jsonl") == f"{tmp_path}/none.jsonl: cannot be read: No such file or directory"
    (tmp_path / "folder.jsonl").mkdir()
    assert refusal(tmp_path / "folder.jsonl") == f"{tmp_path}/folder.jsonl: cannot be read: Is a directory"


def test_domain_chooses_and_fills_in(tmp_path: Path) -> None:
    path = written(tmp_path, jsonl([*ROWS, {"question": "bare", "options": ["x", "y"], "answer": 0}]))
    assert "field 'domain' is missing" in refusal(path)
    assert [record.question for record in read_records(path, domain="law")] == ["Who?", "bare"]
    assert {record.domain for record in read_records(path, domain="law")} == {"law"}
    assert refusal(written(tmp_path, jsonl(ROWS)), domain="art") == f"{path}: has no records of domain 'art'"


def test_real_mmlu_pro() -> None:
    path = SHARED / "data" / "mmlu_pro.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    records = read_records(path)
    assert len(records) == 12_032
    assert sum(record.domain == "math" for record in records) == 1351
    assert len(read_records(path, domain="history")) == 381


def test_a_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        EXPECTED[0].answer = 0  # type: ignore[misc]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() != ""
)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    ids = draw(st.lists(TEXT.map(str.strip), min_size=1, max_size=4, unique=True))
    made = []
    for name in ids:
        options = draw(st.lists(TEXT, min_size=2, max_size=26))
        made.append(
            {
                "id": name,
                "domain": draw(TEXT),
                "question": draw(TEXT),
                "options": options,
                "answer": draw(st.integers(0, len(options) - 1)),
            }
        )
    return made


@pytest.mark.parametrize("suffix", ["jsonl", "json.gz", "parquet"])
@given(given_rows=rows())
def test_round_trip(suffix: str, given_rows: list[Row]) -> None:
    with TemporaryDirectory() as folder:
        records = read_records(written(Path(folder), WRITERS[suffix](given_rows), f"r.{suffix}"))
    for record, row in zip(records, given_rows, strict=True):
        assert {**asdict(record), "options": list(record.options)}.items() >= row.items()
