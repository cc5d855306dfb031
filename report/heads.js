// One head: classes, confusions, calibration, its most confident errors, and the map of its features.
"use strict";
const NONE = 65535;
const SPLITS = ["train", "val", "test"];
const percent = (share) => share === null ? "–" : (100 * share).toFixed(1);

function panel(title, ...children) {
  return make("section", { class: "panel" }, make("h3", {}, title), ...children);
}

function scroller(name, ...children) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name, style: { "max-height": "24rem" } }, ...children);
}

function heads(...names) {
  return make("thead", {}, make("tr", {}, ...names.map((name, i) => name
    ? make("th", { scope: "col", class: i ? null : "left" }, name) : make("td"))));
}

function classes(head) {
  const body = head.classes.map(([name, n, accuracy, low, high]) => make("tr", {},
    make("th", { scope: "row" }, name),
    make("td", {}, make("span", { class: "bar", "aria-hidden": "true" }, make("i", { style: { width: `${100 * accuracy}%` } }))),
    make("td", {}, `${percent(accuracy)} [${percent(low)}, ${percent(high)}]`), make("td", {}, String(n))));
  return panel("Accuracy by class, worst first",
    scroller("Accuracy by class", make("table", {}, heads("class", "", "accuracy %", "images"), make("tbody", {}, ...body))));
}

function matrix(head) {
  const { names, counts } = head.matrix;
  if (!names.length) return panel("Confusions", make("p", {}, "There are no errors on the test images."));
  const body = counts.map((line, i) => {
    const all = line.reduce((a, b) => a + b, 0) || 1;
    return make("tr", {}, make("th", { scope: "row" }, names[i]),
      ...line.map((n) => make("td", { style: { "--share": n / all } }, n ? String(n) : "")));
  });
  const caption = "Rows are the classes with most errors. Columns are the classes predicted for their test images.";
  return panel("Confusions of the worst classes", make("p", { class: "notes" }, caption),
    scroller("Confusions", make("table", { class: "matrix" }, heads("", ...names, "all others"), make("tbody", {}, ...body))));
}

function calibration(head) {
  if (!head.bins) return null;
  const { ece, ece_scaled: scaled, nll, nll_scaled: after, temperature } = head.calibration;
  const box = make("div", { class: "plot", role: "group", "aria-label": "Reliability diagram: accuracy against confidence" });
  const draw = () => {
    const lines = [["unscaled", head.bins.before, PALETTE[1]], ["with temperature", head.bins.after, PALETTE[0]]].map(([name, bins, color]) => {
      const filled = bins.n.map((n, i) => i).filter((i) => bins.n[i]);
      return {
        type: "scatter", mode: "lines+markers", name, x: filled.map((i) => bins.confidence[i]), y: filled.map((i) => bins.accuracy[i]),
        marker: { color, size: filled.map((i) => 5 + 9 * Math.sqrt(bins.n[i] / head.n)) }, line: { color },
        hoverinfo: "text", hovertext: filled.map((i) => `${name}<br>${bins.n[i]} images<br>confidence ${percent(bins.confidence[i])} %, accuracy ${percent(bins.accuracy[i])} %`),
      };
    });
    const ideal = { type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], line: { dash: "dot", color: colour("soft") }, hoverinfo: "skip", showlegend: false };
    const axis = (text) => ({ title: { text }, range: [0, 1.03] });
    Plotly.react(box, [ideal, ...lines], layout({ height: 352, xaxis: axis("confidence"), yaxis: axis("accuracy") }), CONFIG);
  };
  const text = ece === null ? "" : `Unscaled, ECE is ${percent(ece)} % and NLL ${figure(nll)} nats. With temperature ${figure(temperature)}, ECE is ${percent(scaled)} % and NLL ${figure(after)} nats.`;
  return { element: panel("Calibration", box, make("p", { class: "notes" }, text)), draw };
}

function sets(head) {
  if (!head.sets.length) return null;
  const body = head.sets.map(([name, coverage, size]) => make("tr", {},
    make("th", { scope: "row" }, name), make("td", { style: { "text-align": "right" } }, coverage), make("td", {}, size)));
  return panel("Prediction sets",
    scroller("Prediction sets", make("table", {}, heads("sets", "coverage %", "mean size"), make("tbody", {}, ...body))),
    make("p", { class: "notes" }, `How often the set of a test image holds its class, and how many classes it holds on average. ${head.least}`));
}

function gallery(head) {
  const shown = DATA.pictures[head.dataset] || { uris: [], names: [] };
  const items = head.wrong.map((wrong) => make("li", {},
    wrong.picture !== NONE && shown.uris[wrong.picture]
      ? make("img", { src: shown.uris[wrong.picture], alt: `${wrong.is}, predicted as ${wrong.said}`, title: wrong.id, loading: "lazy" })
      : make("span", { class: "none" }),
    make("strong", {}, wrong.said), ` ${percent(wrong.sure)} %`, make("br"), `is ${wrong.is}`));
  const note = make("p", { class: "notes" }, "The predicted class is in bold, with the head's confidence after temperature scaling. The true class is below it.");
  const section = panel("Most confident errors", ...(head.why ? [make("p", {}, head.why)] : [note, make("ul", { class: "gallery" }, ...items)]));
  section.classList.add("wide");
  return section;
}

// --- the map ---
function numbers(base64, Kind) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function classColour(label, count) {
  return count <= PALETTE.length ? PALETTE[label] : `hsl(${(label * 137.508) % 360}, ${60 + 15 * (label % 3)}%, ${50 + 6 * (label % 2)}%)`;
}

