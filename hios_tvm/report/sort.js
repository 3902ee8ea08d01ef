// Makes the heads of tables buttons that sort them. The page is complete without it.
const value = (text) => (text === "–" ? -Infinity : parseFloat(text));
const compare = (a, b) => {
  const [x, y] = [value(a), value(b)];
  return isNaN(x) || isNaN(y) ? a.localeCompare(b) : x === y ? 0 : x - y;
};
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    const text = (row) => row.cells[head.cellIndex].textContent.trim();
    const body = head.closest("table").tBodies[0];
    body.append(...[...body.rows].sort((a, b) => sign * compare(text(a), text(b))));
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  });
}
