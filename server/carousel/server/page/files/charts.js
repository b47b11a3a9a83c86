// Charts: SVG drawn here, no library.

import { short } from "./quantities.js";
import { el, svg } from "./dom.js";

const finite = (points) => points.filter((one) => Number.isFinite(one.x) && Number.isFinite(one.y));

function path(points, place) {
  return points
    .map(
      (one, i) =>
        `${i ? "L" : "M"}${place(one)
          .map((v) => v.toFixed(1))
          .join(" ")}`,
    )
    .join("");
}

// A line without axes that fills its box, from zero up; the first series has an area below.
export function sparkline(box, lines) {
  const [width, height] = [200, 34];
  box.setAttribute("viewBox", `0 0 ${width} ${height}`);
  box.setAttribute("preserveAspectRatio", "none");
  const all = finite(lines.flat());
  if (all.length < 2) return box.replaceChildren();
  const xs = all.map((one) => one.x);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const top = Math.max(...all.map((one) => one.y)) * 1.15 || 1;
  const place = (one) => [
    ((one.x - left) / (right - left || 1)) * width,
    height - 1 - (one.y / top) * (height - 4),
  ];
  const drawn = lines.flatMap((line, i) => {
    const points = finite(line);
    if (points.length < 2) return [];
    const d = path(points, place);
    const [begin, end] = [place(points[0])[0], place(points.at(-1))[0]];
    const area = svg("path", { class: "area", d: `${d}L${end} ${height}L${begin} ${height}Z` });
    const curve = svg("path", { class: `c${i}`, d });
    return i ? [curve] : [area, curve];
  });
  return box.replaceChildren(...drawn);
}

// Round numbers between two, about so many.
export function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1)
    found.push(i * step);
  return found;
}

function decades(low, high) {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const every = Math.max(1, Math.ceil((last - first) / 4));
  const found = [];
  for (let power = first; power <= last; power += every) found.push(10 ** power);
  return found.length > 1 ? found : [low, high];
}

// A chart with axes. `lines`: { name, points, class, dots }; `log`: the y axis is one of logarithms.
export function chart(title, lines, { log = false, zero = false, across = "updates" } = {}) {
  const head = el("h3", {}, title);
  const keys = lines.length > 1 ? lines : [];
  head.append(...keys.map((one) => el("span", { class: `key ${one.class}` }, one.name)));
  const all = lines.flatMap((one) => finite(one.points)).filter((one) => !log || one.y > 0);
  const box = svg("svg", { role: "img", "aria-label": describe(title, lines) });
  const made = el("div", { class: "chart" }, head, box);
  if (all.length) draw(box, lines, all, { log, zero, across });
  return made;
}

function describe(title, lines) {
  const said = lines.map((one) => {
    const last = finite(one.points).at(-1);
    return `${one.name || title} is ${last ? short(last.y) : "unknown"} at ${last ? short(last.x) : "–"}`;
  });
  return `${title}: ${said.join(", ")}`;
}

function draw(box, lines, all, { log, zero, across }) {
  const [width, height, margin, foot, top] = [340, 150, 38, 24, 8];
  box.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [xs, ys] = [all.map((one) => one.x), all.map((one) => one.y)];
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  let [low, high] = [zero ? 0 : Math.min(...ys), Math.max(...ys)];
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [zero ? 0 : low - 0.5, high + 0.5];
  const scale = log ? Math.log10 : (value) => value;
  const across01 = (x) => margin + ((x - left) / (right - left || 1)) * (width - margin - 6);
  const up01 = (y) =>
    height - foot - ((scale(y) - scale(low)) / (scale(high) - scale(low))) * (height - foot - top);
  const place = (one) => [across01(one.x), up01(one.y)];
  const grid = (log ? decades(low, high) : ticks(low, high, 4)).flatMap((value) => [
    svg("line", { class: "grid", x1: margin, x2: width - 6, y1: up01(value), y2: up01(value) }),
    svg("text", { x: margin - 6, y: up01(value) + 3.5, "text-anchor": "end" }, short(value)),
  ]);
  const below = [
    svg("text", { x: margin, y: height - 8 }, short(left)),
    svg("text", { x: width - 6, y: height - 8, "text-anchor": "end" }, `${short(right)} ${across}`),
  ];
  const curves = lines.flatMap((line) => {
    const points = finite(line.points).filter((one) => !log || one.y > 0);
    const drawn =
      points.length > 1 ? [svg("path", { class: line.class, d: path(points, place) })] : [];
    const marked = line.dots || points.length === 1 ? points : [];
    const dots = marked.map((one) => {
      const [cx, cy] = place(one);
      return svg("circle", { class: line.class, cx, cy, r: 2 });
    });
    return [...drawn, ...dots];
  });
  box.replaceChildren(...grid, ...below, ...curves);
}