function tip(map, at, place) {
  const shown = DATA.pictures[map.dataset];
  const picture = map.pictures[at];
  const there = shown && picture !== NONE;
  $("tip").replaceChildren(
    ...(there ? [make("img", { src: shown.uris[picture], alt: "" })] : []),
    make("strong", {}, map.classes[map.labels[at]]), ` (${SPLITS[map.split[at]]})`,
    ...(there ? [make("br"), shown.names[picture]] : []));
  $("tip").hidden = false;
  const box = $("tip").getBoundingClientRect();
  $("tip").style.left = `${Math.max(4, Math.min(place.x + 14, innerWidth - box.width - 8))}px`;
  $("tip").style.top = `${Math.max(4, Math.min(place.y + 14, innerHeight - box.height - 8))}px`;
}

function unpack(head) {
  const map = DATA.maps[head.map];
  if (!map.unpacked) {
    Object.assign(map, {
      unpacked: true, dataset: head.dataset, x: numbers(map.x, Uint16Array), y: numbers(map.y, Uint16Array),
      labels: numbers(map.labels, Uint16Array), split: numbers(map.split, Uint8Array), pictures: numbers(map.pictures, Uint16Array),
    });
    map.illustrated = [...map.pictures.keys()].filter((i) => map.pictures[i] !== NONE);
  }
  return map;
}

function mapPanel(head) {
  if (head.map === null || head.map === undefined) return null;
  const map = unpack(head);
  const box = make("div", { class: "plot map", tabindex: "0", role: "application", "aria-label": "Map of the features. Arrow keys go from image to image." });
  const only = make("select", {}, make("option", { value: "" }, "all"), ...map.classes.map((name, i) => make("option", { value: i }, name)));
  const colours = () => {
    const faint = colour("line");
    return Array.from(map.labels, (label) => only.value === "" || Number(only.value) === label ? classColour(label, map.classes.length) : faint);
  };
  const draw = () => {
    const points = { type: "scattergl", mode: "markers", x: map.x, y: map.y, hoverinfo: "none", marker: { size: map.n > 5000 ? 3 : 6, opacity: map.n > 5000 ? 0.6 : 0.8, color: colours() } };
    const bare = { showticklabels: false, zeroline: false };
    Plotly.react(box, [points], layout({ xaxis: bare, yaxis: bare, showlegend: false, margin: { l: 10, r: 10, t: 10, b: 10 }, dragmode: "pan" }), { ...CONFIG, scrollZoom: false });
    box.removeAllListeners?.("plotly_hover");
    box.removeAllListeners?.("plotly_unhover");
    box.on("plotly_hover", (event) => tip(map, event.points[0].pointNumber, { x: event.event.clientX, y: event.event.clientY }));
    box.on("plotly_unhover", () => { $("tip").hidden = true; });
  };
  only.addEventListener("change", () => Plotly.restyle(box, { "marker.color": [colours()] }));
  keys(box, map);
  const some = map.n < map.of ? `${map.n.toLocaleString("en")} of ${map.of.toLocaleString("en")}` : map.n.toLocaleString("en");
  const note = `${map.how}. The map shows ${some} images, ${map.illustrated.length.toLocaleString("en")} of them with a thumbnail. Point at one, or go through them with the arrow keys.`;
  const section = panel("Map of the features", make("div", { class: "tools" }, make("label", {}, "Class ", only)), box, make("p", { class: "notes" }, note));
  section.classList.add("wide");
  return { element: section, draw };
}

// Lets the arrow keys go from image to image, with the tip at the image's point.
function keys(box, map) {
  let at = -1;
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !map.illustrated.length) return;
    event.preventDefault();
    at = (at + step + map.illustrated.length) % map.illustrated.length;
    const point = map.illustrated[at];
    const { xaxis, yaxis } = box._fullLayout;
    const corner = box.getBoundingClientRect();
    tip(map, point, { x: corner.left + xaxis._offset + xaxis.d2p(map.x[point]), y: corner.top + yaxis._offset + yaxis.d2p(map.y[point]) });
  });
  box.addEventListener("blur", () => { $("tip").hidden = true; });
}

// --- which head ---
let parts = [];

function showHead() {
  const head = DATA.heads[Number($("head").value)];
  const [reliability, map] = [calibration(head), mapPanel(head)];
  parts = [reliability, map].filter(Boolean);
  const top = make("p", { class: "wide" }, `${head.model}, ${head.method} on ${head.dataset}: `, source(`top-1 ${head.top1} %`, [head.row]), ` of ${head.n.toLocaleString("en")} test images`);
  $("head-view").querySelectorAll(".plot").forEach((box) => Plotly.purge(box));
  $("head-view").replaceChildren(...[top, gallery(head), map?.element, classes(head), matrix(head), reliability?.element, sets(head)].filter(Boolean));
  drawn = false;
  if (near) drawParts();
}

function fillHeads() {
  const options = DATA.heads.map((head, i) => [head, i]).filter(([head]) => head.dataset === $("head-set").value);
  $("head").replaceChildren(...options.map(([head, i]) => make("option", { value: i }, `${head.model}, ${head.method}`)));
  showHead();
}

let [near, drawn] = [false, false];
function drawParts() {
  near = true;
  if (!drawn) parts.forEach((part) => part.draw());
  drawn = true;
}

if ($("head")) {
  $("head-set").append(...[...new Set(DATA.heads.map((head) => head.dataset))].map((name) => make("option", { value: name }, name)));
  $("head-set").addEventListener("change", fillHeads);
  $("head").addEventListener("change", showHead);
  fillHeads();
  whenNear($("head-view"), drawParts);
  redraws.push(() => { if (drawn) parts.forEach((part) => part.draw()); });
}
