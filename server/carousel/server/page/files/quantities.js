// Quantities for people, as the command line writes them.

export function count(value) {
  if (!Number.isFinite(value)) return "–";
  return Number.isInteger(value) ? value.toLocaleString("en") : figure(value);
}

// Three digits that count.
export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en");
  return Number(value.toPrecision(3)).toString();
}

// `12.3k`, for a little space.
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(0).replace("-", "−");
  for (const [size, unit] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e4, "k"],
  ]) {
    if (Math.abs(value) >= size) return `${figure(value / (unit === "k" ? 1e3 : size))}${unit}`;
  }
  return figure(Math.abs(value) < 10 ? value : Math.round(value));
}

export function span(seconds) {
  const [value, unit] = spanParts(seconds);
  return unit ? `${value} ${unit}` : value;
}

export function spanParts(seconds) {
  if (!Number.isFinite(seconds)) return ["–", ""];
  if (seconds === 0) return ["0", "s"];
  if (seconds < 0.001) return [figure(seconds * 1e6), "µs"];
  if (seconds < 1) return [figure(seconds * 1e3), "ms"];
  for (const [size, unit] of [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
  ]) {
    if (seconds >= 2 * size) return [(seconds / size).toFixed(1).replace(/\.0$/, ""), unit];
  }
  return [figure(seconds < 10 ? seconds : Math.round(seconds)), "s"];
}

export function size(bytes) {
  let value = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024 || unit === "GiB") return `${figure(value)} ${unit}`;
    value /= 1024;
  }
  return "";
}

export const percent = (share) => (Number.isFinite(share) ? `${Math.round(share * 100)} %` : "–");

// Seconds since 1970 of a time as protobuf writes it.
export const seconds = (time) => Date.parse(time) / 1000;

export const shortName = (name) =>
  name.replace(/^(models|sessions|jobs|datasets)\//, "").replace("/versions/", "/");

export const word = (value, prefix) => value.replace(prefix, "").toLowerCase();
