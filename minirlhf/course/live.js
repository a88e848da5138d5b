// The panel of a live run: curves, buttons, sliders, answers. Python sends all the news as
// messages; each point carries its update, so that a replay for a second view draws nothing
// twice. No dependencies, no network.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 380, HEIGHT = 168; // of a plot, in its own units
const LEFT = 44, RIGHT = 12, TOP = 14, BOTTOM = 30; // margins
const STATES = {
  ready: "Ready", running: "Running", pausing: "Pausing after this update", paused: "Paused",
  stopping: "Stopping after this update", finished: "Finished", stopped: "Stopped",
  failed: "Failed",
};
const ENDED = ["finished", "stopped", "failed"];

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text; // never innerHTML: prompts and answers are shown as they are
  return node;
}

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/** A number with about three digits, as short as it can be said. */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 100 ? value.toFixed(0) : value.toPrecision(3);
  return (size < 1e-4 && size > 0 ? value.toExponential(1) : String(Number(text))).replace("-", "−");
}

function duration(seconds) {
  if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** Round numbers that cover lowest to highest, `count` steps at most. */
function ticks(lowest, highest, count) {
  const span = highest - lowest || Math.abs(highest) || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const first = Math.floor(lowest / step + 1e-9);
  const last = Math.max(Math.ceil(highest / step - 1e-9), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** [update, values] in the order of the updates, whatever the order they came in. */
const inOrder = (points) => [...points.entries()].sort((a, b) => a[0] - b[0]);

/**
 * Keep the notebook's shortcuts off a focused element, since Lumino takes arrow keys and Enter
 * before the element sees them; but let those with Ctrl or Cmd through, such as Ctrl+S.
 */
function keepKeys(node) {
  const guard = (event) =>
    node.toggleAttribute("data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
  for (const kind of ["keydown", "keyup", "focus"]) node.addEventListener(kind, guard);
  guard({});
}

class Plot {
  constructor(spec, column, first, last) {
    Object.assign(this, { spec, column, first, last, end: last });
    this.node = element("figure", "plot");
    const head = element("figcaption", "head");
    this.value = element("span", "value", "–");
    head.append(
      element("span", "title", spec.title), element("span", "unit", spec.unit), this.value);
    head.title = spec.note;
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.node.append(head, this.svg);
  }

  x(update) {
    return LEFT + ((update - this.first) / (this.end - this.first)) * (WIDTH - LEFT - RIGHT);
  }

  /** The update at a place on the screen. */
  updateAt(clientX) {
    const box = this.svg.getBoundingClientRect();
    const share = (((clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
    return Math.round(this.first + share * (this.end - this.first));
  }

  /** The axis doubles when it is full, so that a young curve is not squeezed into a corner. */
  fitAxis(update) {
    let span = 20;
    while (span < update - this.first) span *= 2;
    this.end = Math.min(this.last, this.first + span);
  }

  /** Draw everything anew: a few hundred points at most, far below a millisecond each. */
  draw(points, changes, hovered) {
    this.fitAxis(Math.max(this.first, ...points.keys()));
    const rows = inOrder(points).map(([update, values]) => [update, values[this.column]]);
    const known = rows.filter(([, value]) => value !== null);
    const start = known.length ? known[0][1] : null;
    const [height, name] = this.spec.reference ?? [null, ""];
    const reference = name ? height ?? start : null;
    const range = known.map(([, value]) => value);
    if (reference !== null) range.push(reference);
    const levels = range.length ? ticks(Math.min(...range), Math.max(...range), 4) : [0, 1];
    const [low, high] = [levels[0], levels.at(-1)];
    this.y = (v) => HEIGHT - BOTTOM - ((v - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);

    this.svg.replaceChildren(...this.axes(range.length ? levels : []));
    this.drawChanges(changes);
    if (reference !== null) this.drawReference(reference, name, known);
    this.drawCurve(rows);
    if (rows.length && !known.length) {
      const place = { class: "tick", x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" };
      this.svg.append(shape("text", place, "no value reported"));
    }
    const row = hovered === null ? known.at(-1) : rows.find(([update]) => update === hovered);
    if (row && row[1] !== null) {
      if (hovered !== null) {
        const [x, base] = [this.x(hovered), HEIGHT - BOTTOM];
        this.svg.append(
          shape("line", { class: "cross", x1: x, x2: x, y1: TOP, y2: base }),
          shape("text", { class: "letter", x, y: base + 13, "text-anchor": "middle" }, hovered));
      }
      this.svg.append(shape("circle", {
        class: "last", cx: this.x(row[0]), cy: this.y(row[1]), r: 4 }));
    }
    this.value.textContent = row ? short(row[1]) : "–";
    this.svg.setAttribute("aria-label", this.inWords(known));
  }

  inWords(known) {
    const { title, unit } = this.spec;
    if (!known.length) return `${title}, ${unit}: no update yet`;
    const [[first, start], [last, now]] = [known[0], known.at(-1)];
    return `${title}, ${unit}: ${short(start)} at update ${first}, ${short(now)} at update ${last}`;
  }

  axes(levels) {
    const [end, base] = [WIDTH - RIGHT, HEIGHT - BOTTOM];
    const nodes = [shape("line", { class: "axis", x1: LEFT, x2: end, y1: base, y2: base })];
    for (const level of levels) {
      const y = this.y(level);
      if (y < base) nodes.push(shape("line", { class: "grid", x1: LEFT, x2: end, y1: y, y2: y }));
      nodes.push(shape("text", {
        class: "tick", x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, short(level)));
    }
    const updates = ticks(this.first, this.end, 5).filter(
      (u) => Number.isInteger(u) && u >= this.first && u <= this.end);
    for (const update of updates) {
      nodes.push(shape("text", {
        class: "tick", x: this.x(update), y: base + 13, "text-anchor": "middle" }, update));
    }
    nodes.push(shape("text", {
      class: "tick", x: (LEFT + end) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "update"));
    return nodes;
  }

  drawReference(level, name, known) {
    const y = this.y(level);
    this.svg.append(shape("line", {
      class: "reference", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
    // The name keeps to the side on which the curve does not end, and off the axis.
    const above = known.length && known.at(-1)[1] < level;
    const below = !above && y + 16 < HEIGHT - BOTTOM;
    this.svg.append(shape("text", {
      class: "name", x: WIDTH - RIGHT - 2, y: below ? y + 12 : y - 5, "text-anchor": "end" }, name));
  }

  drawChanges(changes) {
    let label = null;
    for (const [letter, update] of changes) {
      const x = this.x(update - 0.5);
      const line = { class: "change", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM };
      this.svg.append(shape("line", line));
      if (label && x - label.getAttribute("x") < 14) label.textContent += letter;
      else label = shape("text", { class: "letter", x, y: TOP - 3, "text-anchor": "middle" }, letter);
      this.svg.append(label);
    }
  }

  /** A gap in the numbers (an update whose value was not finite) is a gap in the line. */
  drawCurve(rows) {
    let path = "";
    let pen = "M";
    for (const [update, value] of rows) {
      if (value !== null) path += `${pen}${this.x(update).toFixed(1)} ${this.y(value).toFixed(1)}`;
      pen = value === null ? "M" : "L";
    }
    if (path) this.svg.append(shape("path", { class: "curve", d: path }));
    if (rows.length > 45) return;
    for (const [update, value] of rows) {
      if (value === null) continue;
      this.svg.append(shape("circle", {
        class: "point", cx: this.x(update), cy: this.y(value), r: 1.8 }));
    }
  }
}

class Slider {
  constructor(spec, send) {
    this.spec = spec;
    this.node = element("label", "slider");
    this.number = element("output", "number");
    this.note = element("span", "note", spec.note);
    this.input = element("input", "");
    Object.assign(this.input, { type: "range", min: spec.least, max: spec.most, step: spec.step });
    this.input.name = spec.name;
    keepKeys(this.input);
    this.input.addEventListener("pointerdown", () => (this.held = true));
    this.input.addEventListener("input", () => this.say(Number(this.input.value), true));
    this.input.addEventListener("change", () => {
      this.held = false;
      send({ kind: "set", name: spec.name, value: Number(this.input.value) });
    });
    this.node.append(element("span", "label", spec.label), this.number, this.input, this.note);
  }

  say(value, pending) {
    this.number.textContent = short(value);
    this.note.textContent = pending ? "from the next update on" : this.spec.note;
    this.node.classList.toggle("pending", pending);
  }

  show(value, pending, ended) {
    this.input.disabled = ended;
    if (this.held) return; // not out of the student's hand
    if (value !== null) this.input.value = value;
    this.say(value, pending);
  }
}

function makeButton(label, className, onClick) {
  const button = element("button", className, label);
  button.type = "button";
  keepKeys(button);
  button.addEventListener("click", onClick);
  return button;
}

function render({ model, el }) {
  const { first, last, sliders, plots } = model.get("setup");
  const points = new Map(); // update -> [value of each curve]
  const samples = new Map(); // update -> [[prompt, answer], ...]
  let news = { state: "ready", update: first, values: {}, pending: [], changes: [], findings: [] };
  let hovered = null;
  let frame = 0;
  const send = (message) => model.send(message);

  const root = element("div", "minirlhf-live");
  const bar = element("div", "bar");
  const state = element("span", "state");
  state.setAttribute("role", "status");
  const count = element("span", "count");
  const pace = element("span", "pace");
  const main = makeButton("Start", "main", () => send({ kind: main.dataset.kind }));
  const step = makeButton("Step", "step", () => send({ kind: "step" }));
  step.title = "Make exactly one update, then pause";
  const stop = makeButton("Stop", "stop", () => send({ kind: "stop" }));
  stop.title = "End the run for good";
  const buttons = element("span", "buttons");
  buttons.append(main, step, stop);
  bar.append(state, count, pace, buttons);
  const progress = element("div", "progress");
  const done = element("div", "done");
  progress.append(done);
  const error = element("pre", "error");
  error.setAttribute("role", "alert");
  const findings = element("ul", "findings");
  findings.setAttribute("aria-live", "polite");
  const controls = element("div", "controls");
  const dials = sliders.map((spec) => new Slider(spec, send));
  controls.append(...dials.map((dial) => dial.node));
  const grid = element("div", "plots");
  const charts = plots.map((spec, column) => new Plot(spec, column, first, last));
  grid.append(...charts.map((chart) => chart.node));
  const legend = element("div", "legend");
  const answers = element("div", "answers");
  root.append(bar, progress, error, findings, controls, grid, legend, answers);
  el.append(root);

  function drawBar() {
    const ended = ENDED.includes(news.state);
    const waiting = ["paused", "pausing"].includes(news.state);
    root.dataset.state = news.state;
    root.dataset.update = news.update;
    if (state.textContent !== STATES[news.state]) state.textContent = STATES[news.state];
    count.textContent = `update ${news.update} of ${last}`;
    done.style.width = `${(100 * (news.update - first)) / (last - first)}%`;
    const seconds = news.seconds_per_update;
    const rest = Math.max(1, Math.round(seconds * (last - news.update)));
    const left = ended ? "" : ` · about ${duration(rest)} left`;
    pace.textContent = seconds ? `${duration(seconds)} per update${left}` : "";
    main.textContent = news.state === "ready" ? "Start" : waiting ? "Resume" : "Pause";
    main.dataset.kind = news.state === "ready" ? "start" : waiting ? "go" : "pause";
    main.disabled = step.disabled = ended || news.state === "stopping";
    stop.disabled = main.disabled || news.state === "ready";
    error.textContent = news.error ?? "";
    if (findings.children.length !== news.findings.length) drawFindings();
    for (const dial of dials) {
      const name = dial.spec.name;
      dial.show(news.values[name] ?? null, news.pending.includes(name), ended);
    }
  }

  function drawFindings() {
    findings.replaceChildren(...news.findings.map(([name, update, saw, advice]) => {
      const item = element("li", "");
      item.append(element("b", "", `Update ${update}: ${name}.`), ` ${saw} ${advice}`);
      return item;
    }));
  }

  function drawPlots() {
    const marks = news.changes.map(([update], i) => [String.fromCharCode(97 + i), update]);
    const at = points.has(hovered) ? hovered : null;
    for (const chart of charts) chart.draw(points, marks, at);
    root.dataset.points = points.size;
    const label = (name) => sliders.find((spec) => spec.name === name)?.label ?? name;
    legend.replaceChildren(...news.changes.map(([update, name, old, value], i) => {
      const item = element("span", "");
      item.append(element("b", "", String.fromCharCode(97 + i)),
        ` ${label(name)} ${short(old)} → ${short(value)} from update ${update}`);
      return item;
    }));
  }

  function drawAnswers() {
    const updates = [...samples.keys()].sort((a, b) => a - b);
    if (!updates.length) return;
    const [before, now] = [updates[0], updates.at(-1)];
    const table = element("table", "");
    const head = element("tr", "");
    head.append(
      element("th", "", "Prompt"),
      element("th", "", before === 0 ? "Before PPO" : `At update ${before}`),
      element("th", "", now > before ? `At update ${now}` : ""));
    table.append(head);
    samples.get(before).forEach(([prompt, answer], i) => {
      const row = element("tr", "");
      const later = now > before ? samples.get(now)[i]?.[1] ?? "" : "";
      row.append(element("td", "prompt", prompt), element("td", "", answer),
        element("td", later === answer ? "same" : "new", later));
      table.append(row);
    });
    answers.replaceChildren(element("h4", "", "The same prompts, before and now"), table);
  }

  function draw() {
    frame = 0;
    drawBar();
    drawPlots();
  }
  const soon = () => (frame ||= requestAnimationFrame(draw));

  function onMessage(message) {
    news = message;
    for (const [update, ...values] of message.points) points.set(update, values);
    const before = [...samples.keys()].join();
    for (const [update, pairs] of message.samples) samples.set(update, pairs);
    if (before !== [...samples.keys()].join()) drawAnswers();
    soon();
  }

  grid.addEventListener("pointermove", (event) => {
    const svg = event.target.closest("svg");
    if (!svg) return;
    hovered = charts.find((chart) => chart.svg === svg).updateAt(event.clientX);
    soon();
  });
  grid.addEventListener("pointerleave", () => {
    hovered = null;
    soon();
  });

  model.on("msg:custom", onMessage);
  draw();
  send({ kind: "hello" }); // a late or second view asks for what it has missed
  return () => {
    model.off("msg:custom", onMessage);
    cancelAnimationFrame(frame);
  };
}

export default { render };
