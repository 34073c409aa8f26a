"""A page of plots, tables and pictures in one file that asks nothing of the network."""

import base64
import io
from html import escape
from pathlib import Path
from string import Template

import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

_PICTURE_SIDE = 1400  # pixels
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; padding: 0 16px 48px; max-width: 1080px; background: #fff; color: #1f2328;
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1.2rem 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; padding-top: .6rem;
  border-top: 1px solid #d1d9e0; }
p, li { max-width: 72ch; }
a { color: #0550ae; }
nav a { display: inline-block; margin-right: 1rem; padding: 2px 0; }
.answer { background: #eef6ff; border-left: 4px solid #0072b2; padding: .6rem 1rem; }
.answer p { margin: .2rem 0; }
.scroll { overflow-x: auto; }
.scroll:focus { outline: 2px solid #0072b2; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #57606a; padding: .3rem 0; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #d1d9e0; text-align: left;
  white-space: nowrap; }
thead th { border-bottom: 2px solid #8c959f; background: #f6f8fa; }
tbody th { font-weight: 600; }
td.number { text-align: right; }
.verdict { padding: 1px 8px; border-radius: 9px; background: #eaeef2; white-space: nowrap; }
.helps { background: #d7f5dd; color: #0a4b1e; }
.hurts { background: #ffe3e0; color: #82071e; }
figure { margin: .6rem 0 1.2rem; min-width: 0; overflow: hidden; }
figcaption { color: #57606a; font-size: .9rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border: 1px solid #d1d9e0; }
code { background: #f6f8fa; font-size: .85rem; overflow-wrap: anywhere; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1rem; }
</style>
<script>$plotly</script>
</head>
<body>
<main>
<h1>$title</h1>
<div class="answer">$answer</div>
<nav aria-label="Sections">$nav</nav>
$sections
</main>
</body>
</html>
""")


def page(title: str, answer: str, sections: dict[str, str]) -> str:
    """Write the page.

    Args:
        title (str): Of the page.
        answer (str): HTML, what a reader gets who reads nothing else.
        sections (dict[str, str]): HTML by heading.
    """
    ids = {name: name.lower().replace(' ', '-') for name in sections}
    parts = (
        f'<section aria-labelledby="{ids[name]}"><h2 id="{ids[name]}">{escape(name)}</h2>'
        f'{text}</section>'
        for name, text in sections.items()
    )
    return _PAGE.substitute(
        title=escape(title),
        plotly=get_plotlyjs(),
        answer=answer,
        nav=' '.join(f'<a href="#{ids[name]}">{escape(name)}</a>' for name in sections),
        sections='\n'.join(parts),
    )


def table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    """Write a table that scrolls by itself; cells are HTML, those of digits to the right."""
    body = ''
    for first, *rest in rows:
        cells = (
            f'<td{" class=number" if text[:1] in "+-0123456789[&" else ""}>{text}</td>'
            for text in rest
        )
        body += f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>'
    names = ''.join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f'<caption>{escape(caption)}</caption><thead><tr>{names}</tr></thead><tbody>{body}</tbody>'
        '</table></div>'
    )


def plot(name: str, figure: go.Figure, caption: str) -> str:
    """Write a plot with its caption."""
    config = dict(displayModeBar=False, responsive=True)
    drawn = figure.to_html(config, full_html=False, include_plotlyjs=False, div_id=f'plot-{name}')
    return (
        f'<figure role="group" aria-label="{escape(caption)}">{drawn}'
        f'<figcaption>{escape(caption)}</figcaption></figure>'
    )


def picture(file: Path) -> str:
    """Embed a picture, scaled down to a size that fits a screen."""
    with Image.open(file) as opened:
        image = opened.convert('RGB')
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    data = io.BytesIO()
    image.save(data, 'JPEG', quality=85)
    text = base64.b64encode(data.getvalue()).decode()
    name = escape(file.name)
    return (
        f'<figure><img alt="{name}" src="data:image/jpeg;base64,{text}">'
        f'<figcaption>{name}</figcaption></figure>'
    )
