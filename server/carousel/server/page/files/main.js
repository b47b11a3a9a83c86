// The page as a whole: what is asked how often, and what the address after # chooses.

import { Refusal, ask, repeat } from "./ask.js";
import { $, dress, say } from "./dom.js";
import { showHints } from "./hints.js";
import { showInside, showNothingInside } from "./inside.js";
import { learnJob, learnJobs, newestJob } from "./jobs.js";
import { learnModels, showGates, showModels } from "./models.js";
import { showTiles } from "./overview.js";
import { seconds, span } from "./quantities.js";
import { History } from "./rates.js";
import { learnSessions, listenToSearch } from "./sessions.js";

const history = new History();
const chosen = { sessions: "", jobs: "" };
let over = ""; // the chosen session, once there is nothing to see of it any more
let away = 0; // seconds since 1970 at which the server was lost

const now = () => history.last?.time ?? Date.now() / 1000;

async function lookAtServer() {
  try {
    history.add(await ask("status.json"));
    away = 0;
  } catch (error) {
    away ||= Date.now() / 1000;
    return showLost(error);
  }
  showTiles(history);
  const found = showHints(history);
  showModels(history);
  showGates(history);
  const { server } = history.last;
  const grave = found.some(([bad]) => bad);
  say(
    $("state"),
    server.draining
      ? "draining"
      : grave
        ? "in trouble"
        : found.length
          ? "needs attention"
          : "all is well",
  );
  dress($("state"), `pill ${grave ? "bad" : found.length ? "warn" : "good"}`);
  const up = span(Math.max(0, now() - seconds(server.start_time)));
  const exact = server.bit_exact ? ", bit-exact" : "";
  say(
    $("facts"),
    `version ${server.version} on ${server.device}${exact}, up ${up}, instance ${server.instance_id}`,
  );
  document.body.classList.remove("stale");
}

function showLost(error) {
  document.body.classList.add("stale");
  const why = error instanceof Refusal ? error.message : "the server does not answer";
  say($("state"), `${why}, for ${span(Math.round(Date.now() / 1000 - away))}`);
  dress($("state"), "pill bad");
}

// A card whose look failed says that it is old; why, the state above says where nobody is there.
const inCards = (ids, look) => async () => {
  let stale = true;
  try {
    await look();
    stale = false;
  } catch (error) {
    const expected = [Refusal, TypeError, DOMException].some((kind) => error instanceof kind);
    if (!expected) throw error;
  } finally {
    for (const id of ids) $(id).closest(".card").classList.toggle("stale", stale);
  }
};

async function lookInside() {
  const wanted = chosen.sessions;
  if (!wanted) return showNothingInside();
  if (wanted === over) return;
  try {
    const found = await ask(`sessions/${encodeURIComponent(wanted)}.json`);
    if (wanted === chosen.sessions) showInside(found);
  } catch (error) {
    if (!(error instanceof Refusal) || error.status >= 500) throw error;
    if (wanted !== chosen.sessions) return;
    showNothingInside(whyNot(error));
    if (error.status < 429) over = wanted;
  }
}

function whyNot(error) {
  if (error.reason === "WATCH_CAPACITY")
    return (
      "As many sessions are looked into as can be at a time, on all pages together. This one " +
      "shows once another has not been looked at for a minute."
    );
  return error.message.replace("session sessions/", "session ");
}

// A session of the list may be one that begins again.
async function lookAtSessions() {
  const live = await learnSessions(now(), chosen.sessions);
  if (live?.includes(over)) over = "";
}

async function lookAtJobs() {
  await learnJobs(chosen.jobs || newestJob());
  await learnJob(chosen.jobs || newestJob());
}

function choose() {
  const [, kind, id] = /^#\/(sessions|jobs)\/(.+)$/.exec(location.hash) ?? [];
  if (!kind) return;
  try {
    chosen[kind] = decodeURIComponent(id);
  } catch {
    return; // no address of ours
  }
}

choose();
repeat(2, lookAtServer);
const sessions = repeat(2, inCards(["sessions"], lookAtSessions));
const inside = repeat(1, inCards(["inside"], lookInside));
repeat(
  10,
  inCards(["models-title"], async () => learnModels(await ask("models.json"))),
);
const jobs = repeat(3, inCards(["jobs-title", "job-title"], lookAtJobs));
listenToSearch(sessions);
addEventListener("hashchange", () => {
  over = "";
  choose();
  sessions();
  inside();
  jobs();
});
// Maps have the colours of the scheme.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (over) return;
  showNothingInside("");
  inside();
});
