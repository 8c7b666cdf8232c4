"""Where the YAML lies that fills the schema."""

from pathlib import Path


def config_root() -> Path:
    """The folder that holds `conf/` and `sweeps/`: the package itself in a wheel, its parent in a checkout."""
    package = Path(__file__).parent.parent
    return package if (package / "conf").is_dir() else package.parent


def choices(folder: Path) -> list[str]:
    """What can be chosen in a group's folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
