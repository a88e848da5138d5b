// Rank cards by dragging. The whole state is one trait, `ranks`, in the order of the responses
// (1 = best, equal = tied); rows are derived from it. No dependencies, no network.

const MOUSE = "Drag the best answer to the top. Drop a card onto another one to tie the two.";
const KEYS =
  "With the keyboard: Tab to a card, ↑ ↓ move it, Alt+↑ Alt+↓ tie it with the row above or " +
  "below, Alt+→ takes it out of a tie (Alt is Option on a Mac).";
const WIDEST = 380; // pixels, of a card in the air: what lies under it should stay readable

const letter = (index) => String.fromCharCode(65 + index);
const names = (row) => row.map(letter).join(" = ");
const inWords = (rows) => rows.map(names).join(" > ");

/** ranks (3, 3, 2, 1) -> rows of response numbers, best first: [[3], [2], [0, 1]] */
function toRows(ranks) {
  const rows = [];
  ranks.forEach((rank, index) => (rows[rank - 1] ??= []).push(index));
  return rows.filter(Boolean);
}

function toRanks(rows, count) {
  const ranks = new Array(count);
  rows.forEach((row, place) => row.forEach((index) => (ranks[index] = place + 1)));
  return ranks;
}

const rowOf = (rows, index) => rows.findIndex((row) => row.includes(index));

/** Rows after `index` went to `target`: {tie: row number} or {gap: number of rows above it}. */
function moved(rows, index, target) {
  const next = rows.map((row) => row.filter((other) => other !== index));
  if ("tie" in target) next[target.tie] = [...next[target.tie], index].sort((a, b) => a - b);
  else next.splice(target.gap, 0, [index]);
  return next.filter((row) => row.length);
}

/** Where a key sends the card, or null. */
function keyTarget(event, rows, index) {
  const row = rowOf(rows, index);
  const tied = rows[row].length > 1;
  const key = event.key;
  if (event.altKey && (key === "ArrowRight" || key === "ArrowLeft")) {
    return tied ? { gap: row + 1 } : null;
  }
  const step = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (!step || event.ctrlKey || event.metaKey || event.shiftKey) return null;
  const other = row + step;
  const inside = other >= 0 && other < rows.length;
  if (event.altKey) return inside ? { tie: other } : null;
  if (tied) return { gap: step < 0 ? row : row + 1 };
  return inside ? { gap: step < 0 ? other : other + 1 } : null;
}

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text; // never innerHTML: an answer is shown as it is
  return node;
}

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

