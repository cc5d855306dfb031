"use strict";
// Each finding is [id, kind, partner, evidence, decision]; a card shows the one of its number.
const held = JSON.parse(document.getElementById("data").textContent);
const place = `backbench audit ${held.key}`;
const cards = [...document.querySelectorAll("[data-i]")];
const cardOf = new Map(cards.map((card) => [Number(card.dataset.i), card]));
const written = held.findings.map((one) => one[4]);
const undoable = [];
let current = -1;

function kept() {
  try {
    return JSON.parse(localStorage.getItem(place)) || {};
  } catch {
    return {};
  }
}

// Beside the decision stands the one of the CSV at that time: where the CSV has another by now, it is the newer one.
function keep(i, word) {
  held.findings[i][4] = word;
  try {
    localStorage.setItem(place, JSON.stringify({ ...kept(), [i]: [word, written[i]] }));
  } catch {
    // Without storage, decisions last as long as the page is open.
  }
}

function show(i) {
  for (const button of cardOf.get(i).querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.word === held.findings[i][4]));
  }
}

function set(i, word) {
  keep(i, word);
  show(i);
  count();
}

function count() {
  const decided = held.findings.filter((one) => one[4]).length;
  document.getElementById("count").textContent = `${decided} of ${held.findings.length} decided`;
  document.getElementById("undo").disabled = !undoable.length;
}

function decide(card, word) {
  const i = Number(card.dataset.i);
  if (word && !card.querySelector(`[data-word="${word}"]`)) return;
  undoable.push([i, held.findings[i][4]]);
  set(i, word);
}

function undo() {
  if (!undoable.length) return;
  const [i, word] = undoable.pop();
  set(i, word);
  go(cards.indexOf(cardOf.get(i)));
}

function go(to) {
  if (!cards.length) return;
  current = Math.max(0, Math.min(cards.length - 1, to));
  cards[current].focus();
  cards[current].scrollIntoView({ block: "nearest" });
}

// As Python's csv writes it: fields in quotes only where they need it.
function field(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// Bytes of a name that are no UTF-8 come as lone surrogates from Python, and go back as the bytes that they were.
function encode(text) {
  const parts = [];
  for (const piece of text.split(/((?<![\ud800-\udbff])[\udc80-\udcff])/)) {
    const code = piece.charCodeAt(0);
    const byte = piece.length === 1 && code >= 0xdc80 && code <= 0xdcff;
    parts.push(byte ? new Uint8Array([code - 0xdc00]) : piece);
  }
  return new Blob(parts, { type: "text/csv" });
}

function save() {
  const lines = [["id", "kind", "partner", "evidence", "decision"], ...held.findings];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(encode(lines.map((line) => `${line.map(field).join(",")}\n`).join("")));
  link.download = held.csv;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

for (const [i, one] of Object.entries(kept())) {
  if (!cardOf.has(Number(i)) || !Array.isArray(one) || one[1] !== written[i]) continue;
  if (["", "right", "wrong", "same"].includes(one[0])) held.findings[i][4] = one[0];
}
cardOf.forEach((_, i) => show(i));
count();
document.getElementById("save").addEventListener("click", save);
document.getElementById("undo").addEventListener("click", undo);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-word]");
  if (!button) return;
  const card = button.closest("[data-i]");
  current = cards.indexOf(card);
  decide(card, button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.word);
});
document.addEventListener("focusin", (event) => {
  const card = event.target.closest("[data-i]");
  if (card) current = cards.indexOf(card);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const move = { j: 1, arrowdown: 1, arrowright: 1, k: -1, arrowup: -1, arrowleft: -1 }[key];
  const word = { r: "right", w: "wrong", s: "same" }[key];
  if (move) {
    event.preventDefault();
    go(current + move);
  } else if (event.repeat) {
    // A key that is held down decides on one finding, not on all that follow.
  } else if (key === "u") {
    undo();
  } else if (word && current >= 0) {
    decide(cards[current], word);
    go(current + 1);
  }
});

// A link to a group moves to its first card, so that the keys go on from there.
function enter() {
  const card = document.getElementById(location.hash.slice(1))?.querySelector("[data-i]");
  if (card) go(cards.indexOf(card));
}

window.addEventListener("hashchange", enter);
enter();
