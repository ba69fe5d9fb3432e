"""Base of what is read from files of results."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Readable(BaseModel):
    """Frozen data of a file; keys beyond those that are read back are of no concern here."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False, defer_build=True)