function render({ model, el }) {
  const root = element("div", "minirlhf-rank");
  const question = element("div", "question");
  question.append(
    element("span", "caption", "Prompt"), element("div", "prompt", model.get("_prompt")),
    element("div", "hint", MOUSE));
  const list = element("div", "rows");
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Answers, the best one first");
  const result = element("div", "result");
  const help = element("p", "help", KEYS);
  help.id = `minirlhf-rank-${Math.random().toString(36).slice(2)}`;
  const spoken = element("div", "spoken");
  spoken.setAttribute("aria-live", "polite");
  root.append(question, list, result, help, spoken);
  el.append(root);

  const responses = model.get("_responses");
  let drag = null; // {index, card, startX, startY, target, slot, width, holdX, holdY}

  const cardOf = (index) => list.querySelector(`[data-index="${index}"]`);

  function commit(rows, index) {
    model.set("ranks", toRanks(rows, responses.length));
    model.save_changes();
    draw(index);
    const row = rowOf(rows, index);
    const others = rows[row].filter((other) => other !== index).map(letter);
    const tie = others.length ? `, tied with ${others.join(" and ")}` : "";
    spoken.textContent =
      `${letter(index)} is now in place ${row + 1} of ${rows.length}${tie}. ${inWords(rows)}.`;
  }

  function onKey(event, index) {
    if (drag) {
      if (event.key === "Escape") endDrag(false);
      return;
    }
    if (!event.key.startsWith("Arrow")) return;
    const rows = toRows(model.get("ranks"));
    const target = keyTarget(event, rows, index);
    event.preventDefault(); // Alt+→ would leave the page, ↓ would scroll it
    event.stopPropagation(); // and the notebook would select the next cell
    if (target) commit(moved(rows, index, target), index);
  }

  /** What lies under the pointer: a gap between rows, a row to tie with, or null (no change). */
  function targetAt(x, y) {
    const box = list.getBoundingClientRect();
    if (x < box.left - 60 || x > box.right + 60 || y < box.top - 60 || y > box.bottom + 60) {
      return null;
    }
    const rows = toRows(model.get("ranks"));
    const own = rowOf(rows, drag.index);
    const alone = rows[own].length === 1;
    let gap = rows.length;
    for (const [place, row] of [...list.children].entries()) {
      const { top, bottom } = row.getBoundingClientRect();
      const edge = Math.min(18, (bottom - top) / 4);
      if (y > top + edge && y < bottom - edge) return place === own ? null : { tie: place };
      if (y <= top + edge) {
        gap = place;
        break;
      }
    }
    return alone && (gap === own || gap === own + 1) ? null : { gap };
  }

  function showTarget(target) {
    for (const node of list.querySelectorAll(".above, .below, .tie")) {
      node.classList.remove("above", "below", "tie");
    }
    const rows = toRows(model.get("ranks"));
    if (target && "tie" in target) list.children[target.tie].classList.add("tie");
    else if (target) {
      const last = target.gap === rows.length;
      list.children[last ? target.gap - 1 : target.gap].classList.add(last ? "below" : "above");
    }
    drawResult(target ? moved(rows, drag.index, target) : rows, Boolean(target));
  }

  function startDrag(event, index, card) {
    // A finger drags by the grip only, so that it can still scroll the page on a card.
    if (event.button || (event.pointerType === "touch" && !event.target.matches(".grip"))) return;
    card.focus({ preventScroll: true });
    card.setPointerCapture(event.pointerId);
    drag = { index, card, startX: event.clientX, startY: event.clientY, target: null };
  }

  function moveDrag(event) {
    if (!drag) return;
    const [dx, dy] = [event.clientX - drag.startX, event.clientY - drag.startY];
    if (!drag.slot && Math.hypot(dx, dy) < 4) return; // a click
    if (!drag.slot) liftCard();
    const row = drag.slot.closest(".row").getBoundingClientRect();
    const left = Math.min(event.clientX - row.left - drag.holdX, row.width - drag.width);
    drag.card.style.left = `${Math.max(0, left)}px`;
    drag.card.style.top = `${event.clientY - row.top - drag.holdY}px`;
    drag.target = targetAt(event.clientX, event.clientY);
    showTarget(drag.target);
  }

  /** Take the card out of the layout; an empty slot of its size keeps the rows where they are. */
  function liftCard() {
    const { card, startX, startY } = drag;
    const box = card.getBoundingClientRect();
    drag.width = Math.min(box.width, WIDEST);
    drag.holdX = Math.min(startX - box.left, drag.width - 20);
    drag.holdY = startY - box.top;
    drag.slot = element("span", "slot");
    drag.slot.style.height = `${box.height}px`;
    card.before(drag.slot); // not card.after: moving the card itself would end its capture
    card.style.width = `${drag.width}px`;
    card.classList.add("dragging");
  }

  function endDrag(drop) {
    if (!drag) return;
    const { index, target } = drag;
    drag = null;
    if (drop && target) commit(moved(toRows(model.get("ranks")), index, target), index);
    else draw(index);
  }

  function makeCard(index, row, place, count) {
    const card = element("div", "card");
    card.tabIndex = 0;
    card.dataset.index = index;
    keepKeys(card);
    card.setAttribute("role", "option");
    card.setAttribute("aria-describedby", help.id);
    const others = row.filter((other) => other !== index).map(letter);
    const tie = others.length ? `, tied with ${others.join(" and ")}` : "";
    card.setAttribute(
      "aria-label",
      `Answer ${letter(index)}, place ${place + 1} of ${count}${tie}: ${responses[index]}`);
    const grip = element("span", "grip", "⠿");
    grip.setAttribute("aria-hidden", "true");
    card.append(
      grip, element("b", "letter", letter(index)), element("span", "text", responses[index]));
    card.addEventListener("keydown", (event) => onKey(event, index));
    card.addEventListener("pointerdown", (event) => startDrag(event, index, card));
    card.addEventListener("pointermove", moveDrag);
    card.addEventListener("pointerup", () => endDrag(true));
    card.addEventListener("pointercancel", () => endDrag(false));
    return card;
  }

  function makeRow(row, place, count) {
    const node = element("div", "row");
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", `Place ${place + 1} of ${count}`);
    const rank = element("div", "rank");
    const extreme = count === 1 ? "" : place === 0 ? "best" : place === count - 1 ? "worst" : "";
    const note = [extreme, row.length > 1 ? "tied" : ""].filter(Boolean).join(", ");
    rank.append(element("span", "number", String(place + 1)), element("span", "note", note));
    const cards = element("div", "cards");
    row.forEach((index, i) => {
      if (i) cards.append(element("span", "equals", "="));
      cards.append(makeCard(index, row, place, count));
    });
    node.append(rank, cards);
    return node;
  }

  /** The order in letters and the pairs in it; `preview` while a card is in the air. */
  function drawResult(rows, preview) {
    const pairs = rows.flatMap((row, place) =>
      row.flatMap((better) =>
        rows.slice(place + 1).flat().map((worse) => `${letter(better)} > ${letter(worse)}`)));
    const line = element("div", "line");
    line.append(
      element("span", "caption", preview ? "If dropped here" : "Your ranking"),
      element("code", "order", inWords(rows)));
    const list = element("div", "line");
    const count = pairs.length === 1 ? "1 pair" : `${pairs.length} pairs`;
    list.append(element("span", "caption", pairs.length ? count : "No pair"));
    const chips = element("span", "chips", pairs.length ? "" : "all tied: nothing to learn from");
    chips.append(...pairs.map((pair) => element("code", "chip", pair)));
    list.append(chips);
    result.replaceChildren(line, list);
    result.classList.toggle("preview", preview);
  }

  function draw(focus) {
    const before = new Map();
    for (const card of list.querySelectorAll(".card")) {
      before.set(card.dataset.index, card.getBoundingClientRect());
    }
    const rows = toRows(model.get("ranks"));
    list.replaceChildren(...rows.map((row, place) => makeRow(row, place, rows.length)));
    drawResult(rows, false);
    if (focus !== undefined) cardOf(focus)?.focus();
    slideFrom(before);
  }

  /** Let each card slide from where it was, so that the eye can follow it. */
  function slideFrom(before) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const card of list.querySelectorAll(".card")) {
      const old = before.get(card.dataset.index);
      const now = card.getBoundingClientRect();
      if (!old || (old.left === now.left && old.top === now.top)) continue;
      const from = `translate(${old.left - now.left}px, ${old.top - now.top}px)`;
      card.animate(
        [{ transform: from }, { transform: "none" }], { duration: 160, easing: "ease-out" });
    }
  }

  function onChange() {
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    drag = null;
    draw(focused?.dataset.index);
  }
  model.on("change:ranks", onChange);
  draw();
  return () => model.off("change:ranks", onChange);
}

export default { render };
