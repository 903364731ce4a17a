"""The style sheet of an evaluation's page: light, one accent, responsive, printable, no font from elsewhere."""

from __future__ import annotations

STYLE = """
:root{--ink:#1d2730;--soft:#5c6975;--line:#e3e7eb;--paper:#f7f8f9;--card:#fff;--accent:#0f6c8c;--published:#b9c2ca;
--true:#2b8a5b;--false:#c4463a;--object:#f2b134;--warn:#9a6a00}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
Arial,"Liberation Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1120px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:1.72rem;line-height:1.2;margin:0 0 4px;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.12rem;margin:0 0 4px;letter-spacing:-.005em}
p{margin:0 0 12px}.soft{color:var(--soft)}.small{font-size:.86rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:22px 24px;margin-top:20px}
.hero{display:grid;grid-template-columns:minmax(220px,1fr) 2fr;gap:28px;align-items:center}
.big{font-size:3.4rem;font-weight:650;line-height:1;letter-spacing:-.03em}
.big small{font-size:1.25rem;font-weight:500;color:var(--soft)}
.badge{display:inline-block;padding:3px 11px;border-radius:99px;font-weight:600;font-size:.86rem;white-space:nowrap}
.badge.reproduced{background:#e2f3ea;color:#17633e}.badge.differs{background:#fbe5e2;color:#93261b}
.badge.not-comparable{background:#fbf1d9;color:#75520a}.badge.not-published{background:#eceff1;color:var(--soft)}
dl{display:grid;grid-template-columns:auto 1fr;gap:3px 18px;margin:0}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{font-weight:600;color:var(--soft);text-align:right;font-size:.82rem;border-bottom:1px solid var(--line);
padding:6px 10px;white-space:nowrap}
td{padding:6px 10px;text-align:right;border-bottom:1px solid #f0f2f4;vertical-align:top}
th:first-child,td:first-child,.left{text-align:left!important}tr:last-child td{border-bottom:0}
td:first-child,th:first-child{padding-left:0}td.source{min-width:210px}
.meter{position:relative;display:block;width:100%;min-width:150px;height:14px;background:#f0f2f4;border-radius:3px;
margin-top:4px}
.meter i{position:absolute;left:0;top:0;bottom:0;background:var(--accent);opacity:.82;border-radius:3px}
.meter s{position:absolute;top:5px;height:4px;background:var(--ink);opacity:.55;border-radius:2px}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(178px,1fr));gap:14px 16px;margin-top:14px}
figure{margin:0}.curve figcaption{display:flex;justify-content:space-between;font-size:.88rem;padding:0 4px 0 2px}
svg{display:block;width:100%;height:auto}svg text{font-family:inherit}
.grid{stroke:var(--line);stroke-width:.6;fill:none}.tick{fill:var(--soft);font-size:9px}
.fill{fill:var(--accent);opacity:.13}.line{fill:none;stroke:var(--accent);stroke-width:1.5;stroke-linejoin:round}
.bars{max-width:900px}.bars .name,.bars .value{font-size:12px;fill:var(--ink)}.bars .value{font-weight:600}
.bars .tick{font-size:10.5px}
.bar{fill:var(--published)}.bar.measured{fill:var(--accent)}.bar.reproduced{fill:#7fc1a0}.bar.differs{fill:#dd8b82}
.bar.not-comparable{fill:#dfe4e8}.range{fill:var(--published);opacity:.55}.band{fill:var(--accent);opacity:.12}
.histogram{max-width:820px}.histogram .tick{font-size:11px}rect.true{fill:var(--true)}rect.false{fill:var(--false)}
.key{display:inline-flex;align-items:center;gap:7px;margin-right:18px;font-size:.88rem}
.key i{width:14px;height:10px;border-radius:2px;display:inline-block}
.photos{columns:300px;column-gap:18px;margin-top:14px}.photo{break-inside:avoid;margin-bottom:18px}
.photo svg{border-radius:6px;background:#dde2e6}.photo figcaption{font-size:.88rem;color:var(--soft);padding-top:5px}
.photo figcaption b{color:var(--ink);margin-right:6px}
.photo rect{fill:none;stroke-width:2.2px;vector-effect:non-scaling-stroke}
.photo rect.object{stroke:var(--object);stroke-width:3.4px}
.photo rect.difficult{stroke:var(--object);stroke-dasharray:5 4}
.photo rect.true{stroke:var(--true)}.photo rect.false{stroke:var(--false)}.photo rect.ignored{stroke:#8795a1}
.photo rect.plate{stroke:none}.photo rect.plate.true{fill:var(--true)}.photo rect.plate.false{fill:var(--false)}
.photo rect.plate.ignored{fill:#6b7883}text.plate{fill:#fff;font-weight:600}
a{color:var(--accent)}footer{color:var(--soft);font-size:.84rem;margin-top:24px}
@media(max-width:720px){main{padding:20px 14px 40px}.hero{grid-template-columns:1fr}section{padding:18px 16px}
.big{font-size:2.8rem}}
@media print{body{background:#fff}section{break-inside:avoid;border-color:#ccc}}
"""
