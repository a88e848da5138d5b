"""How a report looks: escaped HTML, inline SVG, one style sheet; nothing is fetched, ever."""

import html
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from minirlhf.evaluation.plots import BLUE, COLOURS, GOLD, INK, MUTED, RULE


class Html(str):
    """Text that is markup already. Plain `str` becomes markup only through `tag`, escaped."""


def tag(name: str, *children: str, **attributes: str) -> Html:
    """An element; children and attribute values are escaped unless they are Html.

    A trailing underscore is dropped (`class_`), others become hyphens (`aria_label`).

    >>> tag("p", "1 < 2 ", tag("b", "yes"), class_="note")
    '<p class="note">1 &lt; 2 <b>yes</b></p>'
    """
    pairs = ((k.rstrip("_").replace("_", "-"), html.escape(str(v))) for k, v in attributes.items())
    opening = "".join(f' {key}="{value}"' for key, value in pairs)
    inner = "".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children)
    return Html(f"<{name}{opening}>{inner}</{name}>")


def join(parts) -> Html:
    """Markup pieces one after the other, one per line."""
    return Html("\n".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def moon(share: float, size: int) -> Html:
    """A moon whose lit part is `share` of its disc (exact by area), lit from the right."""
    share = min(1.0, max(0.0, share))
    # The terminator is half an ellipse; it bulges right before half moon, left after.
    bend, sweep = abs(1 - 2 * share), int(share > 0.5)
    path = f"M0-1A1 1 0 0 1 0 1A{bend:.4f} 1 0 0 {sweep} 0-1"
    return Html(
        f'<svg class="moon" width="{size}" height="{size}" viewBox="-1.06 -1.06 2.12 2.12" '
        f'role="img" aria-label="gold {share:.2f}"><circle r="1.03"/><path d="{path}"/></svg>'
    )


def inline_svg(figure: Figure, label: str) -> Html:
    """The figure as an SVG element that takes its colours and fonts from the page.

    Args: figure: as drawn by plots; label: what it shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    # The salt keeps ids of different figures apart and those of one figure the same every time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    opening, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    for colour, name in _PALETTE.items():
        rest = rest.replace(colour, f"var(--{name})")
    rest = rest.replace("xlink:href", "href")
    return Html(f'<svg {box[0]} role="img" aria-label="{html.escape(label)}">{rest}')


def page(title: str, *body: Html) -> str:
    """A whole document."""
    head = join([
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        tag("style", Html(STYLE)),
    ])  # fmt: skip
    return f'<!doctype html>\n<html lang="en">\n{head}\n{tag("main", join(body))}\n</html>\n'


_PALETTE = {INK: "ink", MUTED: "muted", RULE: "rule", GOLD: "gold", BLUE: "blue"}
_PALETTE |= {colour: f"line-{i}" for i, colour in enumerate(COLOURS)}

_LIGHT = "; ".join(f"--{name}: {colour}" for colour, name in _PALETTE.items())

STYLE = (
    ":root { color-scheme: light dark; --paper: #fbfaf6; --wash: #f3f0e8; --night: #333d58; "
    "--lit: #f4cd57; --sky: #141a2b; --star: #eef0f6; --haze: #a9b3c9; "
    + _LIGHT
    + " }"
    + """
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #11141b; --wash: #191d27; --night: #333d58; --sky: #191f31; --ink: #ebe7dc;
    --muted: #9aa3b4; --rule: #2d3443; --gold: #b3882a; --blue: #456f9e;
    --line-0: #8bb8ea; --line-1: #f0a36d; --line-2: #73cbb5; --line-3: #caa0e2 }
}
:root { --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans",
    Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 400 1rem/1.55 var(--sans); font-variant-numeric: tabular-nums }
main { max-width: 74rem; margin: 0 auto; padding: 3.5rem 2rem 4rem }
h1, h2, h3 { font-family: var(--serif); font-weight: 600; line-height: 1.15; text-wrap: balance }
h1 { font-size: clamp(2rem, 5.2vw, 3.6rem); letter-spacing: -.015em; margin: .3rem 0 1.6rem }
h2 { font-size: 1.65rem; margin: 0 0 .5rem }
h3 { font-size: 1.2rem; margin: 0 0 .7rem }
p { margin: 0 0 .9rem; max-width: 68ch }
a { color: var(--line-0); text-underline-offset: .15em }
code, pre { font-family: var(--mono); font-size: .86rem }
pre { background: var(--wash); padding: .9rem 1.1rem; border-radius: .4rem; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere }
main > section { border-top: 1px solid var(--rule); padding-top: 1.5rem; margin-top: 3rem }
.eyebrow, .note, figcaption { color: var(--muted); font-size: .86rem }
.eyebrow { letter-spacing: .02em; margin: 0 }
.lede { font: 400 1.16rem/1.55 var(--serif); max-width: 68ch;
  margin: 1.8rem 0 1.4rem }
.lede.long { max-width: none; columns: 28rem; column-gap: 3rem }
nav { font-size: .9rem; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem }
.moon circle { fill: var(--night) }
.moon path { fill: var(--lit) }
.moon { display: block; flex: none }
.sky { background: var(--sky); color: var(--star); border-radius: .6rem;
  padding: 2.2rem 2.2rem 1.1rem }
