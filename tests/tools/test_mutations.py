"""The list of small faults is current: each is found exactly once, makes running Python, and its tests are there."""

from __future__ import annotations

import pytest

from ssdconv.tools.mutations import ROOT, Fault, faults, planted, product

TEXTS = product(ROOT)


def test_there_are_enough() -> None:
    assert len({(fault.old, fault.new) for fault in faults()}) == len(faults()) >= 60


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.new.strip().splitlines()[0][:50])
def test_every_fault_can_be_planted(fault: Fault) -> None:
    name, text = planted(fault, TEXTS)
    assert text != TEXTS[name]
    assert fault.tests and all((ROOT / test).is_file() for test in fault.tests)


@pytest.mark.parametrize(("old", "new"), [("no such piece", "x"), ("import", "x"), ("limit * eta, limit)", "(")])
def test_what_cannot_be_planted_is_told(old: str, new: str) -> None:
    with pytest.raises(LookupError):
        planted(Fault(old, new, ()), TEXTS)
