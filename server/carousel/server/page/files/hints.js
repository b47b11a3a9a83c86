// Hints: what an operator should look at, by the thresholds of the alerts in deploy/prometheus.

import { $, el, say } from "./dom.js";
import { count, percent, shortName, span } from "./quantities.js";
import { GATES, quantile, series, sum } from "./rates.js";

const FULL = 0.9;
const SATURATED = 0.9;
export const DRIFTED = 0.5;
const SLOW_STEP = 0.2;
const SLOW_TURN = 0.1;
const QUIET_JOB = 15;
const WITHOUT_CHECKPOINT = 900;
const SECONDS = 30;
const STUCK_TURN = 10;
const LOST = ["evicted", "quarantined", "drained", "error"];

// In the last five minutes, whether or not this page was open.
const grew = (look, name, labels) =>
  sum(look, name, labels) - sum({ numbers: look.before }, name, labels);

// All hints as [grave, name, what is to be said].
export function hints(history) {
  const look = history.last;
  return [
    ...ofServer(look),
    ...ofNumbers(look),
    ...ofSpeed(history, look),
    ...ofJobs(look),
  ];
}

function* ofServer(look) {
  const { server } = look;
  if (server.draining)
    yield [false, "Draining", "The server takes nothing new and is about to stop."];
  if (server.store && !server.store.healthy) {
    yield [
      true,
      "Store",
      `${server.store.message}; ${count(Number(server.store.lag_steps))} steps wait to be stored.`,
    ];
  }
  const [live, room] = [sum(look, "sessions"), Number(server.max_sessions)];
  if (live > FULL * room) {
    yield [live >= room, "Near capacity", `${count(live)} of ${count(room)} sessions are live.`];
  }
  for (const reason of LOST) {
    const lost = grew(look, "sessions_ended", { reason });
    if (lost > 0)
      yield [
        reason === "error",
        "Sessions lost",
        `${count(lost)} ended as ${reason} in the last five minutes.`,
      ];
  }
  const failed = grew(look, "steps_failed", { reason: "internal" });
  if (failed > 0)
    yield [true, "Internal errors", `${count(failed)} steps failed by a fault of the server.`];
  const age = Math.max(0, ...series(look, "turn_age_seconds").map((one) => one.value));
  if (age > STUCK_TURN)
    yield [true, "Engine stuck", `The present turn began ${span(age)} ago and has not ended.`];
  const broken = grew(look, "restore_failures");
  if (broken > 0) yield [true, "Restores", `${count(broken)} sessions could not be brought back.`];
}

function* ofNumbers(look) {
  const quarantined = sum(look, "sessions_quarantined");
  const rows = grew(look, "nonfinite_rows");
  if (rows > 0) {
    yield [
      true,
      "Quarantine",
      `${count(rows)} rows became NaN or infinite in the last five minutes; their sessions are in quarantine.`,
    ];
  } else if (quarantined > 0) {
    yield [false, "Quarantine", `${count(quarantined)} sessions were quarantined since the start.`];
  }
  const bound = look.server.device.startsWith("cuda") ? 1e-3 : 1e-5;
  for (const one of series(look, "batch_audit_max_abs_difference")) {
    if (one.value > bound)
      yield [
        true,
        "Batch audit",
        `Company changes rows of ${one.labels.model} by ${one.value.toExponential(1)}.`,
      ];
  }
  yield* ofGates(
    look,
    "gate_saturation_ratio",
    SATURATED,
    "Saturated",
    (worst) => `are ${percent(worst)} fully open or shut.`,
  );
  yield* ofGates(
    look,
    "gate_drift_psi",
    DRIFTED,
    "Drift",
    (worst) => `show that inputs differ from those learned (stability index ${worst.toFixed(2)}).`,
  );
}

// One hint for each model, of its worst gate.
function* ofGates(look, name, bound, title, said) {
  const worst = new Map();
  for (const one of series(look, name)) {
    if (!GATES.includes(one.labels.gate)) continue; // a state may be anywhere
    const known = worst.get(one.labels.model);
    if (one.value > bound && (!known || one.value > known.value)) worst.set(one.labels.model, one);
  }
  for (const [model, { labels, value }] of worst) {
    yield [
      false,
      title,
      `The ${labels.gate} gates in layer ${labels.layer} of ${model} ${said(value)}`,
    ];
  }
}

function* ofSpeed(history, look) {
  for (const { labels } of series(look, "model_info")) {
    const { model, version } = labels;
    const slow = (name) => history.now(SECONDS, quantile(0.99, name, { model, version }));
    const [step, turn] = [slow("step_duration_seconds"), slow("turn_duration_seconds")];
    if (turn > SLOW_TURN)
      yield [
        false,
        "Slow turns",
        `One turn in a hundred of ${model}/${version} takes ${span(turn)} or more.`,
      ];
    else if (step > SLOW_STEP)
      yield [
        false,
        "Slow steps",
        `One step in a hundred of ${model}/${version} takes ${span(step)} or more.`,
      ];
  }
  const [waiting, running] = [sum(look, "requests_waiting"), sum(look, "requests_running")];
  const before = history.before(history.looks.length - 1, SECONDS);
  if (
    waiting > running &&
    sum(before, "requests_waiting") > sum(before, "requests_running") &&
    waiting > 1
  ) {
    yield [false, "Queue", `${count(waiting)} items wait, more than ride in a turn.`];
  }
}

function* ofJobs(look) {
  const quiet = {
    training_last_event_timestamp_seconds: [QUIET_JOB, "has told nothing"],
    training_last_checkpoint_timestamp_seconds: [WITHOUT_CHECKPOINT, "has written no checkpoint"],
  };
  for (const [name, [bound, said]] of Object.entries(quiet)) {
    for (const one of series(look, name)) {
      const age = look.time - one.value;
      if (age > bound)
        yield [
          false,
          "Training",
          `${shortName(one.labels.training_job)} ${said} for ${span(age)}.`,
        ];
    }
  }
}

export function showHints(history) {
  const found = hints(history);
  const list = $("hints");
  found.forEach(([grave, title, text], place) => {
    const item = list.children[place] ?? list.appendChild(el("li", {}, el("b"), el("span")));
    item.classList.toggle("bad", grave);
    say(item.children[0], title);
    say(item.children[1], text);
  });
  while (list.children.length > found.length) list.lastChild.remove();
  return found;
}
