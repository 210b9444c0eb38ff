"use strict";
// Without this script everything can be read; with it, tables can be sorted and links open what is closed.

function keyOf(row, column) {
  const key = row.cells[column]?.dataset.key ?? row.cells[column]?.textContent ?? "";
  const number = Number(key);
  return key !== "" && !Number.isNaN(number) ? number : key;
}

function inOrder(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => inOrder(keyOf(a, column), keyOf(b, column)));
      body.append(...(falling ? rows.reverse() : rows));
    });
  });
}

function mistakes(rows) {
  const errors = new Map();
  rows.forEach((row, place) => {
    [...row.cells].slice(1).forEach((cell, column) => {
      if (column === place) return;
      for (const each of [place, column]) errors.set(each, (errors.get(each) ?? 0) + Number(cell.dataset.key));
    });
  });
  return errors;
}

for (const table of document.querySelectorAll("table[data-matrix]")) {
  const rows = [...table.tBodies[0].rows];
  const cells = [...table.tHead.rows, ...rows].map((row) => [row, [...row.cells]]);
  const errors = mistakes(rows);
  const recall = rows.map((row, n) => {
    const counts = [...row.cells].slice(1).map((cell) => Number(cell.dataset.key));
    return counts[n] / Math.max(1, counts.reduce((sum, count) => sum + count, 0));
  });
  const names = rows.map((row) => row.cells[0].textContent);
  const orders = {
    "as in the data": () => 0,
    "most mistakes first": (a, b) => errors.get(b) - errors.get(a),
    "lowest recall first": (a, b) => recall[a] - recall[b],
    "by name": (a, b) => names[a].localeCompare(names[b]),
  };
  const label = document.createElement("label");
  label.className = "order";
  const choice = document.createElement("select");
  for (const name of Object.keys(orders)) choice.append(new Option(name));
  label.append("Order: ", choice);
  table.parentElement.before(label);
  choice.addEventListener("change", () => {
    const order = rows.map((_, n) => n).sort((a, b) => orders[choice.value](a, b) || a - b);
    for (const [row, own] of cells) row.append(own[0], ...order.map((n) => own[n + 1]));
    table.tBodies[0].append(...order.map((n) => rows[n]));
  });
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  let closed = target?.closest("details");
  while (closed) {
    closed.open = true;
    closed = closed.parentElement.closest("details");
  }
  target?.scrollIntoView();
}
addEventListener("hashchange", openTarget);
if (location.hash) openTarget();

let shut = [];
addEventListener("beforeprint", () => {
  shut = [...document.querySelectorAll("details:not([open])")];
  for (const each of shut) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of shut) each.open = false;
});
