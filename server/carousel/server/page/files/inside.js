// The inside of a session: what its gates did in its latest steps, one column a step.

import { $, el, picture, say } from "./dom.js";
import { accent, scale } from "./colours.js";
import { count, figure, percent, shortName, word } from "./quantities.js";
import { GATES } from "./rates.js";

const COLUMNS = 128; // steps; the latest stands at the right
const MOST_NATS = 8;
const SIGNS = { " ": " ", "\n": "↵", "\t": "→" };

let shown = null; // what was inspected last
let cursor = null; // a column, and null for the latest
let focus = { layer: 0, name: "" }; // the gate that is told of; at first the first
const peaks = new Map(); // by band: the largest value so far, so that colours do not flicker

export function showInside(found) {
  if (shown?.session.name !== found.session.name) {
    cursor = null;
    focus = { layer: 0, name: "" };
    peaks.clear();
    $("inside-map").replaceChildren();
  }
  shown = found;
  const session = found.session;
  say($("inside-title"), shortName(session.name));
  const state = word(session.state, "SESSION_STATE_");
  say(
    $("inside-facts"),
    `${shortName(session.model_version)}, ${state}, ${count(Number(session.step_index))} steps`,
  );
  const note = $("inside-note");
  note.hidden = found.steps > 0;
  say(
    note,
    found.watch_expire_time
      ? "It is watched now; its next steps will show."
      : "Its state is not in memory.",
  );
  const map = $("inside-map");
  map.hidden = false;
  if (!map.children.length) map.append(...frame(found));
  draw(map, found);
}

export function showNothingInside(why = "Choose a session to see what its gates do as it steps.") {
  shown = null;
  say($("inside-title"), "Inside a session");
  say($("inside-facts"), "");
  say($("inside-note"), why);
  $("inside-note").hidden = false;
  $("inside-map").hidden = true;
  $("inside-map").replaceChildren();
}

// The parts that stay while the session steps.
function frame(found) {
  const line = el("div", { class: "cursor", hidden: "" });
  const map = el(
    "div",
    {
      class: "map",
      tabindex: 0,
      role: "group",
      "aria-label":
        "Gates by step. Left and right move through the steps, up and down through the gates.",
    },
    line,
  );
  map.append(el("div", { class: "bands" }));
  map.addEventListener("pointermove", (event) => point(map, event));
  map.addEventListener("pointerleave", () => move(null));
  map.addEventListener("keydown", press);
  const legend = el(
    "p",
    { class: "legend" },
    ramp("gate", "a gate, shut to open"),
    ramp("signed", "below to above zero"),
  );
  return [
    el("p", { class: "read mono" }),
    map,
    el("p", { class: "readout", "aria-live": "polite" }),
    legend,
  ];
}

function ramp(kind, text) {
  const canvas = el("canvas", { width: 64, height: 1, "aria-hidden": "true" });
  const colour = scale(kind, 0, 63);
  paint(canvas, 64, 1, (x) => colour(x));
  return el("span", {}, canvas, text);
}

function draw(map, found) {
  const bands = map.querySelector(".bands");
  const parts = [...strip(found), ...found.layers.map(layer)];
  bands.replaceChildren(...parts);
  read(map.querySelector(".read"), found);
  tell();
}

function layer(one, number) {
  const facts = [`|h| ${figure(one.hidden_norm)}`];
  if (one.cell_norm !== undefined) facts.push(`|c| ${figure(one.cell_norm)}`);
  facts.push(`${percent(one.saturated_ratio)} of the units saturated`);
  if (one.memory_horizon_steps !== undefined)
    facts.push(`remembers ${figure(one.memory_horizon_steps)} steps`);
  const head = el("h3", {}, `Layer ${number}`, ...facts.map((text) => el("span", {}, text)));
  const bands = one.gates.map((gate) => band(number, gate));
  return el("div", { class: "layer" }, head, ...bands);
}

// One gate: a column a step, a row for each group of units.
function band(number, gate) {
  const { values, groups } = unpack(gate);
  const open = GATES.includes(gate.name);
  const key = `${number} ${gate.name}`;
  const peak = Math.max(peaks.get(key) ?? 1e-6, ...values.map(Math.abs));
  if (!open) peaks.set(key, peak);
  const [low, high] = open ? [0, 1] : [-peak, peak];
  const last = gate.means.at(-1) ?? NaN;
  const canvas = picture(
    COLUMNS,
    groups,
    `${gate.name} of layer ${number}, mean now ${figure(last)}`,
  );
  Object.assign(canvas.dataset, { layer: number, gate: gate.name, low, high, last });
  const steps = gate.means.length;
  const colour = scale(open ? "gate" : "signed", low, high);
  paint(canvas, COLUMNS, groups, (x, y) => {
    const step = x - (COLUMNS - steps);
    return step < 0 ? null : colour(values[step * groups + y]);
  });
  return el(
    "div",
    { class: "band" },
    el("span", {}, gate.name),
    canvas,
    el("span", {}, number2(last)),
  );
}

