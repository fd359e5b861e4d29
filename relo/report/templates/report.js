"use strict";
for (const figure of document.querySelectorAll(".compare")) {
  const range = figure.querySelector("input");
  const move = () => figure.style.setProperty("--cut", range.value + "%");
  range.addEventListener("input", move);
  move();
}
const collator = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      const numeric = head.classList.contains("n");
      const keyed = [...body.rows].map((row) => {
        const text = row.cells[column].textContent.trim();
        return { row, key: numeric ? parseFloat(text) : text };
      });
      keyed.sort((a, b) => {
        if (!numeric) return sign * collator.compare(a.key, b.key);
        if (isNaN(a.key) || isNaN(b.key)) return isNaN(a.key) - isNaN(b.key);
        return sign * (a.key - b.key);
      });
      body.append(...keyed.map((item) => item.row));
    });
  });
}
