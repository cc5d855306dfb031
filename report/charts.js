// Charts by plotly, from the neutral form of report/charts.py. Points can be clicked and are listed in a table below.
"use strict";
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#999933"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon"];
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

// plotly interprets a few tags in text, so names are escaped.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// Returns one of the page's colours as plotly takes it, for the current theme.
function colour(name) {
  const probe = make("i", { style: { color: `var(--${name})` } });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function layout(more = {}) {
  const [fg, line, bg] = ["fg", "line", "bg"].map(colour);
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: fg, family: "system-ui, sans-serif" },
    margin: { l: 60, r: 20, t: 20, b: 50 }, hovermode: "closest", legend: { orientation: "h", x: 0, y: 1.03, yanchor: "bottom" },
    hoverlabel: { bgcolor: bg, bordercolor: line, font: { color: fg }, align: "left" },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const figure = (value) => value === null || value === undefined ? "" : String(Number(Number(value).toPrecision(5)));

function interval(point, name = "") {
  const [low, high] = [point[`${name}low`], point[`${name}high`]];
  return low === undefined || low === null ? "" : ` [${low.toFixed(1)}, ${high.toFixed(1)}]`;
}

// Returns the distances to the ends of intervals, as plotly draws them.
function bars(points, at, name = "") {
  if (!points.some((point) => typeof point[`${name}low`] === "number")) return undefined;
  const to = (end, sign) => points.map((point) => point[`${name}${end}`] === null ? 0 : sign * (point[`${name}${end}`] - point[at]));
  return { type: "data", symmetric: false, array: to("high", 1), arrayminus: to("low", -1), thickness: 1, width: 3 };
}

function hover(chart, series, point) {
  const x = chart.ticks ? "" : `<br>${plain(chart.x)}: ${figure(point.x)}${interval(point, "x_")}`;
  return `<b>${plain(point.label)}</b><br>${plain(series.name)}<br>${plain(chart.y)}: ${figure(point.y)}${interval(point)}${x}`;
}

// Chooses where each point's name stands beside its marker: the first of six places where it overlaps no other name or
// marker, as estimated before plotly draws. The place is undefined where there is none.
function places(chart, points, width) {
  const size = { x: width - 100, y: 220 };
  const scale = (at, name) => {
    const to = chart.probit ? probit : chart.log && at === "x" ? Math.log10 : (value) => value;
    const ends = points.flatMap((point) => [point[at], point[`${name}low`], point[`${name}high`]]).filter((value) => typeof value === "number").map(to);
    const low = Math.min(...ends);
    return (point) => ((to(point[at]) - low) / (Math.max(...ends) - low || 1)) * size[at];
  };
  const [x, y] = [scale("x", "x_"), scale("y", "")];
  const taken = points.map((point) => ({ left: x(point) - 5, right: x(point) + 5, low: y(point) - 5, high: y(point) + 5 }));
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.low < b.high && b.low < a.high;
  return new Map(points.map((point) => {
    const wide = 6.2 * String(point.label).length;
    const place = ["top right", "bottom right", "top left", "bottom left", "top center", "bottom center"].find((where) => {
      const left = x(point) + { right: 6, left: -6 - wide, center: -wide / 2 }[where.split(" ")[1]];
      const low = y(point) + (where.startsWith("top") ? 3 : -16);
      const box = { left, right: left + wide, low, high: low + 13 };
      if (left < -20 || box.right > size.x + 40 || taken.some((other) => meet(box, other))) return false;
      return taken.push(box);
    });
    return [point, place];
  }));
}

const SHOWN = 8; // number of series visible at first; the others can be switched on in the legend

// Returns ticks 1, 2, 5, 10, ... for less than three decades, where plotly's own labels leave out the power.
function steps(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.log10(high) + 1; power += 1) found.push(...[1, 2, 5].map((n) => n * 10 ** power));
  return { tickvals: found, ticktext: found.map((value) => Number(value.toPrecision(1)).toLocaleString("en")) };
}

function trace(chart, series, at, names) {
  const points = series.points;
  const named = names && series.mode === "markers" && points.length <= 14;
  const shift = (at - (chart.series.length - 1) / 2) * (0.7 / Math.max(chart.series.length, 3));
  const values = { x: points.map((point) => point.x), y: points.map((point) => point.y) };
  const errors = { error_y: bars(points, "y"), error_x: bars(points, "x", "x_") };
  const turned = chart.ticks ? { // backbones down, accuracy across
    x: values.y, y: values.x.map((x) => x + shift), error_x: errors.error_y, error_y: undefined,
  } : {};
  return {
    type: "scatter", mode: series.mode + (named ? "+text" : ""), name: plain(series.name), ...values, ...errors, ...turned,
    text: named ? points.map((point) => names.get(point) ? plain(point.label) : "") : undefined,
    textposition: named ? points.map((point) => names.get(point) || "top right") : undefined, textfont: { size: 11 },
    hoverinfo: "text", hovertext: points.map((point) => hover(chart, series, point)), customdata: points.map((point) => point.rows),
    line: { dash: series.mode === "lines" ? "dot" : DASHES[Math.floor(at / PALETTE.length) % DASHES.length], width: series.mode === "lines" ? 1.5 : 2 },
    marker: { size: 8, color: PALETTE[at % PALETTE.length], symbol: SYMBOLS[at % SYMBOLS.length] },
    visible: at < SHOWN || chart.ticks ? true : "legendonly",
  };
}

