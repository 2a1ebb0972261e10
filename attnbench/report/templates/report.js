"use strict";
// Sorting, filtering, what a number rests on, and charts. The page is whole without any of it.
(() => {
  const table = document.getElementById("grid");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[1].cells];

  // Sorting: by number where both are numbers; empty cells come last either way.
  const key = (row, column) => (column ? row.cells[column].dataset.sort : row.cells[0].textContent.trim());
  function compare(a, b, column, sign) {
    const [x, y] = [key(a, column), key(b, column)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const [p, q] = [Number(x), Number(y)];
    return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y, "en") : p - q);
  }
  function sortBy(column) {
    const header = headers[column];
    const better = header.querySelector("button").dataset.better;
    const first = better === "more" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    headers.forEach((cell) => cell.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", order);
    const sorted = [...rows].sort((a, b) => compare(a, b, column, order === "ascending" ? 1 : -1));
    body.append(...sorted);
  }
  headers.forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => sortBy(column)));

  // Filtering.
  const filter = document.getElementById("filter");
  const group = document.getElementById("group");
  const count = document.getElementById("count");
  function applyFilter() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = (row.textContent + " " + [...row.cells].map((c) => c.dataset.hint || "").join(" ")).toLowerCase();
      const fits = words.every((word) => text.includes(word)) && (!group.value || row.dataset.group === group.value);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    focusable(visibleCells()[0]?.[0]);
  }
  filter.addEventListener("input", applyFilter);
  group.addEventListener("change", applyFilter);
  document.getElementById("all-columns").addEventListener("change", (event) => {
    const all = event.target.checked;
    table.classList.toggle("narrow", !all);
    for (const cell of table.tHead.querySelectorAll("th[data-all]")) {
      cell.colSpan = (all ? cell.dataset.all : cell.dataset.narrow) || 1;
    }
  });

  // What a number rests on: on hover, and with the arrow keys (one stop of the tab key for the whole table).
  const tip = document.getElementById("tip");
  let current = null;
  function focusable(cell) {
    if (current) current.removeAttribute("tabindex");
    current = cell || null;
    if (current) current.tabIndex = 0;
  }
  const visibleCells = () =>
    [...body.rows].filter((row) => !row.hidden)
      .map((row) => [...row.cells].slice(1).filter((cell) => cell.offsetParent !== null));
  function show(cell) {
    if (!cell.dataset.hint) return hide();
    tip.textContent = cell.dataset.hint;
    tip.hidden = false;
    const box = cell.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
    tip.style.top = `${box.bottom + 4 + window.scrollY}px`;
  }
  function hide() { tip.hidden = true; }
  function go(cell) {
    const target = cell.dataset.record && document.getElementById(cell.dataset.record);
    if (!target) return;
    hide();
    target.closest("details").open = true;
    location.hash = cell.dataset.record;
    target.scrollIntoView({ block: "center" });
  }
  body.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("td");
    if (cell) show(cell);
  });
  body.addEventListener("mouseleave", hide);
  body.addEventListener("focusin", (event) => {
    if (event.target.matches("td")) show(event.target);
  });
  body.addEventListener("focusout", hide);
  window.addEventListener("resize", hide);
  body.addEventListener("click", (event) => {
    const cell = event.target.closest("td");
    if (cell) { focusable(cell); cell.focus(); }
  });
  body.addEventListener("dblclick", (event) => {
    const cell = event.target.closest("td");
    if (cell) go(cell);
  });
  body.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td");
    if (!cell) return;
    if (event.key === "Enter") return go(cell);
    if (event.key === "Escape") return hide();
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const cells = visibleCells();
    const y = cells.findIndex((line) => line.includes(cell));
    const next = cells[y + step[0]]?.[cells[y].indexOf(cell) + step[1]];
    if (next) { focusable(next); next.focus(); }
  });
  applyFilter();

  // A link to a closed part opens it, also in print.
  function openTarget() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const part = target && target.closest("details");
    if (part) { part.open = true; target.scrollIntoView(); }
  }
  window.addEventListener("hashchange", openTarget);
  openTarget();

  // Charts, drawn as SVG in the page's own colours.
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const drawn = Object.entries(specs).map(([name, spec]) =>
    vegaEmbed(document.getElementById(name), spec, { renderer: "svg", actions: false, tooltip: { theme: "dark" } }));
  Promise.all(drawn).then(
    () => { document.documentElement.dataset.charts = "drawn"; },
    (error) => { document.documentElement.dataset.charts = "failed"; console.error(error); });
})();
