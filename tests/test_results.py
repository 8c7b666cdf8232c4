"""Results and their file: schema, round trip, bytes, and what a broken file says."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dsmoe import results as results_module
from dsmoe.errors import InputError
from dsmoe.results import Comparison, Harm, Results, RoutingChange, Row

SCHEMA = json.loads(Path(results_module.__file__).with_name("results.schema.json").read_text(encoding="utf-8"))


def results() -> Results:
    base = Row("base", "task_chemistry", "chemistry", "target", "acc", 0.1 + 0.2, 0.04, 40)
    dsmoe = replace(base, method="dsmoe", value=1 / 3, strength=4.0, num_experts=8, mode="logit")
    dsmoe = replace(dsmoe, routing_changed=RoutingChange(choices=900, changed=120))
    primary = Comparison(
        method="dsmoe",
        baseline="base",
        task="task_chemistry",
        domain="chemistry",
        role="target",
        n=40,
        delta=0.05,
        ci_low=-0.05,
        ci_high=0.15,
        p_value=0.6875,
        p_adjusted=0.6875,
        groups=10,
        gained=4,
        lost=2,
        verdict="no evidence",
        family="primary",
        smallest_visible_effect=0.21,
    )
    pooled = replace(primary, task=None, domain=None, role="non_target", harm=Harm(0.05, -0.031, "non-inferior"))
    return Results(
        cell="3f2a",
        config={"steering": {"strength": 4.0}, "domain": "化学"},
        provenance={"torch": "2.13", "seeds": [0, 1]},
        rows=(base, dsmoe),
        comparisons=(primary, pooled),
    )


def document() -> Any:
    """The JSON of `results`, free to be broken."""
    shallow = {name.name: getattr(results(), name.name) for name in fields(Results)}
    return json.loads(json.dumps(shallow, default=lambda one: {f.name: getattr(one, f.name) for f in fields(one)}))


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    results().write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results()
    assert os.listdir(tmp_path) == ["results.json"]


def test_bytes_depend_on_nothing_but_the_results(tmp_path: Path) -> None:
    reordered = replace(results(), config=dict(reversed(results().config.items())))
    results().write(tmp_path / "one")
    reordered.write(tmp_path / "two")
    Results.read(tmp_path / "one").write(tmp_path / "three")
    text = (tmp_path / "one").read_bytes()
    assert text == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()
    assert b"0.30000000000000004" in text
    assert text.endswith(b"}\n")


def test_a_file_is_replaced_not_overwritten(tmp_path: Path) -> None:
    path, open_elsewhere = tmp_path / "results.json", tmp_path / "link"
    path.write_text("before")
    os.link(path, open_elsewhere)
    results().write(path)
    assert open_elsewhere.read_text() == "before"
    assert Results.read(path) == results()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    path.write_text("before")
    row = results().rows[0]
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(results(), rows=(replace(row, value=float("nan")),)).write(path)
    with pytest.raises(InputError, match=r"results.json: \$.rows\[0\].n: 0 is less than the minimum of 1"):
        replace(results(), rows=(replace(row, n=0),)).write(path)

    def broken_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", broken_disk)
    with pytest.raises(OSError, match="no space left"):
        results().write(path)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("schema",), 3, "$.schema: 2 was expected"),
        (("rows",), {}, '$.rows: {} is not of type "array"'),
        (("rows", 1, "value"), "high", '$.rows[1].value: "high" is not of type "number"'),
        (("rows", 1, "value"), 33.3, "$.rows[1].value: 33.3 is greater than the maximum of 1"),
        (("rows", 0, "role"), "other", '$.rows[0].role: "other" is not one of'),
        (("rows", 0, "rank"), 1, "$.rows[0]: Additional properties are not allowed ('rank' was unexpected)"),
        (("comparisons", 0, "verdict"), "significant", '$.comparisons[0].verdict: "significant" is not one of'),
        (("comparisons", 1, "harm", "margin"), None, '$.comparisons[1].harm.margin: null is not of type "number"'),
        (("comparisons", 1, "harm"), {}, '$.comparisons[1].harm: "margin" is a required property'),
        (("config",), [], '$.config: [] is not of type "object"'),
        (("cell",), ["x\ny"] * 500, "$.cell: [...]"),
    ],
)
def test_a_fault_is_one_line_with_its_place(
    tmp_path: Path, keys: tuple[str | int, ...], value: object, words: str
) -> None:
    broken = document()
    parent = broken
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value
    path = tmp_path / "results.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(InputError) as error:
        Results.read(path)
    assert str(error.value).startswith(f"{path}: {words}")
    assert "\n" not in str(error.value)


def test_a_missing_property_is_named(tmp_path: Path) -> None:
    broken = document()
    del broken["comparisons"][1]["gained"]
    (tmp_path / "results.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match=r"\$\.comparisons\[1\]: \"gained\" is a required property"):
        Results.read(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"schema": 1,', "not JSON: Expecting property name"),
        (b'{"schema": NaN}', "not JSON: NaN is not a JSON number"),
        (b"\xff\xfe", "not JSON: 'utf-8' codec can't decode"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path: Path, text: bytes | None, words: str) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(InputError) as error:
        Results.read(path)
    assert str(error.value).startswith(f"{path}: {words}")
    assert "\n" not in str(error.value)


def test_the_schema_and_the_dataclasses_have_the_same_fields() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    definitions = SCHEMA["$defs"]
    for schema, kind in (
        (SCHEMA, Results),
        (definitions["row"], Row),
        (definitions["comparison"], Comparison),
        (definitions["harm"], Harm),
    ):
        later = {"samples", "truncated", "unanswered"} if kind is Row else set()
        assert set(schema["properties"]) == {field.name for field in fields(kind)}
        assert set(schema["required"]) == set(schema["properties"]) - later
        assert schema["additionalProperties"] is False
        for name, part in schema["properties"].items():
            assert part.get("description") or part["$ref"] == f"#/$defs/{name}", name