const number2 = (value) =>
  Number.isFinite(value) ? value.toFixed(2).replace("-0.00", "0.00").replace("-", "−") : "–";

function unpack(gate) {
  if (!gate.units) return { values: gate.means, groups: 1 };
  const bytes = Uint8Array.from(atob(gate.units.data), (letter) => letter.charCodeAt(0));
  return { values: [...new Float32Array(bytes.buffer)], groups: Number(gate.units.shape[1]) };
}

// How unexpected each step was.
function strip(found) {
  const nats = found.surprises_nats.map(Number);
  if (!nats.length) return [];
  const height = 22;
  const [red, offset] = [accent(), COLUMNS - nats.length];
  const canvas = picture(COLUMNS, height, `surprise, now ${figure(nats.at(-1))} nats`);
  canvas.dataset.gate = "surprise";
  paint(canvas, COLUMNS, height, (x, y) =>
    (height - y) / height <= (nats[x - offset] ?? 0) / MOST_NATS ? red : null,
  );
  const row = [el("span", {}, "surprise"), canvas, el("span", {}, number2(nats.at(-1)))];
  return [el("div", { class: "band strip" }, ...row)];
}

function paint(canvas, width, height, colour) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const found = colour(x, y);
      if (found) image.data.set([...found, 255], 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
}

const signs = (text) => [...text].map((letter) => SIGNS[letter] ?? letter).join("");

// The text that was read, the unexpected in colour.
function read(place, found) {
  place.hidden = !found.texts.length;
  const nats = found.surprises_nats.map(Number);
  place.replaceChildren(
    ...found.texts.map((text, i) => {
      const made = el("span", {}, signs(text));
      const weight = Math.min(1, (nats[i] || 0) / MOST_NATS);
      if (weight > 0.05)
        made.style.backgroundColor = `rgb(var(--surprise) / ${(weight * 0.6).toFixed(2)})`;
      return made;
    }),
  );
}

function point(map, event) {
  const canvas = map.querySelector("canvas");
  if (!canvas) return;
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * COLUMNS);
  const target = event.target.closest(".band")?.querySelector("canvas");
  if (target?.dataset.layer)
    focus = { layer: Number(target.dataset.layer), name: target.dataset.gate };
  move(column >= 0 && column < COLUMNS ? column : null);
}

function press(event) {
  const first = COLUMNS - (shown?.steps ?? 0);
  const from = cursor ?? COLUMNS - 1;
  const step = { ArrowLeft: -1, ArrowRight: 1, Home: -COLUMNS, End: COLUMNS }[event.key];
  const gate = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (step) move(Math.min(COLUMNS - 1, Math.max(first, from + step)));
  else if (gate) {
    turn(gate);
    tell();
  } else if (event.key === "Escape") move(null);
  else return;
  event.preventDefault();
}

// To the next gate, or the one before, through all layers.
function turn(by) {
  const all = shown.layers.flatMap((one, number) =>
    one.gates.map((gate) => ({ layer: number, name: gate.name })),
  );
  const at = Math.max(
    0,
    all.findIndex((one) => one.layer === focus.layer && one.name === focus.name),
  );
  focus = all[(at + by + all.length) % all.length] ?? focus;
}

function move(column) {
  cursor = column;
  tell();
}

// What stands under the cursor, or the latest.
function tell() {
  const map = $("inside-map");
  if (!shown?.steps) return say(map.querySelector(".readout"), "");
  const place = Math.max(0, shown.steps - COLUMNS + (cursor ?? COLUMNS - 1));
  const layer = shown.layers[focus.layer];
  const gate = layer.gates.find((one) => one.name === focus.name) ?? layer.gates[0];
  const said = [`Step ${count(Number(shown.first_step) + place)}`];
  const text = shown.texts[place];
  if (text !== undefined) said.push(`read “${signs(text)}”`);
  else if (place in shown.tokens) said.push(`read token ${shown.tokens[place]}`);
  const nats = Number(shown.surprises_nats[place]);
  if (Number.isFinite(nats)) said.push(`surprise ${figure(nats)} nats`);
  said.push(`layer ${focus.layer} ${gate.name} ${number2(gate.means[place])}`);
  const flat = gate.saturated_ratios[place];
  if (flat !== undefined) said.push(`${percent(flat)} saturated`);
  say(map.querySelector(".readout"), said.join("  ·  "));
  mark(map, place);
}

function mark(map, place) {
  const line = map.querySelector(".cursor");
  line.hidden = cursor === null;
  [...map.querySelectorAll(".read span")].forEach((one, i) =>
    one.classList.toggle("at", cursor !== null && i === place),
  );
  const canvas = map.querySelector("canvas");
  if (cursor === null || !canvas) return;
  const [box, outer] = [canvas.getBoundingClientRect(), line.parentNode.getBoundingClientRect()];
  line.style.left = `${box.left - outer.left + ((cursor + 0.5) / COLUMNS) * box.width}px`;
}
