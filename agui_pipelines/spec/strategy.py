"""How somebody wants a migration to be carried out. A plan says what it recommends instead, and why."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from agui_pipelines.spec.section import Section

StrategyType = Literal["big_bang", "rolling", "blue_green"]


class Strategy(Section):
    """``{type: rolling, rate: 500}``, or just the type."""

    type: StrategyType
    rate: float | None = Field(None, gt=0)
    """States per second that a rolling migration moves at most."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value
