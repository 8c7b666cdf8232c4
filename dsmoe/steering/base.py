"""The base of an export: the model that a steering is for, pinned so that another one is noticed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dsmoe.config import Dtype, ModelConfig
from dsmoe.errors import InputError
from dsmoe.models.checkpoint import content_of, identity, is_local

SCHEMA = 1


@dataclass(frozen=True)
class Base:
    """The model that a steering is for: a folder and a hash of its content, or a Hub id and its commit."""

    path: str
    commit: str | None
    content: str | None
    dtype: Dtype
    trust_remote_code: bool

    @classmethod
    def of(cls, model: ModelConfig) -> "Base":
        """The model of a config. Raises InputError for what is no checkpoint of a known family."""
        path, pinned = model.path or "", identity(model)
        where = str(Path(path).resolve()) if is_local(model) else path
        return cls(where, pinned.get("commit"), pinned.get("content"), model.dtype, model.trust_remote_code)

    def check(self, where: str) -> None:
        """Raise InputError, naming the export `where`, if the folder is gone or holds something else by now."""
        if self.content is None:
            return
        if not Path(self.path).is_dir():
            raise InputError(f"{where}: its base {self.path} is gone")
        if content_of(Path(self.path)) != self.content:
            raise InputError(f"{where}: its base {self.path} has changed since the export")

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        content = {"schema": SCHEMA, **asdict(self)}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Base":
        """Read what `save` wrote. Raises InputError, naming the file, for anything else."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path}: is not JSON: {error}") from error
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise InputError(f"{path}: is not the base of an export of schema {SCHEMA}")
        try:
            base = TypeAdapter(cls).validate_json(json.dumps(content), strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            raise InputError(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        if (base.commit is None) == (base.content is None):
            raise InputError(f"{path}: commit and content: exactly one of them is given")
        return base
