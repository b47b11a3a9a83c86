// Elements: made and changed with text only, so that nothing a server says becomes markup.

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function dress(node, name) {
  if (node.className !== name) node.className = name;
}

// Rows of a table by key. A cell is { text, class, href, current } or { node }; a row that stays is
// changed in place, so that the focus and a selection stay, too.
export function rows(body, items, key, cells, chosen = () => false) {
  const former = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const wanted = new Set(items.map(key));
  for (const [name, row] of former) if (!wanted.has(name)) row.remove();
  items.forEach((item, place) => {
    const name = key(item);
    const row = former.get(name) ?? el("tr", { "data-key": name });
    cells(item).forEach((cell, column) => write(row, column, cell));
    row.classList.toggle("chosen", chosen(item));
    if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
  });
}

function write(row, column, cell) {
  const place = row.cells[column] ?? row.appendChild(el("td"));
  dress(place, cell.class ?? "");
  if (cell.node) {
    if (place.firstChild !== cell.node) place.replaceChildren(cell.node);
  } else if (cell.href) {
    const link = place.firstChild ?? place.appendChild(el("a"));
    if (link.getAttribute("href") !== cell.href) link.setAttribute("href", cell.href);
    link.title = cell.text;
    if (cell.current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    say(link, cell.text);
  } else {
    if (cell.title) place.title = cell.title;
    say(place, cell.text);
  }
}

// A canvas that is described in words, for those who do not see it.
export function picture(width, height, label) {
  return el("canvas", { width, height, role: "img", "aria-label": label });
}
