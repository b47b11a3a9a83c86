// The tiles: what the server does right now, and did in the last minutes.

import { count, percent, short, size, spanParts, span } from "./quantities.js";
import { $, el, say, svg } from "./dom.js";
import { mean, quantile, rate, series, sum } from "./rates.js";
import { sparkline } from "./charts.js";

const RATE_SECONDS = 3;
const QUANTILE_SECONDS = 10;

const duration = "step_duration_seconds";
const failed = (from, to) => rate("steps_failed")(from, to) + rate("admission_rejected")(from, to);
const present = (name) => (from, to) => sum(to, name);

// Each: a title, what the history makes of it ([value, unit]), a note, and lines for the spark.
const TILES = [
  {
    title: "Steps",
    value: (h) => [short(h.now(RATE_SECONDS, rate("steps"))), "/s"],
    note: (h) => `${short(h.now(RATE_SECONDS, rate("generated_tokens")))} tokens made /s`,
    lines: (h) => [h.series(RATE_SECONDS, rate("steps"))],
  },
  {
    title: "Step latency",
    value: (h) => spanParts(h.now(QUANTILE_SECONDS, quantile(0.5, duration))),
    note: (h) => `p99 ${span(h.now(QUANTILE_SECONDS, quantile(0.99, duration)))}`,
    lines: (h) => [0.5, 0.99].map((share) => h.series(QUANTILE_SECONDS, quantile(share, duration))),
  },
  {
    title: "Batch size",
    value: (h) => [short(h.now(RATE_SECONDS, mean("turn_batch_size"))), "rows"],
    note: (h) => `a turn takes ${span(h.now(QUANTILE_SECONDS, mean("turn_duration_seconds")))}`,
    lines: (h) => [h.series(RATE_SECONDS, mean("turn_batch_size"))],
  },
  {
    title: "Queue",
    value: (h) => [count(sum(h.last, "requests_waiting")), "waiting"],
    note: (h) => `${count(sum(h.last, "requests_running"))} ride in a turn`,
    lines: (h) => [h.series(0, present("requests_waiting"))],
  },
  {
    title: "Sessions",
    value: (h) => [count(sum(h.last, "sessions")), "live"],
    note: (h) =>
      `${count(sum(h.last, "sessions_parked"))} parked, of ${short(Number(h.last.server.max_sessions))}`,
    lines: (h) => [h.series(0, present("sessions"))],
  },
  {
    title: "Refused or failed",
    value: (h) => [short(h.now(RATE_SECONDS, failed)), "/s"],
    note: (h) =>
      `${count(sum(h.last, "steps_failed") + sum(h.last, "admission_rejected"))} since the start`,
    lines: (h) => [h.series(RATE_SECONDS, failed)],
  },
  {
    title: "Session store",
    value: (h) => {
      const { store } = h.last.server;
      return store ? [count(Number(store.lag_steps)), "steps behind"] : ["none", ""];
    },
    note: (h) => {
      const { store } = h.last.server;
      return store
        ? `${store.kind}, ${store.healthy ? "healthy" : "fails"}`
        : "sessions live in memory";
    },
    lines: (h) => [h.series(0, (from, to) => Number(to.server.store?.lag_steps ?? 0))],
  },
  {
    title: "Device",
    value: (h) => {
      const busy = series(h.last, "device_utilization_ratio").map((one) => one.value);
      return [busy.length ? percent(Math.max(...busy)) : "–", "busy"];
    },
    note: (h) => {
      const used = series(h.last, "device_memory_used_bytes");
      return used.map((one) => `${one.labels.device} ${size(one.value)}`).join(", ");
    },
    lines: (h) => [
      h.series(0, (from, to) =>
        Math.max(0, ...series(to, "device_utilization_ratio").map((one) => one.value)),
      ),
    ],
  },
];

const made = TILES.map((tile) => {
  const parts = {
    number: document.createTextNode("–"),
    unit: el("small"),
    note: el("p", { class: "note" }),
  };
  parts.spark = svg("svg", { "aria-hidden": "true" });
  const value = el("p", { class: "value" }, parts.number, parts.unit);
  $("tiles").append(
    el("article", { class: "tile" }, el("h3", {}, tile.title), value, parts.note, parts.spark),
  );
  return parts;
});

export function showTiles(history) {
  TILES.forEach((tile, i) => {
    const [number, unit] = tile.value(history);
    made[i].number.data = number;
    say(made[i].unit, unit);
    const note = tile.note(history);
    say(made[i].note, note);
    made[i].note.title = note;
    sparkline(made[i].spark, tile.lines(history));
  });
}
