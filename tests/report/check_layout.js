// Looks for text that cannot be read in the documents of all frames; writes JSON into <pre id=found>.
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
const contrast = (one, other) => {
  const [a, b] = [one, other].map((colour) => luminance(parts(colour).slice(0, 3)) + 0.05);
  return Math.max(a, b) / Math.min(a, b);
};
const inside = (inner, outer) =>
  inner.left > outer.left - 1 && inner.right < outer.right + 1 &&
  inner.top > outer.top - 1 && inner.bottom < outer.bottom + 1;
const overlap = (a, b) =>
  a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;

function checkDrawing(svg, report) {
  const view = svg.ownerDocument.defaultView;
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent);
  const placed = texts.map((text) => [text, text.getBoundingClientRect()]);
  for (const [text, place] of placed) {
    const rect = text.closest("g:has(> rect)")?.querySelector("rect");
    const paper = rect ?? svg.querySelector("rect");
    const ratio = contrast(view.getComputedStyle(text).fill, view.getComputedStyle(paper).fill);
    if (ratio < 4.5) report("contrast", text, ratio);
    if (!inside(place, frame)) report("clipped", text);
    if (rect && !inside(place, rect.getBoundingClientRect())) report("larger than its box", text);
  }
  placed.sort((a, b) => a[1].top - b[1].top);
  placed.forEach(([text, place], i) => {
    for (let j = i + 1; j < placed.length && placed[j][1].top < place.bottom; j++)
      if (overlap(place, placed[j][1])) report("overlap", text, placed[j][0].textContent);
  });
  for (const box of svg.querySelectorAll(".box, .neighbour"))
    if (!box.querySelector("title")?.textContent) report("no title", box);
  return texts.length;
}

function checkPage(page, report) {
  const view = page.defaultView;
  const fluid = page.querySelector("meta[name=viewport]");  // a picture that stands alone is not
  if (fluid && page.documentElement.scrollWidth > view.innerWidth) report("wider than the window", page.body);
  let count = 0;
  for (const element of page.querySelectorAll("h1, h2, p, li, b, span, td, th, th button, summary")) {
    if (!element.textContent.trim()) continue;
    count++;
    let back = element;
    while (back && parts(view.getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
    const paper = back ? view.getComputedStyle(back).backgroundColor : "rgb(255, 255, 255)";
    const ratio = contrast(view.getComputedStyle(element).color, paper);
    if (ratio < 4.5) report("contrast", element, ratio);
    const cut = element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0;
    if (cut && !element.title) report("cut off", element);
  }
  return count;
}

function checkSorting(page, report) {
  const table = [...page.querySelectorAll("table:has(thead)")].sort((a, b) => b.rows.length - a.rows.length)[0];
  if (!table) return;
  const column = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === "cost ms");
  const values = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[column].textContent));
  const button = table.tHead.rows[0].cells[column].querySelector("button");
  button.click();
  if (!values().every((value, i, all) => !i || all[i - 1] >= value)) report("not descending", table.tHead);
  button.click();
  if (!values().every((value, i, all) => !i || all[i - 1] <= value)) report("not ascending", table.tHead);
}

addEventListener("load", () => {
  const found = { problems: [], texts: 0, dark: matchMedia("(prefers-color-scheme: dark)").matches };
  for (const frame of document.querySelectorAll("iframe")) {
    const report = (what, element, more = "") =>
      found.problems.push(`${frame.title}: ${what}: ${element.textContent.trim().slice(0, 60)} ${more}`);
    const page = frame.contentDocument;
    for (const details of page.querySelectorAll("details")) details.open = true;
    for (const svg of page.querySelectorAll("svg.drawing")) found.texts += checkDrawing(svg, report);
    found.texts += checkPage(page, report);
    checkSorting(page, report);
  }
  const result = document.createElement("pre");
  result.id = "found";
  result.textContent = JSON.stringify(found);
  document.body.replaceChildren(result);
});
