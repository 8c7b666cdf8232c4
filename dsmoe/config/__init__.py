"""The schema: what a run is, as frozen dataclasses; and where the YAML lies that fills it.

YAML in `conf/` composes it, `dsmoe.compose` validates it, and everything past the command line sees only these. The
line under a field is its help text in `dsmoe VERB --help`.
"""

from dsmoe.config.backend import VllmConfig
from dsmoe.config.config import Config
from dsmoe.config.evidence import AnalysisConfig, CalibrationConfig
from dsmoe.config.files import choices, config_root
from dsmoe.config.methods import DiscoveryConfig, SftConfig, SteeringConfig
from dsmoe.config.model import ModelConfig, PretrainConfig
from dsmoe.config.questions import GENERATES, BenchmarkConfig, DatasetConfig, GenerationConfig, Origin, SplitsConfig
from dsmoe.config.running import UNNAMEABLE, ClusterConfig, LauncherConfig, PathsConfig, TrackingConfig
from dsmoe.config.types import (
    AUTO,
    Auto,
    Backend,
    Batches,
    Benchmark,
    Count,
    Device,
    Dtype,
    Launcher,
    Metric,
    Mode,
    Positive,
    Seed,
    Share,
    Span,
    Strength,
    Text,
    Tracking,
)

__all__ = [
    "AUTO",
    "GENERATES",
    "UNNAMEABLE",
    "AnalysisConfig",
    "Auto",
    "Backend",
    "Batches",
    "Benchmark",
    "BenchmarkConfig",
    "CalibrationConfig",
    "ClusterConfig",
    "Config",
    "Count",
    "DatasetConfig",
    "Device",
    "DiscoveryConfig",
    "Dtype",
    "GenerationConfig",
    "Launcher",
    "LauncherConfig",
    "Metric",
    "Mode",
    "ModelConfig",
    "Origin",
    "PathsConfig",
    "Positive",
    "PretrainConfig",
    "Seed",
    "SftConfig",
    "Share",
    "Span",
    "SplitsConfig",
    "SteeringConfig",
    "Strength",
    "Text",
    "Tracking",
    "TrackingConfig",
    "VllmConfig",
    "choices",
    "config_root",
]
