// The table, the theme and the origins of figures. Names are set as text, never as markup.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

// Makes an element with attributes and children, which are elements or text.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") for (const [key, css] of Object.entries(value)) element.style.setProperty(key, css);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Makes a button that shows the rows its text comes from.
function source(text, rows) {
  return rows.length ? make("button", { type: "button", class: "origin", "data-rows": rows.join(",") }, text) : text;
}

// --- theme ---
const THEMES = [["", "◐ auto", "as in the system settings"], ["light", "☀ light", "light"], ["dark", "☾ dark", "dark"]];
const redraws = []; // functions that redraw charts when colours change

function setTheme(name) {
  const [value, shown, description] = THEMES.find((theme) => theme[0] === name) || THEMES[0];
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = shown;
  $("theme").setAttribute("aria-label", `Colours: ${description}`);
  redraws.forEach((redraw) => redraw());
}

function remembered() {
  try { return localStorage.getItem("backbench-theme") || ""; } catch { return ""; }
}

$("theme").addEventListener("click", () => {
  const at = THEMES.findIndex((theme) => theme[0] === (document.documentElement.dataset.theme || ""));
  const next = THEMES[(at + 1) % THEMES.length][0];
  setTheme(next);
  try { localStorage.setItem("backbench-theme", next); } catch { /* some browsers store nothing for local files */ }
});
setTheme(remembered());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((redraw) => redraw()));

// --- the table is sorted by any column, with lines without a value last, and filtered by words ---
const table = $("study");
const lines = [...table.tBodies[0].rows].map((row, at) => ({
  row, at, text: `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase(),
}));

function worth(cell) {
  const text = cell.dataset.v ?? (cell.cellIndex < 2 ? cell.textContent : "");
  return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(head) {
  const column = head.cellIndex;
  // A first click on figures puts the highest on top; on seconds, names and groups the lowest.
  const up = /%/.test(head.textContent) ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === up ? (up === "ascending" ? "descending" : "ascending") : up;
  table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  const keyed = lines.map((line) => [worth(line.row.cells[column]), line]);
  keyed.sort(([a, one], [b, other]) => {
    if (a === null || b === null) return (a === null) - (b === null) || one.at - other.at;
    return (order === "ascending" ? 1 : -1) * compare(a, b) || one.at - other.at;
  });
  table.tBodies[0].append(...keyed.map(([, line]) => line.row));
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const line of lines) {
    const fits = words.every((word) => line.text.includes(word));
    line.row.toggleAttribute("data-off", !fits);
    shown += fits;
  }
  $("count").textContent = `${shown.toLocaleString("en")} of ${lines.length.toLocaleString("en")} lines`;
}

function showSet() {
  const wanted = $("shown").value;
  table.querySelectorAll("[data-set]").forEach((cell) => cell.toggleAttribute("data-off", wanted !== "" && cell.dataset.set !== wanted));
}

table.tHead.addEventListener("click", (event) => {
  const button = event.target.closest(".sort");
  if (button) sortBy(button.closest("th"));
});
$("filter").addEventListener("input", filter);
if ($("shown")) $("shown").addEventListener("change", showSet);
filter();

// --- origin: the rows behind a figure ---
const FIRST = ["command", "created", "device", "seconds", "stage", "dataset", "model", "method", "seed", "shots"];

function listed(entries) {
  const list = make("dl");
  for (const [name, value] of entries) {
    const shown = value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);
    list.append(make("dt", {}, name), make("dd", {}, name === "command" ? make("code", {}, shown) : shown));
  }
  return list;
}

function details(row) {
  const { features, protocol, versions, ...rest } = row;
  const figures = Object.entries(rest).filter(([name]) => !FIRST.includes(name) && name !== "schema");
  const folded = (title, entries, open) => entries.length
    ? make("details", { open }, make("summary", {}, title), listed(entries)) : null;
  return make("article", {},
    listed(FIRST.filter((name) => name in rest).map((name) => [name, rest[name]])),
    folded("Identity of the features", Object.entries(DATA.features[features] || {}), true),
    folded("Versions", Object.entries(versions || {}), true),
    folded("Figures", figures, false),
    folded("Protocol", Object.entries(protocol || {}), false));
}

function origin(rows) {
  if (!rows.length) return;
  $("origin-title").textContent = rows.length > 1 ? `Origin of this figure: ${rows.length} rows` : "Origin of this figure";
  $("origin-body").replaceChildren(...rows.map((at) => details(DATA.rows[at])));
  $("origin").showModal();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.origin");
  if (button) origin(button.dataset.rows.split(",").map(Number));
  if (event.target === $("origin")) $("origin").close(); // on the backdrop
});

// --- report serve: reload when there is a newer page ---
if ("served" in document.documentElement.dataset) {
  let seen = null;
  setInterval(async () => {
    try {
      const state = await (await fetch("/state")).text();
      if (seen !== null && state !== seen) location.reload();
      seen = state;
    } catch { /* the server has stopped */ }
  }, 2000);
}
