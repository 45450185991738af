"""A run as one self-contained HTML file: findings, figures, pictures and data."""

import json
from html import escape

from study.compare.findings import findings
from study.compare.pictures import LATE_SECONDS, Lane, timeline
from study.compare.results import Run, sections

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --quiet: #656d76; --line: #d8dee4; --token: #1f6feb;
  --headers: #9a6700; --prompt: #2da44e; --late: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --ink: #e6edf3; --quiet: #8d96a0; --line: #30363d;
  --token: #58a6ff; --headers: #d29922; --prompt: #3fb950; --late: #f85149; } }
body { background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; } ul { margin: .2rem 0; padding-left: 1.3rem; }
.quiet, caption { color: var(--quiet); font-size: .875rem; text-align: left; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th[scope=row] { text-align: left; font-weight: 400; }
th[scope=rowgroup] { text-align: left; padding-top: 1.1rem; white-space: normal; }
th[scope=rowgroup] span { font-weight: 400; color: var(--quiet); font-size: .875rem; }
svg { width: 100%; min-width: 40rem; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .name { text-anchor: end; } svg .strip { text-anchor: end; fill: var(--quiet); font-size: 10px; }
svg .tick { text-anchor: middle; fill: var(--quiet); } svg .end { fill: var(--quiet); }
svg .grid, svg .open { stroke: var(--line); } svg .headers { stroke: var(--headers); stroke-width: 2; }
svg .tokens { stroke: var(--token); stroke-linecap: round; fill: none; }
svg .prompt { fill: var(--prompt); } svg .late { fill: var(--late); opacity: .25; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
"""


def as_html(run: Run) -> str:
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Side by side: one engine behind five servers</title>
<style>{STYLE}</style>
<h1>Side by side: one engine behind five servers</h1>
<p class="quiet">{escape(run.versions)}. Client and servers share the machine. <code>{escape(run.command)}</code> took
{run.seconds:.0f} s. Every figure and every sentence here is of that run.</p>
{_servers(run)}
<h2>What came out</h2>
{_findings(run)}
{_pictures(run)}
<h2>The figures</h2>
{_table(run)}
<script type="application/json" id="run">{_data(run)}</script>
</html>
"""


def _servers(run: Run) -> str:
    items = "".join(
        f"<li><b>{escape(result.kind.title)}</b>: {escape(result.kind.what)}</li>" for result in run.results
    )
    return f"<ul>{items}</ul>"


def _findings(run: Run) -> str:
    return "".join(
        f"<h3>{escape(title)}</h3><ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"
        for title, sentences in findings(run).items()
    )


def _pictures(run: Run) -> str:
    what = [("One stream, with the model", [Lane(result.kind.title, result.article.stream) for result in run.results])]
    what.append(("One stream", [Lane(result.kind.title, result.figures.one) for result in run.results]))
    for count in run.sizes.many:
        lanes = [Lane(result.kind.title, result.figures.many[count]) for result in run.results]
        what.append((f"{count} streams at once", lanes))
    key = (
        '<p class="quiet"><span class="key" style="background:var(--headers)"></span>headers'
        '<span class="key" style="background:var(--token)"></span>a token'
        '<span class="key" style="background:var(--prompt)"></span>/health, from asking to answer'
        f'<span class="key" style="background:var(--late)"></span>longer than {1e3 * LATE_SECONDS:.0f} ms</p>'
    )
    return "".join(
        f'<h2>{escape(title)}</h2>{key}<div class="wide">{timeline(title, lanes)}</div>' for title, lanes in what
    )


def _table(run: Run) -> str:
    columns = len(run.results) + 1
    heads = "".join(f'<th scope="col">{escape(result.kind.title)}</th>' for result in run.results)
    rows = []
    for section in sections(run):
        rows.append(
            f'<tr><th scope="rowgroup" colspan="{columns}">{escape(section.title)} '
            f"<span>{escape(section.what)}</span></th></tr>"
        )
        for label, cells in section.rows:
            values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            rows.append(f'<tr><th scope="row">{escape(label)}</th>{values}</tr>')
    return (
        f'<div class="wide"><table><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _data(run: Run) -> str:
    """The run as JSON; no `</script>` in it can end the element."""
    return json.dumps(run.as_dict()).replace("<", "\\u003c")
