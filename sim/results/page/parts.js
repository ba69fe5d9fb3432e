"use strict";
// The page is built from one object, DATA; see sim/results/page/data.py for what is in it. Times of lanes are picoseconds.
const DARK = matchMedia("(prefers-color-scheme: dark)").matches;
const INK = DARK ? "#e8e8e8" : "#222", PAPER = DARK ? "#17191c" : "#ffffff", FAINT = DARK ? "#3a3d42" : "#e4e4e4";
const FONT = { family: 'system-ui, "DejaVu Sans", sans-serif', size: 12, color: INK };
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
let DATA;

async function unpack(id) {
  const text = document.getElementById(id).textContent.trim();
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function el(parent, name, text, attributes) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  Object.assign(made, attributes || {});
  parent.appendChild(made);
  return made;
}

function time(seconds) {
  const size = Math.abs(seconds);
  if (size >= 1e4) return `${Math.round(seconds).toLocaleString("en")} s`;
  const known = DATA.units.times.find(([unit]) => size >= unit);
  return known ? `${Number((seconds / known[0]).toPrecision(4))} ${known[1]}` : "0 s";
}

function amount(bytes) {
  const known = DATA.units.bytes.find(([unit]) => bytes >= unit);
  return known ? `${(bytes / known[0]).toFixed(2)} ${known[1]}` : `${Math.round(bytes)} B`;
}

// Unit of an axis that is so many seconds long: its seconds, its name.
const unitOf = (seconds) => (seconds > 10 ? [1, "s"] : seconds > 2e-3 ? [1e-3, "ms"] : [1e-6, "us"]);

const percent = (share) => `${(100 * share).toFixed(1)}%`;
const signed = (seconds) => (seconds >= 1e-9 ? "+" : "") + time(seconds);
const TEMPLATE = { layout: { xaxis: { gridcolor: FAINT, zerolinecolor: FAINT }, yaxis: { gridcolor: FAINT, zerolinecolor: FAINT } } };
const APART = { ticks: "outside", ticklen: 4, tickcolor: PAPER }; // ticks that are not seen keep the numbers of y off those of x
const HOVER = { font: { ...FONT, color: "#111" }, bgcolor: "#fff", bordercolor: "#666", align: "left" };
const layout = (more) => ({ font: FONT, paper_bgcolor: PAPER, plot_bgcolor: PAPER, hoverlabel: HOVER, template: TEMPLATE, ...more });

// Black or white, whichever is easier to read on a colour `#rrggbb` of an opacity.
function contrasting(colour, opacity = 1) {
  const at = (code, from) => parseInt(code.slice(from, from + 2), 16) / 255;
  const [r, g, b] = [1, 3, 5].map((from) => opacity * at(colour, from) + (1 - opacity) * at(PAPER, from)).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

function legend(parent, entries) { // [name, colour, hatched]
  const box = el(parent, "div", null, { className: "legend" });
  entries.forEach(([name, colour, hatched]) => {
    const entry = el(box, "span"), sample = el(entry, "i");
    sample.style.background = hatched ? `repeating-linear-gradient(45deg, ${colour} 0 3px, #8c8c8c 3px 4px)` : colour;
    entry.appendChild(document.createTextNode(name));
  });
}

function table(parent, titles, rows, id) {
  const made = el(parent, "table", null, id ? { id } : {});
  const head = el(el(made, "thead"), "tr");
  titles.forEach((title) => el(head, "th", title));
  const body = el(made, "tbody");
  for (const row of rows) {
    const line = el(body, "tr");
    for (const cell of row) {
      if (cell !== null && typeof cell === "object") {
        const at = el(line, "td", null, { className: "bar", title: cell.title || "" });
        if (cell.share !== undefined) {
          const bar = el(at, "i", null, { className: cell.share < 0 ? "less" : "" });
          bar.style.width = `calc(${Math.min(100, 100 * Math.abs(cell.share))}% - 8px)`;
        }
        el(at, "span", cell.text);
      } else el(line, "td", cell);
    }
  }
  return made;
}

function wrap(text, most = 70) {
  const lines = [""];
  for (const word of (text || "").split(" ")) {
    if (lines[lines.length - 1].length + word.length > most) lines.push("");
    lines[lines.length - 1] += `${word} `;
  }
  return lines.join("<br>");
}
