"""Additions to ``map_style`` for the page of a parity report."""

from __future__ import annotations

STYLE = """
.badge.passed{background:#e2f3ea;color:#17633e}.badge.failed{background:#fbe5e2;color:#93261b}
.badge.unsure{background:#fbf1d9;color:#75520a}
.big.words{font-size:2.1rem;line-height:1.12}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;overflow-wrap:anywhere}
.errors{margin-top:8px}.errors .tick{font-size:10.5px}
.errors .band{fill:var(--true);opacity:.16}.errors .floor{fill:none;stroke:var(--true);stroke-width:1.3}
circle.ok{fill:var(--accent)}circle.bad{fill:var(--false)}circle.first{stroke:#fff;stroke-width:1.4}
path.divergence{stroke:var(--false);stroke-width:1.2;stroke-dasharray:4 3}
text.divergence{fill:var(--false);font-size:12px;font-weight:650}
.links td{vertical-align:top}.links td:first-child{white-space:nowrap}.links .badge{white-space:normal}
.links details{margin-top:4px}.links summary{font-weight:400}
h3{font-size:.98rem;margin:18px 0 2px}
tr.bad td{background:#fdf3f1}tr.first td{background:#fbe0dc;font-weight:600}tr.why td{background:#fbe0dc;padding-top:0}
tr.why td{color:#93261b;font-size:.88rem;text-align:left}
.layers td:nth-child(2){color:var(--soft)}.layers td:nth-child(-n+2){min-width:172px}.layers td:nth-child(3){white-space:nowrap}
.layers .meter{min-width:76px;height:10px;margin-top:7px}
.layers .meter i.bad{background:var(--false)}.layers .meter u{position:absolute;top:-2px;bottom:-2px;width:1px;background:#7c8893}
details{margin-top:14px}summary{cursor:pointer;color:var(--accent);font-weight:600}
.causes{display:grid;gap:14px;margin:14px 0}
.cause{border:1px solid var(--line);border-left:4px solid var(--false);border-radius:8px;padding:12px 16px}
.cause b{font-size:1.02rem}.cause p{margin:4px 0 0}.cause .fix{color:#17633e}
.compare td:nth-child(2){color:#93261b}.compare td:nth-child(3){color:#17633e;font-weight:600}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:16px;margin:12px 0 4px}
.sides .photo{margin:0}.sides svg{max-height:440px}
.photo rect.same{stroke:#17a2d4}.photo rect.only{stroke:var(--false);stroke-width:3.2px}
.photo rect.boundary{stroke:var(--object);stroke-dasharray:5 4}
.photo rect.plate.same{fill:#0f6c8c;stroke:none}.photo rect.plate.only{fill:var(--false);stroke:none}
.photo rect.plate.boundary{fill:#9a6a00;stroke:none}
td.hash{font:.84em ui-monospace,Menlo,Consolas,"Liberation Mono",monospace;text-align:left;overflow-wrap:anywhere}
@media print{details>*{display:block}}
"""
