"use strict";

// A click, or Enter, on a title sorts its table by that column; another turns the order round.
// What has no value goes last either way.
function sort(title) {
  const head = title.closest("tr");
  const body = title.closest("table").tBodies[0];
  const column = [...head.cells].indexOf(title);
  const up = title.getAttribute("aria-sort") !== "ascending";
  for (const other of head.cells) other.removeAttribute("aria-sort");
  title.setAttribute("aria-sort", up ? "ascending" : "descending");
  const numeric = title.classList.contains("n");
  const key = (row) => {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent;
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  const compare = (a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    const order = numeric ? a.key - b.key : a.key.localeCompare(b.key);
    return up ? order : -order;
  };
  const rows = [...body.rows].map((row) => ({ row, key: key(row) }));
  rows.sort(compare);
  body.append(...rows.map((entry) => entry.row));
}

for (const title of document.querySelectorAll("th")) {
  title.addEventListener("click", () => sort(title));
  title.addEventListener("keydown", (event) => {
    if (event.key === "Enter") sort(title);
  });
}

// A contender in the legend shows and hides its bars, marks and lines.
for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const part of document.querySelectorAll(".s.s" + button.dataset.slot)) {
      part.classList.toggle("hidden", !shown);
    }
  });
}

document.getElementById("scheme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.scheme
    ? root.dataset.scheme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.scheme = dark ? "light" : "dark";
});
