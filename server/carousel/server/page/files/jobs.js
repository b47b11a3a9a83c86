// Training jobs: the list, and how the chosen one learns.

import { ask } from "./ask.js";
import { chart } from "./charts.js";
import { $, dress, el, rows, say } from "./dom.js";
import { bar } from "./models.js";
import { count, figure, short, shortName, span, word } from "./quantities.js";

const TONES = {
  succeeded: "good",
  running: "good",
  preparing: "warn",
  cancelling: "warn",
  failed: "bad",
};
const POINTS = 400;
const LEAST_NORM = 1e-12;

let job = null; // the chosen one: { id, after, history }
let newest = "";

const state = (one) => word(one.state, "JOB_STATE_");

export async function learnJobs(chosen) {
  const { jobs } = await ask("jobs.json");
  newest = jobs.length ? shortName(jobs[0].name) : "";
  rows(
    $("jobs-rows"),
    jobs,
    (one) => one.name,
    (one) => cells(one, chosen),
    (one) => shortName(one.name) === chosen,
  );
  $("jobs-empty").hidden = jobs.length > 0;
  $("jobs-list").hidden = !jobs.length;
  const running = jobs.filter((one) => ["running", "preparing"].includes(state(one))).length;
  const queued = jobs.filter((one) => state(one) === "queued").length;
  say($("jobs-total"), jobs.length ? `${running} running, ${queued} queued` : "");
}

export const newestJob = () => newest;

function cells(one, chosen) {
  const id = shortName(one.name);
  const done = one.progress ? Number(one.progress.step) / (Number(one.progress.max_steps) || 1) : 0;
  const live = state(one) === "running";
  return [
    { text: id, href: `#/jobs/${encodeURIComponent(id)}`, current: id === chosen },
    { text: shortName(one.version || one.promotion.model), class: "opt" },
    { node: bar(`updates of ${id}`, done, "") },
    { text: one.progress ? figure(Number(one.progress.loss)) : "–", class: "num" },
    { text: live ? short(Number(one.progress?.steps_per_second ?? NaN)) : "", class: "num opt" },
    { text: state(one), class: `state ${TONES[state(one)] ?? ""}`, title: one.state_message },
  ];
}

export async function learnJob(chosen) {
  if (!chosen) return;
  if (job?.id !== chosen) job = { id: chosen, after: 0, history: empty() };
  const mine = job;
  let answer;
  do {
    answer = await ask(`jobs/${encodeURIComponent(chosen)}.json`, { after: mine.after || "" });
    for (const event of answer.events) take(mine.history, event);
    mine.after = Number(answer.events.at(-1)?.sequence ?? mine.after);
  } while (answer.events.length >= 1000 && job === mine);
  if (job === mine) showJob(answer.job, mine.history, answer.events.length > 0);
}

const empty = () => ({ progress: [], evaluations: [], flows: [], warnings: [] });

// A job that was started again repeats updates: what it had said of them before is dropped.
function take(history, event) {
  const add = (list, one) => {
    while (list.length && Number(list.at(-1).step) >= Number(one.step)) list.pop();
    list.push(one);
  };
  if (event.progress) add(history.progress, event.progress);
  else if (event.evaluation?.split === "validation") add(history.evaluations, event.evaluation);
  else if (event.gradients) add(history.flows, event.gradients);
  else if (event.warning) history.warnings.push(event.warning);
}

function showJob(one, history, news) {
  say($("job-title"), shortName(one.name));
  const facts = [state(one)];
  if (one.progress)
    facts.push(
      `${count(Number(one.progress.step))} of ${count(Number(one.progress.max_steps))} updates`,
    );
  const left = parseFloat(one.progress?.remaining_time);
  if (state(one) === "running" && left > 0) facts.push(`${span(left)} left`);
  say($("job-facts"), facts.join(", "));
  const note = $("job-note");
  note.hidden = history.progress.length > 0;
  say(note, one.state_message || "It has not learned anything yet.");
  const place = $("job-charts");
  place.hidden = !history.progress.length;
  if (place.hidden || (!news && place.dataset.job === one.name)) return;
  place.dataset.job = one.name;
  place.replaceChildren(el("div", { class: "charts" }, ...charts(history)), ...words(one, history));
}

const by = (list, value) =>
  thin(list.map((one) => ({ x: Number(one.step), y: Number(value(one)) })));

// Not more points than there is room for: of each stretch the first.
function thin(points) {
  if (points.length <= POINTS) return points;
  const every = Math.ceil(points.length / POINTS);
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
}

// Whether only logarithms show both ends.
function isSteep(lines) {
  const ys = lines.flatMap((one) => one.points.map((point) => point.y)).filter(Number.isFinite);
  return Math.min(...ys) > 0 && Math.max(...ys) > 10 * Math.min(...ys);
}

function charts({ progress, evaluations, flows }) {
  const losses = [
    { name: "training", class: "c0", points: by(progress, (one) => one.loss) },
    { name: "validation", class: "c1", points: by(evaluations, (one) => one.loss), dots: true },
  ];
  const norms = [{ name: "", class: "c2", points: by(progress, (one) => one.gradient_norm) }];
  const layers = flows.at(-1)?.layers ?? [];
  const horizons = layers.map((_, i) => ({
    name: `layer ${i}`,
    class: `c${i % 4}`,
    dots: true,
    points: by(flows, (one) => one.layers[i]?.horizon ?? NaN),
  }));
  const flow = layers.map((layer, i) => ({
    name: `layer ${i}`,
    class: `c${i % 4}`,
    points: (layer.cell_norms.length ? layer.cell_norms : layer.hidden_norms).map((norm, lag) => ({
      x: lag,
      y: Math.max(Number(norm), LEAST_NORM),
    })),
  }));
  return [
    chart(
      "Loss",
      losses.filter((one) => one.points.length),
      { log: isSteep(losses) },
    ),
    chart("Gradient norm before clipping", norms, { log: isSteep(norms), zero: !isSteep(norms) }),
    chart("Gradient by steps back", flow, { log: true, across: "steps back" }),
    chart("Horizon, steps until 1 % is left", horizons, { zero: true }),
  ];
}

function* words(one, { flows, evaluations, warnings, progress }) {
  const latest = flows.at(-1);
  const skipped = Number(progress.at(-1)?.nonfinite_steps ?? 0);
  const said = [];
  if (latest?.verdict) said.push([latest.verdict, latest.vanishing || latest.exploding]);
  const metrics = Object.entries((one.evaluation ?? evaluations.at(-1))?.metrics ?? {});
  if (metrics.length)
    said.push([
      metrics
        .map(([name, value]) => `${name.replaceAll("_", " ")} ${figure(Number(value))}`)
        .join(", "),
      false,
    ]);
  if (skipped) said.push([`${count(skipped)} updates were skipped: not finite.`, true]);
  for (const warning of warnings.slice(-2)) said.push([warning, true]);
  if (one.state_message) said.push([one.state_message, true]);
  for (const [text, grave] of said) {
    const line = el("p", {}, text);
    dress(line, grave ? "verdict warn" : "verdict");
    yield line;
  }
}
