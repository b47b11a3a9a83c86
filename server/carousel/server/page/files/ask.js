// Questions to the server that this page came from.

export class Refusal extends Error {
  constructor(status, reason, message) {
    super(message);
    this.status = status;
    this.reason = reason;
  }
}

// The JSON at a path of /page; throws a Refusal, or what fetch throws when nobody is there.
export async function ask(path, query = {}) {
  const wanted = Object.entries(query).filter(([, value]) => value !== "");
  const tail = wanted.length ? `?${new URLSearchParams(wanted)}` : "";
  const answer = await fetch(`/page/${path}${tail}`, { signal: AbortSignal.timeout(12000) });
  const body = await answer.json().catch(() => null);
  if (answer.ok && body) return body;
  // What stands between here and the server answers in words of its own.
  const { reason = "UNREADABLE", message = `the answer has status ${answer.status} and no JSON` } =
    body?.error ?? {};
  throw new Refusal(answer.status, reason, message);
}

// Looks again and again while the page can be seen, however a look ends; `every` is in seconds.
export function repeat(every, look) {
  let timer = 0;
  let busy = false;
  let again = false;
  async function turn() {
    clearTimeout(timer);
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      if (!document.hidden) await look();
    } finally {
      busy = false;
      timer = setTimeout(turn, again ? 0 : every * 1000);
      again = false;
    }
  }
  document.addEventListener("visibilitychange", turn);
  turn();
  return turn;
}