.sky .note, .sky small { color: var(--haze) }
.sky .note { margin: 1.5rem 0 0; font-size: .8rem }
.phases { list-style: none; display: grid; gap: 1rem; padding: 0; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(3.4rem, 1fr)) }
.phases .moon { width: clamp(2.9rem, 9vw, 6.4rem); height: auto; margin-bottom: .9rem }
.phases b { display: block; line-height: 1.2; font-weight: 500 }
.phases .value { font: 600 1.7rem/1.25 var(--serif); display: block }
.phases small { font-size: .8rem; display: block; line-height: 1.3 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr));
  gap: 1.6rem 2rem; margin: 1.3rem 0 }
.figures { display: flex; flex-wrap: wrap; align-items: flex-end; gap: 1.6rem 2rem;
  margin: 1.3rem 0 }
.figures figure { max-width: 100% }
figure { margin: 0; break-inside: avoid }
figure svg { width: 100%; height: auto; display: block; overflow: visible }
figure svg * { stroke-linejoin: round }
figure svg text { font-family: var(--sans) !important }
figcaption { line-height: 1.4; margin: .1rem 0 0; padding: 0 12% 0 11% }
.stage { padding: .2rem 1rem 0 0 } .stage.wide { grid-column: 1 / -1 }
.stage p { color: var(--muted); margin: 0 }
.results { table-layout: fixed } .results th:first-child { width: 26% }
table { border-collapse: collapse; width: 100%; font-size: .94rem; margin: 1.3rem 0 .8rem }
th, td { padding: .42rem .5rem; text-align: right; border-bottom: 1px solid var(--rule);
  vertical-align: baseline; line-height: 1.3 }
th { font-weight: 600 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td:last-child, th:last-child { padding-right: 0 }
thead th { border-bottom: 1.5px solid var(--ink); vertical-align: bottom }
tbody th { font-weight: 400 }
th small, td small { color: var(--muted); font-weight: 400; font-size: .8rem; display: block }
.question { margin: 2rem 0 2.4rem; break-inside: avoid }
.question h3::before { content: "“" } .question h3::after { content: "”" }
.question h3 { white-space: pre-wrap; overflow-wrap: anywhere }
.answers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(12rem, 100%), 1fr));
  gap: 1.2rem 1.4rem }
.answer { border-top: 2px solid var(--rule); padding-top: .6rem; display: flex;
  flex-direction: column; break-inside: avoid; min-width: 0 }
.answer header { display: flex; align-items: center; gap: .5rem; font-size: .86rem;
  font-weight: 600 }
.answer .text { font: 400 1.02rem/1.45 var(--serif); margin: .55rem 0 .7rem; flex: 1;
  white-space: pre-wrap; overflow-wrap: anywhere }
.answer .empty { color: var(--muted); font-style: italic }
.answer footer { font-size: .8rem; color: var(--muted) }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem .3rem; padding: 0;
  margin: 0 0 .45rem; font-size: .76rem; line-height: 1.25 }
.chips li { border: 1px solid var(--wash); background: var(--wash); border-radius: 1rem;
  padding: .06rem .5rem; color: var(--muted) }
.chips li.no { border-color: currentColor; background: none; color: var(--line-1) }
.cases { display: grid; gap: 0 3rem;
  grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)) }
.settings { display: grid; gap: 1.4rem 3rem;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)) }
.settings { margin-top: 1.2rem }
.settings table { font-size: .86rem; margin: 0; table-layout: fixed }
.settings th:first-child { width: 55% }
.settings td { overflow-wrap: anywhere }
.bar { display: block; height: .6rem; background: var(--blue); min-width: 2px }
.times { max-width: 40rem }
.times td:last-child { width: 50% }
main > footer { margin-top: 3.5rem; border-top: 1px solid var(--rule); padding-top: 1rem;
  color: var(--muted); font-size: .86rem }
@media (max-width: 40rem) {
  main { padding: 1.8rem 1.1rem 3rem }
  .lede { font-size: 1.08rem }
  .sky { padding: 1.3rem 1.1rem .8rem; margin: 0 -.4rem }
  .phases { gap: .5rem } .phases b { font-size: .8rem; min-height: 2.4em }
  .phases .value { font-size: 1.1rem } .phases small { font-size: .68rem }
  .results { font-size: .8rem }
  .results th, .results td { padding: .38rem 0 .38rem .3rem }
  .results thead th { font-size: .7rem; letter-spacing: -.01em }
  .answers { grid-template-columns: 1fr } .question { break-inside: auto }
  .cases .answers { grid-template-columns: 1fr 1fr }
  .results th small, .results td small { font-size: .68rem }
}
@media print {
  @page { margin: 16mm }
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact }
  :root { --paper: #fff; --sky: #fff; --star: #1c2230; --haze: #5d6675 }
  .sky { padding: 0 } main { padding: 0; max-width: none } nav { display: none }
  main > section { margin-top: 1.6rem }
  .grid { grid-template-columns: repeat(3, 1fr); gap: 1rem }
  .answers { grid-template-columns: repeat(5, 1fr); gap: .8rem }
  .answer .text { font-size: .9rem }
  h2, h3 { break-after: avoid } table, tr { break-inside: avoid }
}
"""
)
