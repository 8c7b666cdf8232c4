"""The types that fields of the schema have."""

import math
from typing import Annotated, Literal

from annotated_types import Gt, Interval, MinLen

Dtype = Literal["float32", "bfloat16", "float16"]
Backend = Literal["transformers", "vllm"]
Device = Literal["auto", "cpu", "cuda"]
Benchmark = Literal["option_text", "letter", "mmlu_pro", "gpqa", "aime"]
Metric = Literal["acc", "acc_norm", "exact_match"]
Mode = Literal["logit", "score", "gate", "force"]
Span = Literal["prompt", "question", "options", "generated"]
Auto = Literal["auto"]
AUTO: Auto = "auto"
"""In place of a number: chosen on dev, over the grid that stands beside it."""

Count = Annotated[int, Gt(0)]
Finite = Annotated[float, Interval(gt=-math.inf, lt=math.inf)]
Positive = Annotated[float, Interval(gt=0, lt=math.inf)]
Share = Annotated[float, Interval(gt=0, lt=1)]
Text = Annotated[str, MinLen(1)]
Strength = Annotated[float, Interval(gt=-1, lt=math.inf)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Launcher = Literal["slurm"]
Tracking = Literal["offline", "online", "disabled"]
Batches = Literal["mixed", "single"]
"""Whether batches of training mix the domains' texts, or are of a single domain each."""
