"""`rlm-obs endpoints`: what each endpoint of OpenAI costs, and which answer says so."""

from __future__ import annotations

from typing import Annotated, Literal

from rlm_obs._cli.table import table
from rlm_obs._instrument import free


def endpoints(
    bill: Annotated[Literal["answer", "later", "unknown", "free", "all"], "Only those that are billed so."] = "all",
) -> None:
    """List the endpoints of OpenAI: whether the answer says what it cost, a later one does, none does, or it is free."""
    rows = [row for row in free.table() if bill in (row.bill, "all")]
    print(
        table([("BILL", "ENDPOINT", "NOTE"), *[(row.bill, f"{row.verb.upper()} {row.path}", row.note) for row in rows]])
    )
