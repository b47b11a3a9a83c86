// The models that there are, and what their gates do over all sessions.

import { $, el, rows } from "./dom.js";
import { DRIFTED } from "./hints.js";
import { count, percent, short, shortName, size, word } from "./quantities.js";
import { GATES, rate, series, sum } from "./rates.js";

const CELLS = { lstm: "LSTM", gru: "GRU", rnn_tanh: "RNN tanh", rnn_relu: "RNN ReLU" };
const TONES = { ready: "good", loading: "warn", failed: "bad" };

let known = [];

export function learnModels(answer) {
  known = answer.models.flatMap((model) => model.versions.map((version) => ({ model, version })));
  const choice = $("search-model");
  const wanted = answer.models.map((model) => model.name);
  const there = [...choice.options].slice(1).map((one) => one.value);
  if (wanted.join() !== there.join()) {
    const chosen = choice.value;
    choice.replaceChildren(
      choice.options[0],
      ...wanted.map((name) => el("option", { value: name }, shortName(name))),
    );
    choice.value = chosen;
  }
}

export function showModels(history) {
  const look = history.last;
  $("models-empty").hidden = known.length > 0;
  rows(
    $("models-rows"),
    known,
    (one) => one.version.name,
    (one) => cells(history, look, one),
  );
}

function cells(history, look, { model, version }) {
  const [, name, number] = version.name.match(/^models\/(.+)\/versions\/(.+)$/);
  const labels = { model: name, version: number };
  const { config } = version;
  const network = config
    ? `${CELLS[config.cell] ?? config.cell} ${config.layers} × ${config.hidden_size}`
    : "";
  const aliases = Object.entries(model.aliases).filter(([, at]) => String(at) === number);
  const state = word(version.state, "VERSION_STATE_");
  const info = series(look, "model_info", labels)[0];
  return [
    { text: [shortName(version.name), ...aliases.map(([alias]) => `@${alias}`)].join("  ") },
    { text: network, class: "opt" },
    { text: info?.labels.kernel ?? "", class: "opt dim" },
    {
      text: version.weights_bytes > 0 ? size(Number(version.weights_bytes)) : "",
      class: "num opt",
    },
    { text: count(sum(look, "sessions", labels)), class: "num" },
    { text: short(history.now(3, rate("steps", labels))), class: "num" },
    { text: state, class: `state ${TONES[state] ?? ""}`, title: version.state_message },
  ];
}

const inOrder = ({ labels: one }, { labels: other }) =>
  one.model.localeCompare(other.model) ||
  one.layer - other.layer ||
  GATES.indexOf(one.gate) - GATES.indexOf(other.gate);

const bars = new Map();

export function showGates(history) {
  const look = history.last;
  const gates = series(look, "gate_activation_mean").sort(inOrder);
  $("gates-table").hidden = !gates.length;
  $("gates-empty").hidden = gates.length > 0;
  const key = (one) => Object.values(one.labels).join("/");
  rows($("gates-rows"), gates, key, (one) => {
    const drift = series(look, "gate_drift_psi", one.labels)[0];
    const saturated = series(look, "gate_saturation_ratio", one.labels)[0]?.value ?? NaN;
    return [
      { text: one.labels.model },
      { text: one.labels.layer, class: "num" },
      { text: one.labels.gate },
      { node: bar(`${key(one)} open`, one.value, "") },
      { node: bar(`${key(one)} saturated`, saturated, saturated > 0.9 ? "warn" : "") },
      {
        text: drift ? drift.value.toFixed(2) : "–",
        class: `num ${drift?.value > DRIFTED && GATES.includes(one.labels.gate) ? "state warn" : ""}`,
      },
    ];
  });
}

export function bar(name, share, tone) {
  if (!bars.has(name)) {
    bars.set(
      name,
      el("span", { class: "bar" }, el("progress", { max: 1, "aria-label": name }), el("span")),
    );
  }
  const made = bars.get(name);
  made.firstChild.value = Number.isFinite(share) ? share : 0;
  made.firstChild.className = tone;
  made.lastChild.textContent = percent(share);
  return made;
}
