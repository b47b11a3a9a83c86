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
  const body = await answer.json();
  if (!answer.ok) throw new Refusal(answer.status, body.error.reason, body.error.message);
  return body;
}

// Asks again and again while the page can be seen: `ask` tells how long to rest, in seconds.
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
    if (!document.hidden) {
      busy = true;
      try {
        await look();
      } finally {
        busy = false;
      }
    }
    timer = setTimeout(turn, again ? 0 : every * 1000);
    again = false;
  }
  document.addEventListener("visibilitychange", turn);
  turn();
  return turn;
}
