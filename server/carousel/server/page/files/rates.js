// Rates: what moved between two looks at the counters.

const KEPT_SECONDS = 240;

export const GATES = ["input", "forget", "output", "reset", "update"];

export class History {
  constructor() {
    this.looks = [];
  }

  add(status) {
    const last = this.last;
    // Counters begin at zero again with the server.
    if (last && last.server.instance_id !== status.server.instance_id) this.looks = [];
    else if (last && status.time <= last.time) return;
    this.looks.push(status);
    while (status.time - this.looks[0].time > KEPT_SECONDS) this.looks.shift();
  }

  get last() {
    return this.looks.at(-1);
  }

  // The look about so many seconds before the one at `place`.
  before(place, seconds) {
    let first = place;
    while (first > 0 && this.looks[place].time - this.looks[first].time < seconds) first -= 1;
    return this.looks[first];
  }

  // What `measure` makes of each look and of the one so many seconds before it.
  series(seconds, measure) {
    return this.looks.slice(1).map((look, place) => ({
      x: look.time,
      y: measure(this.before(place + 1, seconds), look),
    }));
  }

  // The same of the last look alone; NaN until there are two.
  now(seconds, measure) {
    if (this.looks.length < 2) return NaN;
    return measure(this.before(this.looks.length - 1, seconds), this.last);
  }
}

const fits = (labels, wanted) =>
  Object.entries(wanted).every(([name, value]) => labels[name] === value);

export function series(look, name, wanted = {}) {
  return (look.numbers[`carousel_${name}`] ?? []).filter((one) => fits(one.labels, wanted));
}

export function sum(look, name, wanted = {}) {
  return series(look, name, wanted).reduce((total, one) => total + one.value, 0);
}

export function rate(name, wanted = {}) {
  return (from, to) => {
    const moved = sum(to, name, wanted) - sum(from, name, wanted);
    return Math.max(moved, 0) / (to.time - from.time);
  };
}

// How a histogram grew: its count, its sum, and its buckets as [upper bound, cumulative count].
export function growth(from, to, name, wanted = {}) {
  const total = { count: 0, sum: 0, bounds: new Map() };
  for (const [look, sign] of [
    [from, -1],
    [to, 1],
  ]) {
    for (const one of series(look, name, wanted)) {
      total.count += sign * one.count;
      total.sum += sign * one.sum;
      for (const [bound, value] of one.buckets) {
        total.bounds.set(bound, (total.bounds.get(bound) ?? 0) + sign * value);
      }
    }
  }
  const number = (bound) => (bound === "+Inf" ? Infinity : Number(bound));
  const buckets = [...total.bounds].map(([bound, value]) => [number(bound), value]);
  return { ...total, buckets: buckets.sort((a, b) => a[0] - b[0]) };
}

export function mean(name, wanted = {}) {
  return (from, to) => {
    const grown = growth(from, to, name, wanted);
    return grown.count > 0 ? grown.sum / grown.count : NaN;
  };
}

// By linear interpolation within the bucket, as Prometheus does it.
export function quantile(share, name, wanted = {}) {
  return (from, to) => {
    const { buckets } = growth(from, to, name, wanted);
    const rank = share * (buckets.at(-1)?.[1] ?? 0);
    let [below, before] = [0, 0];
    for (const [bound, cumulative] of buckets) {
      if (cumulative >= rank && cumulative > before) {
        if (bound === Infinity) return below;
        return below + ((bound - below) * (rank - before)) / (cumulative - before);
      }
      [below, before] = [bound, cumulative];
    }
    return NaN;
  };
}
