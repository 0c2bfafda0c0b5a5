"use strict";
// Tables of the class "sortable": a click on a column's name sorts by it, and what is typed filters the rows.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.replace("±", "").trim();
    return text === "" || text === "-" ? null : isNaN(text) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.ariaSort ? head.ariaSort === "ascending" : head.classList.contains("n") && column > 0;
      heads.forEach((one) => { one.ariaSort = null; });
      head.ariaSort = down ? "descending" : "ascending";
      const keyed = rows.map((row) => [value(row, column), row]);
      keyed.sort(([a], [b]) => (a === null) - (b === null) || (down ? compare(b, a) : compare(a, b)));
      body.append(...keyed.map(([, row]) => row)); // those without a value last
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
  const box = document.getElementById(table.dataset.filter), count = box.nextElementSibling;
  const texts = rows.map((row) => row.textContent.toLowerCase());
  box.parentElement.hidden = false;
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, number) => { row.hidden = !words.every((word) => texts[number].includes(word)); });
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} / ${rows.length}` : "";
  });
}
