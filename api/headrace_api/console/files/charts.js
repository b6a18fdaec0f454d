// Small charts of the last five minutes, one path per series.

import { byId, element, setText } from "./dom.js";
import { count, ms } from "./format.js";

const KEPT = 300;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 44;

const CHARTS = [
  {
    id: "tokens", title: "Tokens per second", series: ["tokens_per_s"],
    now: (point) => [count(point.tokens_per_s), "of the whole fleet"], peak: count,
  },
  {
    id: "ttft", title: "Time to first token", series: ["ttft_p50_ms", "ttft_p95_ms"],
    now: (point) => [ms(point.ttft_p50_ms), `p95 ${ms(point.ttft_p95_ms)}`], peak: ms,
  },
  {
    id: "itl", title: "Between tokens", series: ["itl_p50_ms", "itl_p95_ms"],
    now: (point) => [ms(point.itl_p50_ms), `p95 ${ms(point.itl_p95_ms)}`], peak: ms,
  },
  {
    id: "rate", title: "Requests per second", series: ["requests_per_s"],
    now: (point) => [count(point.requests_per_s), `${point.in_flight} in flight`], peak: count,
  },
];

let points = [];

export function restart(history) {
  points = history;
  draw();
}

export function add(point) {
  if (points.length && points[points.length - 1].at_ms >= point.at_ms) return;
  points = [...points, point].slice(-KEPT);
  draw();
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function build(chart) {
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  svg.append(shape("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
  const area = shape("path", { class: "area" });
  const lines = chart.series.map((_, index) => shape("path", { class: index ? "line second" : "line" }));
  svg.append(area, ...lines);
  const value = element("span");
  const beside = element("small");
  const peak = element("span.peak");
  const box = element("div.chart", { id: `chart-${chart.id}` },
    element("p", {}, element("span", {}, chart.title), peak), element("strong", {}, value, " ", beside), svg);
  byId("charts").append(box);
  return { ...chart, svg, area, lines, value, beside, peakText: peak };
}

const built = CHARTS.map(build);

function draw() {
  if (!points.length) return;
  const last = points[points.length - 1];
  for (const chart of built) {
    const values = chart.series.map((name) => points.map((point) => point[name]));
    const top = Math.max(...values.flat().filter((value) => value !== null), 0);
    const scale = top || 1;
    const x = (index) => WIDTH - ((points.length - 1 - index) * WIDTH) / (KEPT - 1);
    const y = (value) => HEIGHT - 1 - (value / scale) * (HEIGHT - 4);
    chart.lines.forEach((line, index) => line.setAttribute("d", path(values[index], x, y)));
    chart.area.setAttribute("d", areaOf(values[0], x, y));
    const [value, beside] = chart.now(last);
    setText(chart.value, value);
    setText(chart.beside, beside);
    const peak = top ? `peak ${chart.peak(top)}` : "";
    setText(chart.peakText, peak);
    chart.svg.setAttribute("aria-label", `${chart.title}, last five minutes: now ${value}, ${beside}${peak && `, ${peak}`}`);
  }
}

// Begins anew after each gap.
function path(values, x, y) {
  let before = null;
  return values.map((value, index) => {
    const step = value === null ? "" : `${before === null ? "M" : "L"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    before = value;
    return step;
  }).join("");
}

function areaOf(values, x, y) {
  let d = "";
  values.forEach((value, index) => {
    if (value === null) return;
    if (index === 0 || values[index - 1] === null) d += `M${x(index).toFixed(1)} ${HEIGHT}`;
    d += `L${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    if (index === values.length - 1 || values[index + 1] === null) d += `L${x(index).toFixed(1)} ${HEIGHT}Z`;
  });
  return d;
}
