"""Aggregates instead of rows: what ``record --summary`` keeps of calls and deliveries.

Memory is bounded: beyond ``_MOST`` lines, those of ended threads and of the least interesting
connections are joined into one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probes.layout import CALL, CONTEXT_NAMES, FLAGS, KINDS, SOCKET
from tracer.addresses import families, printed_addresses, protocols
from tracer.live.few import Few
from tracer.live.frames import frame_of
from tracer.live.histograms import Histograms
from tracer.newfile import new_file
from tracer.ring import Records

if TYPE_CHECKING:
    import pandas as pd

__all__ = ("Summary", "joined_threads")

_MOST = 20_000
"""Lines of evidence and of connections: some tens of MB."""
_BATCH = 50_000
"""Records that are added up at one time: the ring holds twice as many."""
_SAVE_S = 30.0
"""Writing many connections takes 0.2 s, which the ring outlasts."""
_SUMS = ("calls", "bytes", "wait_ns", "copy_ns", "deliveries")
_MAXIMA = ("delivery_max_ns", "longest_ready_ns")


class Summary:
    """Adds up CALL and DELIVERY records as they come."""

    def __init__(self) -> None:
        import analysis.recognition  # noqa: F401  (now, and not between two batches)

        self._rows_left_out = 0
        self._waiting: list[Records] = []
        self._few = Few()
        self._evidence: pd.DataFrame | None = None
        self._totals: pd.DataFrame | None = None
        self._waited = Histograms()
        self._next = 0.0

    @property
    def left_out(self) -> int:
        """Records of which there are only sums, or nothing."""
        return self._rows_left_out + self._few.left_out

    def keep(self, records: Records) -> None:
        """Add up what is a row; keep of the other records what is needed."""
        rows = np.isin(records["kind"], (KINDS["CALL"], KINDS["DELIVERY"]))
        self._rows_left_out += int(np.count_nonzero(rows))
        self._waiting.append(records[rows])
        if sum(map(len, self._waiting)) >= _BATCH:
            self._add_up()
        self._few.add(records[~rows], () if self._totals is None else self._totals.index)

    def few(self) -> Records:
        """Return the records to be written: names, ledgers, addresses."""
        return self._few.records()

    def _add_up(self) -> None:
        from analysis.connections import longest_stretches, socket_totals
        from analysis.evidence import added, gather

        if not self._waiting:
            return
        records = np.concatenate(self._waiting).view(CALL)
        self._waiting.clear()
        calls = frame_of(records[records["kind"] == KINDS["CALL"]], CONTEXT_NAMES)
        if len(calls):
            parts = [gather(calls)] if self._evidence is None else [self._evidence, gather(calls)]
            self._evidence = joined_threads(added(parts))
        arrivals = _arrivals(records)
        every = arrivals.groupby("socket").size()
        arrivals = arrivals[arrivals.pop("known")]
        of_calls = calls[calls["socket"] > 0]
        of_calls = of_calls.astype({"socket": "Int64", "sleep_ns": "Int64"})
        totals = socket_totals(of_calls)
        waited = (arrivals["copied_ns"] - arrivals["ready_ns"]).clip(lower=0)
        by_socket = waited.groupby(arrivals["socket"])
        totals = totals.join(every.rename("deliveries"), how="outer")
        totals = totals.join(by_socket.max().rename("delivery_max_ns"), how="outer")
        totals = totals.join(longest_stretches(arrivals).rename("longest_ready_ns"), how="outer")
        self._add_totals(totals.astype("Float64"))
        self._waited.add(arrivals["socket"].to_numpy(), waited.to_numpy())

    def _add_totals(self, totals: pd.DataFrame) -> None:
        import pandas as pd

        both = totals if self._totals is None else pd.concat([self._totals, totals])
        self._totals = _reduced(both)
        if len(self._totals) > _MOST:
            self._join_sockets()

    def _join_sockets(self) -> None:
        """Join all connections but those whose data waited longest."""
        from analysis.schema import OTHERS

        assert self._totals is not None
        order = self._totals["longest_ready_ns"].fillna(-1).sort_values().index
        small = order[: -_MOST // 2]
        index = self._totals.index.to_series()
        self._totals.index = index.where(~index.isin(small), OTHERS).rename("socket")
        self._totals = _reduced(self._totals)
        self._waited.join(small.to_numpy(np.int64), OTHERS)

    def save_now_and_then(self, folder: Path) -> None:
        """Write the sums so far: a recording that dies has lost ``_SAVE_S`` of them at most."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + _SAVE_S
            self.write(folder)

    def write(self, folder: Path) -> None:
        """Write ``evidence.csv`` and ``connections.csv``."""
        import pandas as pd

        from analysis.evidence import gather
        from analysis.schema import CONNECTIONS

        self._add_up()
        evidence = self._evidence if self._evidence is not None else gather(pd.DataFrame())
        _write(evidence, folder / "evidence.csv")
        table = self._totals if self._totals is not None else pd.DataFrame(columns=list(_SUMS))
        table = table.rename_axis("socket").reset_index()
        for name, share in (("delivery_p50_ns", 0.5), ("delivery_p99_ns", 0.99)):
            table[name] = table["socket"].map(self._waited.quantile(share))
        table = table.merge(_addresses(self._few.records("SOCKET")), on="socket", how="left")
        table = table.reindex(columns=list(CONNECTIONS.columns))
        numbers = [name for name, kind in CONNECTIONS.columns.items() if kind.startswith("int")]
        table[numbers] = table[numbers].astype("Float64").round().astype("Int64")
        table = table.sort_values("longest_ready_ns", ascending=False, na_position="last")
        _write(table, folder / "connections.csv")


