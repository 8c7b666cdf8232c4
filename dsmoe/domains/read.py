"""Reading records from a file of the user's own: JSONL, JSON, CSV or Parquet, plain or gzipped.

A row has `domain`, `question`, `options`, `answer`, and may have `id`, `source`, `group` and `split`; MMLU-Pro's names
(`category`, `question_id`, `src`) mean the same. The answer is a letter (which wins over an option of that very text),
an option's text or, as a number, an index from 0; in CSV all is text, so there a number is an option's text.
"""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dsmoe.domains.records import LETTERS, MAX_OPTIONS, Record, normalized
from dsmoe.errors import InputError

ALIASES = {"domain": "category", "id": "question_id", "source": "src"}
SHOWN = 10
Rows = Iterator[tuple[str, Any]]


def read_records(path: str | Path, domain: str | None = None) -> list[Record]:
    """The records of a file; with `domain`, those of that domain, to which rows without a domain belong too.

    Raises InputError that counts all bad rows and shows the first ten, each with its line.
    """
    path = Path(path)
    records = to_records(rows_of(path), str(path), default_domain=domain)
    chosen = [record for record in records if domain in (None, record.domain)]
    if not chosen:
        raise InputError(f"{path}: has no records" + (f" of domain {domain!r}" if domain and records else ""))
    return chosen


def to_records(
    rows: Iterable[tuple[str, Any]], source: str, default_domain: str | None = None, numeric: bool = False
) -> list[Record]:
    """Records from (where, row) pairs, where a row is a mapping or, if it could not be read, the reason why.

    With `numeric` there are no options, and the answer is a number.
    """
    records, faults = [], []
    seen: dict[str, str] = {}
    for where, row in rows:
        try:
            record = _record(row, source, default_domain, numeric)
            if record.id in seen:
                raise ValueError(f"id {record.id!r} stands at {seen[record.id]} already")
        except ValueError as error:
            faults.append(f"{where}: {error}")
        else:
            seen[record.id] = where
            records.append(record)
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        more = (f"… and {len(faults) - SHOWN} more",) if len(faults) > SHOWN else ()
        raise InputError(f"{source}: {len(faults)} bad records", (*faults[:SHOWN], *more))
    return records


def _record(row: Any, source: str, default_domain: str | None, numeric: bool) -> Record:
    """One row as a record. Raises ValueError that says what is wrong with it."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, Mapping):
        raise ValueError(f"is {type(row).__name__}, not an object with the fields of a record")
    if None in row:
        raise ValueError(f"has {len(row[None])} more cells than the header")
    aliased = {name: row[alias] for name, alias in ALIASES.items() if alias in row and row.get(name) is None}
    row = {**row, **aliased}
    question = _text(row, "question")
    options = () if numeric else _options(row)
    return Record(
        id=_name(row, "id") or _content_id(question, options),
        domain=default_domain if default_domain and not row.get("domain") else _text(row, "domain"),
        question=question,
        options=options,
        answer=_number(row) if numeric else _answer(row, options),
        source=_name(row, "source") or source,
        group=normalized(_name(row, "group") or question),
        split=_name(row, "split") or None,
    )


def _name(row: Mapping[str, Any], field: str) -> str:
    """An optional field that names something: text or a whole number; "" where it is not given."""
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"field {field!r} is {type(value).__name__}, neither text nor a whole number")
    return _unicode(str(value).strip(), f"field {field!r}")


def _text(row: Mapping[str, Any], field: str) -> str:
    if row.get(field) is None:
        raise ValueError(f"field {field!r} is missing")
    if not isinstance(row[field], str):
        raise ValueError(f"field {field!r} is {type(row[field]).__name__}, not text")
    if not row[field].strip():
        raise ValueError(f"field {field!r} is empty")
    return _unicode(row[field], f"field {field!r}")


def _unicode(text: str, what: str) -> str:
    """`text`, unless it holds half a character, as escapes in JSON can, which no file could."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} has half a character, {text[error.start]!a}") from None
    return text


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    options = row.get("options")
    if options is None:
        raise ValueError("field 'options' is missing")
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError:
            raise ValueError("field 'options' is text, not a JSON list of texts") from None
    options = options.tolist() if hasattr(options, "tolist") else options
    if not isinstance(options, list | tuple):
        raise ValueError(f"field 'options' is {type(options).__name__}, not a list of texts")
    for number, option in enumerate(options):
        if not isinstance(option, str) or not option.strip():
            raise ValueError(f"option {number} is {option!r}, not a text")
        _unicode(option, f"option {number}")
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise ValueError(f"has {len(options)} options; allowed are 2 to {MAX_OPTIONS}")
    return tuple(options)


def _answer(row: Mapping[str, Any], options: tuple[str, ...]) -> int:
    answer = row.get("answer")
    if answer is None:
        raise ValueError("field 'answer' is missing")
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(options):
            raise ValueError(f"answer {answer} is not an index from 0 to {len(options) - 1}")
        return answer
    if not isinstance(answer, str):
        raise ValueError(f"field 'answer' is {type(answer).__name__}: neither a letter, an option nor an index")
    letters = list(LETTERS[: len(options)])
    if answer.strip() in letters:
        return letters.index(answer.strip())
    if answer not in options:
        raise ValueError(f"answer {answer!r} is neither a letter from A to {letters[-1]} nor one of the options")
    if options.count(answer) > 1:
        raise ValueError(f"answer {answer!r} is several of the options; give it as a letter or an index from 0")
    return options.index(answer)


def _number(row: Mapping[str, Any]) -> int:
    answer = row.get("answer")
    if isinstance(answer, str) and answer.strip().isdecimal():
        return int(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or answer < 0:
        raise ValueError(f"answer {answer!r} is no whole number")
    return answer


def _content_id(question: str, options: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps([question, options]).encode()).hexdigest()[:16]


def rows_of(path: Path) -> Rows:
    """(where, row) of every row of a file; a row that cannot be read is the ValueError that says why.

    Raises InputError for a file that cannot be read at all.
    """
    suffix = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower()
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    kind = suffix.removesuffix(".gz")
    if kind not in readers:
        raise InputError(f"{path}: is not a file of records; allowed are {', '.join(readers)}, each also with .gz")
    try:
        content = path.read_bytes()
        return readers[kind](path, gzip.decompress(content) if suffix.endswith(".gz") else content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _jsonl(path: Path, content: bytes) -> Rows:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return ValueError(f"is not UTF-8 at byte {error.start} of the line")
    except json.JSONDecodeError as error:
        return ValueError(f"is not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return ValueError(f"is not JSON that can be read: {error}")


def _json(path: Path, content: bytes) -> Rows:
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: is not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON that can be read: {error}") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: is {type(rows).__name__}, not a list of records")
    return ((f"{path}: record {number}", row) for number, row in enumerate(rows))


def _csv(path: Path, content: bytes) -> Rows:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        return iter([(f"{path}:{reader.line_num}", row) for row in reader])
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: is not UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: is not CSV: {error}") from error


def _parquet(path: Path, content: bytes) -> Rows:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    except arrow.ArrowException as error:
        raise InputError(f"{path}: is not Parquet: {str(error).splitlines()[0]}") from error
    return ((f"{path}: row {number}", row) for number, row in enumerate(rows))
