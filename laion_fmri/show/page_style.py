"""The look of the status page, in light and dark, on screens wide and narrow.

Contrasts are at least 4.5 to 1 for text and 3 to 1 for shapes (WCAG 2.2, 1.4.3 and 1.4.11, AA).
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #22272e; --soft: #5b6470; --line: #e3e0d8;
  --here: #2c7a68; --some: #b7791f; --none: #8a929d; --held: #8a7fa3; --link: #1f5f8b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1b1f25; --ink: #e4e7eb; --soft: #9aa4b1; --line: #2c323a;
    --here: #4fb59b; --some: #e0a84b; --none: #6d7887; --held: #9d93b8; --link: #82b7de;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.25rem 3rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.125rem; margin: 0 0 1rem; }
h3 { font-size: 0.9375rem; margin: 1.25rem 0 0.25rem; }
a { color: var(--link); text-underline-offset: 0.15em; }
code, pre { font: 0.875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre {
  white-space: pre-wrap; margin: 0; padding: 0.75rem 1rem;
  background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
}
.eyebrow { margin: 0; color: var(--soft); font-size: 0.875rem; letter-spacing: 0.04em; }
.lead { margin: 0.5rem 0 0.75rem; color: var(--soft); }
.lead strong { color: var(--ink); }
.note, footer { color: var(--soft); font-size: 0.875rem; }
footer { padding: 0 0.25rem; }
section {
  margin: 1.25rem 0; padding: 1.25rem 1.5rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
}
section > :last-child { margin-bottom: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; list-style: none; }
.legend { margin: 0 0 1.25rem; padding: 0; color: var(--soft); font-size: 0.875rem; }
.legend li { display: flex; align-items: center; gap: 0.5rem; }
.legend svg { width: 1rem; height: 1rem; flex: none; }
.grid { display: block; width: 100%; height: auto; }
.grid text { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
.grid .subject { fill: var(--ink); font-size: 13px; }
.grid .session { text-anchor: middle; }
.narrow { display: none; }
.cell .frame { fill: none; stroke: var(--none); stroke-width: 1.5; }
.complete .frame { fill: var(--here); stroke: var(--here); }
.partial .frame { stroke: var(--some); }
.partial .level { fill: var(--some); }
.held-out .frame { stroke: var(--held); stroke-dasharray: 2.5 2.5; }
.held-out .cross { stroke: var(--held); stroke-width: 1.5; stroke-linecap: round; }
a:hover .frame { stroke: var(--ink); }
figure { margin: 0; }
figcaption { font-size: 0.875rem; font-weight: 600; }
table { width: 100%; border-collapse: collapse; font-size: 0.9375rem; }
th, td { padding: 0.4rem 0 0.4rem 0.75rem; text-align: right; vertical-align: baseline; }
th:first-child { padding-left: 0; text-align: left; font-weight: 500; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; }
thead th { color: var(--soft); font-weight: 500; font-size: 0.8125rem; }
tbody tr { border-top: 1px solid var(--line); }
.all th, .all td { font-weight: 650; }
.share { width: 8rem; white-space: nowrap; }
.bar { display: block; width: 100%; height: 6px; border-radius: 3px; }
.share .bar { display: inline-block; width: 4.5rem; margin-left: 0.5rem; }
.track { fill: var(--line); }
.fill { fill: var(--here); }
.gaps, .files-of-wrong-size { margin: 0; padding: 0; list-style: none; }
.gaps > li { padding: 0.4rem 0; border-top: 1px solid var(--line); }
.gaps > li:first-child { border-top: 0; }
.files-of-wrong-size { padding-left: 1rem; color: var(--soft); font-size: 0.875rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.4rem 1.25rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
@media (max-width: 56rem) {
  .wide { display: none; }
  .narrow { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
  .narrow { gap: 1.25rem 2rem; }
}
@media (max-width: 34rem) {
  main { padding: 1.5rem 0.75rem 2rem; }
  section { padding: 1rem; }
  .files, .share .bar { display: none; }
  .share { width: auto; }
  th, td { padding-left: 0.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.75rem; }
}
"""