// Returns the normal quantile of a share in percent, accurate to 0.0005: M. Abramowitz & I. Stegun (1964), 26.2.23.
function probit(percent) {
  const share = Math.min(Math.max(percent / 100, 5e-4), 1 - 5e-4), tail = Math.min(share, 1 - share);
  const t = Math.sqrt(-2 * Math.log(tail));
  const z = t - (2.515517 + 0.802853 * t + 0.010328 * t * t) / (1 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t ** 3);
  return share < 0.5 ? -z : z;
}

// Returns the ticks of charts.probit_ticks for the points and the ends of their intervals.
function probitTicks(chart, at, name) {
  const ends = chart.series.flatMap((series) => series.points.flatMap((point) => [point[at], point[`${name}low`], point[`${name}high`]]))
    .filter((value) => typeof value === "number");
  const [low, high] = [Math.min(...ends) - 1, Math.max(...ends) + 1];
  const step = [1, 2, 5, 10].find((one) => high - low <= 8 * one) || 20;
  const all = new Set([...Array(Math.ceil(100 / step) - 1).keys()].map((i) => (i + 1) * step).concat(step > 2 ? [1, 2, 5, 95, 98, 99] : []));
  const shown = [...all].filter((tick) => tick >= low && tick <= high);
  return { tickvals: shown.map(probit), ticktext: shown.map(String), zeroline: false };
}

// Moves a trace's points and the ends of their intervals to probit axes.
function onProbit(drawn, points) {
  const to = (at, name) => ({
    type: "data", symmetric: false, thickness: 1, width: 3,
    array: points.map((point) => typeof point[`${name}high`] === "number" ? probit(point[`${name}high`]) - probit(point[at]) : 0),
    arrayminus: points.map((point) => typeof point[`${name}low`] === "number" ? probit(point[at]) - probit(point[`${name}low`]) : 0),
  });
  const bare = drawn.mode === "lines";
  return {
    ...drawn, x: drawn.x.map(probit), y: drawn.y.map(probit),
    error_x: bare ? undefined : to("x", "x_"), error_y: bare ? undefined : to("y", ""),
  };
}

function drawChart(chart, box) {
  const ends = chart.series.flatMap((series) => series.points.map((point) => point.x)).filter((x) => x > 0);
  const decades = ends.length ? Math.log10(Math.max(...ends) / Math.min(...ends)) : 0;
  const down = chart.ticks && { tickvals: chart.ticks.map((_, i) => i), ticktext: chart.ticks.map(plain), autorange: "reversed" };
  const height = chart.ticks ? Math.max(352, 130 + 36 * chart.ticks.length) : 352 + 12 * Math.max(0, chart.series.length - 4);
  const axes = chart.ticks
    ? { xaxis: { title: { text: plain(chart.y) } }, yaxis: down }
    : {
      xaxis: { title: { text: plain(chart.x) }, type: chart.log ? "log" : "linear", ...(chart.log && decades < 3 ? steps(Math.min(...ends), Math.max(...ends)) : {}) },
      yaxis: { title: { text: plain(chart.y) } },
    };
  if (chart.probit) {
    Object.assign(axes.xaxis, probitTicks(chart, "x", "x_"));
    Object.assign(axes.yaxis, probitTicks(chart, "y", ""));
  }
  const only = chart.series.length === 1 || chart.kind === "cost";
  const marked = chart.series.filter((series) => series.mode === "markers").flatMap((series) => series.points);
  const names = chart.named && innerWidth > 600 ? places(chart, marked, box.clientWidth) : null;
  const draw = (series, at) => {
    const drawn = trace(chart, series, at, names);
    return chart.probit ? onProbit(drawn, series.points) : drawn;
  };
  Plotly.react(box, chart.series.map(draw), layout({ ...axes, height, showlegend: !only }), CONFIG);
  box.removeAllListeners?.("plotly_click");
  box.on("plotly_click", (event) => origin(event.points[0].customdata || []));
}

// The same figures as text, each with its origin.
function figuresTable(chart) {
  const head = ["series", "", chart.ticks ? null : chart.x, chart.y].filter((name) => name !== null);
  const body = chart.series.flatMap((series) => series.points.map((point) => make("tr", {},
    make("td", { class: "left" }, series.name), make("td", { class: "left" }, point.label),
    ...(chart.ticks ? [] : [make("td", {}, figure(point.x))]),
    make("td", {}, source(`${figure(point.y)}${interval(point)}`, point.rows)))));
  const cells = head.map((name) => name === "" ? make("td") : make("th", { scope: "col", class: "left" }, name));
  return make("table", {}, make("thead", {}, make("tr", {}, ...cells)), make("tbody", {}, ...body));
}

function setUp(box) {
  const kind = box.dataset.kind;
  const charts = DATA.charts.filter((chart) => chart.kind === kind);
  const choice = document.querySelector(`select[data-kind="${kind}"]`);
  const details = document.querySelector(`.figures[data-kind="${kind}"]`);
  const chosen = () => charts.find((chart) => choice && chart.id === choice.value) || charts[0];
  const fill = () => { if (details.open) details.querySelector(".scroll").replaceChildren(figuresTable(chosen())); };
  let drawn = false;
  const draw = () => { drawn = true; drawChart(chosen(), box); };
  choice?.addEventListener("change", () => {
    draw();
    fill();
    box.parentElement.querySelector("figcaption").textContent = chosen().caption;
  });
  details.addEventListener("toggle", fill);
  redraws.push(() => { if (drawn) draw(); });
  return () => { if (!drawn) draw(); };
}

// Draws a chart when it comes near the window, and all charts before printing.
function whenNear(box, draw) {
  const watch = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { watch.disconnect(); draw(); }
  }, { rootMargin: "600px" });
  watch.observe(box);
  addEventListener("beforeprint", draw);
}

document.querySelectorAll(".plot[data-kind]").forEach((box) => whenNear(box, setUp(box)));