def _arrivals(records: Records) -> pd.DataFrame:
    import pandas as pd

    delivered = (records["flags"] & FLAGS["DELIVERED"]) != 0
    own = records[(records["kind"] == KINDS["DELIVERY"]) | delivered]
    columns = {"socket": own["socket"], "ready_ns": own["ready"], "copied_ns": own["copied"]}
    frame = pd.DataFrame({name: values.astype(np.int64) for name, values in columns.items()})
    return frame.assign(known=(own["flags"] & FLAGS["READY_UNKNOWN"]) == 0)


def _reduced(totals: pd.DataFrame) -> pd.DataFrame:
    grouped = totals.groupby(level=0)
    summed = grouped[list(_SUMS)].sum(min_count=1)
    return summed.join(grouped[list(_MAXIMA)].max()).join(grouped["pid"].first())


def joined_threads(evidence: pd.DataFrame) -> pd.DataFrame:
    """Join threads when there are very many: those of each process but its main one.

    Where that is not enough, because each process has few, the half of them that called least.
    """
    from analysis.evidence import added
    from analysis.schema import OTHERS

    if len(evidence) <= _MOST:
        return evidence
    evidence = evidence.copy()
    evidence.loc[evidence["tid"] != evidence["pid"], "tid"] = OTHERS
    joined = added([evidence.iloc[:1], evidence.iloc[1:]])
    if len(joined) <= _MOST:
        return joined
    calls = joined.groupby("pid")["calls"].sum().sort_values()
    few = joined["pid"].isin(calls.index[: len(calls) // 2])
    joined.loc[few, ["pid", "tid"]] = OTHERS
    return added([joined.iloc[:1], joined.iloc[1:]])


def _addresses(records: Records) -> pd.DataFrame:
    import pandas as pd

    sockets = records.view(SOCKET)
    table = pd.DataFrame(
        {
            "socket": sockets["socket"].astype(np.int64),
            "family": families(sockets),
            "protocol": protocols(sockets),
            "local": printed_addresses(sockets, "local"),
            "remote": printed_addresses(sockets, "remote"),
        }
    )
    return table.drop_duplicates("socket", keep="last")


def _write(table: pd.DataFrame, path: Path) -> None:
    """Write a table so that it has its name only when it is complete."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(new_file(partial), "w", encoding="utf-8") as file:
        table.to_csv(file, index=False)
    partial.replace(path)
