"""Claims and notices: plain data that survives JSON, notices that print as text."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.evidence import Claim, Notice, code_of, from_plain, to_plain


def test_claims_survive_json() -> None:
    claims = (
        Claim("architecture", "assumed", "heads padded SAME", "heads.padding", "same", ("valid",), "1,376 priors more"),
        Claim("tensors", "stated", "58 tensors"),
    )
    assert from_plain(json.loads(json.dumps(to_plain(claims)))) == claims
    assert str(claims[0]) == "assumed: heads padded SAME; --set heads.padding=valid for another reading"
    with pytest.raises(FormatError):
        from_plain([{"link": "weather", "basis": "stated", "text": "sunny"}])


def test_a_notice_is_its_text_and_has_a_code() -> None:
    notice = Notice("pixels.mean.assumed", "mean 0 is assumed")
    assert notice == "mean 0 is assumed"
    assert json.dumps([notice]) == '["mean 0 is assumed"]'
    assert [code_of(n) for n in (copy.deepcopy(notice), pickle.loads(pickle.dumps(notice)))] == [notice.code] * 2
    assert (code_of(notice), code_of("mean 0")) == ("pixels.mean.assumed", "")
