// The list of sessions: a page of it, searched by the beginning of the id.

import { ask } from "./ask.js";
import { $, rows, say } from "./dom.js";
import { count, seconds, short, shortName, span, word } from "./quantities.js";

const TONES = { active: "good", quarantined: "bad", ended: "" };
const TIERS = { host: "parked", store: "in store" };

const wanted = { begins: "", model: "", page_token: "" };
let steps = new Map(); // by name: [seconds, steps] at the look before

export async function learnSessions(now, chosen) {
  const asked = JSON.stringify(wanted);
  const answer = await ask("sessions.json", wanted);
  if (JSON.stringify(wanted) !== asked) return; // something else is wanted by now
  const speeds = new Map(answer.sessions.map((one) => [one.name, speed(one)]));
  steps = new Map(
    answer.sessions.map((one) => [one.name, [performance.now() / 1000, Number(one.step_index)]]),
  );
  rows(
    $("sessions-rows"),
    answer.sessions,
    (one) => one.name,
    (one) => cells(one, now, speeds.get(one.name), chosen),
    (one) => shortName(one.name) === chosen,
  );
  say($("sessions-total"), total(answer));
  const empty = $("sessions-empty");
  empty.hidden = answer.sessions.length > 0;
  const narrow = wanted.begins || wanted.model || wanted.page_token;
  say(empty, narrow ? "No session matches." : "No session is open.");
  $("sessions-first").hidden = !wanted.page_token;
  $("sessions-next").hidden = !answer.next_page_token;
  $("sessions-next").dataset.token = answer.next_page_token;
  const live = answer.sessions.filter((one) => !one.state.endsWith("ENDED"));
  return live.map((one) => shortName(one.name));
}

// Of a search nobody counts more than the rows that are shown.
function total(answer) {
  if (!wanted.begins) return `${count(Number(answer.total_size))} live`;
  const more = answer.next_page_token || wanted.page_token;
  return more ? `${answer.sessions.length} of those found` : `${answer.sessions.length} found`;
}

function speed(one) {
  const before = steps.get(one.name);
  if (!before) return NaN;
  return Math.max(0, Number(one.step_index) - before[1]) / (performance.now() / 1000 - before[0]);
}

function cells(one, now, moving, chosen) {
  const id = shortName(one.name);
  const state = word(one.state, "SESSION_STATE_");
  const tier = TIERS[word(one.tier, "SESSION_TIER_")];
  return [
    { text: id, href: `#/sessions/${encodeURIComponent(id)}`, current: id === chosen },
    { text: shortName(one.model_version), title: one.model_version, class: "opt" },
    { text: count(Number(one.step_index)), class: "num" },
    { text: short(moving), class: "num opt" },
    { text: span(Math.round(Math.max(0, now - seconds(one.create_time)))), class: "num opt" },
    {
      text: one.expire_time
        ? span(Math.round(Math.max(0, seconds(one.expire_time) - now)))
        : "never",
      class: "num",
    },
    { text: tier && state === "active" ? tier : state, class: `state ${tier ? "" : TONES[state]}` },
  ];
}

// Calls `changed` when something else is wanted.
export function listenToSearch(changed) {
  const begin = (change) => {
    Object.assign(wanted, { page_token: "" }, change);
    changed();
  };
  $("search").addEventListener("submit", (event) => event.preventDefault());
  $("search-id").addEventListener("input", (event) => begin({ begins: event.target.value.trim() }));
  $("search-model").addEventListener("change", (event) => begin({ model: event.target.value }));
  $("sessions-first").addEventListener("click", () => begin({}));
  $("sessions-next").addEventListener("click", (event) =>
    begin({ page_token: event.target.dataset.token }),
  );
}
