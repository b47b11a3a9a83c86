// The colours of maps: from a value to red, green and blue, by the scheme of the page.

const styles = getComputedStyle(document.documentElement);

const rgb = (name) => {
  const text = styles.getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
};

// A gate goes from shut to open; what can be negative has its zero in the middle.
const SCALES = { gate: ["--low", "--mid", "--high"], signed: ["--minus", "--zero", "--plus"] };

// A function from a value between `low` and `high` to a colour.
export function scale(kind, low, high) {
  const stops = SCALES[kind].map(rgb);
  return (value) => {
    const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
    const at = share * (stops.length - 1);
    const left = Math.min(Math.floor(at), stops.length - 2);
    return stops[left].map((from, i) =>
      Math.round(from + (stops[left + 1][i] - from) * (at - left)),
    );
  };
}

export const accent = () => rgb("--c1");
