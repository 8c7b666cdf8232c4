"""Where the YAML lies that fills the schema, and in words what is wrong with a file of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yaml import MarkedYAMLError
from yaml.reader import ReaderError

from dsmoe.errors import InputError


def config_root() -> Path:
    """The folder that holds `conf/` and `sweeps/`: the package itself in a wheel, its parent in a checkout."""
    package = Path(__file__).parent.parent
    return package if (package / "conf").is_dir() else package.parent


def choices(folder: Path) -> list[str]:
    """What can be chosen in a group's folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


@contextmanager
def reading_yaml(root: Path) -> Iterator[None]:
    """While Hydra reads files below the root: one that cannot be read is an InputError that says where and why."""
    try:
        yield
    except MarkedYAMLError as error:
        raise InputError(_not_yaml(error)) from error
    except ReaderError as error:
        line = Path(error.name).read_text(encoding="utf-8")[: error.position].count("\n") + 1
        raise InputError(f"{error.name}:{line}: is not YAML that can be read: {error.reason}") from error
    except UnicodeDecodeError as error:
        raise InputError(_not_text(root)) from error
    except PermissionError as error:
        raise InputError(f"{error.filename}: cannot be read: permission denied") from error


def _not_yaml(error: MarkedYAMLError) -> str:
    assert error.problem_mark is not None
    return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: is not YAML that can be read: {error.problem}"


def _not_text(root: Path) -> str:
    """Which file is not UTF-8, of which Python's error says nothing."""
    for path in sorted(path for folder in ("conf", "sweeps") for path in (root / folder).rglob("*.yaml")):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            return f"{path}:{line}: is not UTF-8"
    raise AssertionError("a file below the root was not UTF-8")
