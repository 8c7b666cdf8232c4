"""GLM-4.5-MoE: routers as in DeepSeek-V3."""

from dsmoe.models.families import deepseek_v3

FAMILY = deepseek_v3.FAMILY
