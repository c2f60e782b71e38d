from datetime import UTC, datetime

from shardbus_console.commands.fleet import link_row
from shardbus_eventstore.read_model.queries import LinkView

MEASURED = LinkView(
    from_node="attic",
    to_node="cellar",
    bandwidth_bytes_per_second=118e6,
    latency_seconds=0.00021,
    method="probe",
    samples=2,
    spread=0.034,
    interface="eth0",
    at_least=False,
    measured_at=datetime(2026, 3, 1, 8, 30, tzinfo=UTC),
)


def test_a_link_is_shown_with_how_it_was_measured() -> None:
    assert link_row(MEASURED) == {
        "from": "attic",
        "to": "cellar",
        "bandwidth": "118 MB/s",
        "latency": "210 µs",
        "measured": "2026-03-01 08:30:00",
        "method": "probe",
        "samples": 2,
        "spread": "3 %",
        "interface": "eth0",
    }


def test_what_may_be_more_is_at_least() -> None:
    assert link_row(MEASURED.model_copy(update={"at_least": True}))["bandwidth"] == "≥ 118 MB/s"


def test_what_a_card_promises_has_no_samples_and_no_spread() -> None:
    promised = MEASURED.model_copy(update={"method": "passive", "samples": None, "spread": None, "interface": None})
    row = link_row(promised)
    assert (row["samples"], row["spread"], row["interface"]) == ("", "", "")
