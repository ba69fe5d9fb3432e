"use strict";
// The page is built from one object, DATA; see sim/results/page/data.py for what is in it. Times of lanes are picoseconds.
const DARK = matchMedia("(prefers-color-scheme: dark)").matches;
const INK = DARK ? "#e8e8e8" : "#222", PAPER = DARK ? "#17191c" : "#fff", FAINT = DARK ? "#3a3d42" : "#e4e4e4";
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
const HOVER = { font: { ...FONT, color: "#111" }, bgcolor: "#fff", bordercolor: "#666", align: "left" };
const layout = (more) => ({ font: FONT, paper_bgcolor: PAPER, plot_bgcolor: PAPER, hoverlabel: HOVER, template: TEMPLATE, ...more });

// Black or white, whichever is easier to read on a colour `#rrggbb`.
function contrasting(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
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

// --- headline ---------------------------------------------------------------------------------------------------------

function headline(parent, run) {
  const count = (value, noun) => `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
  const layers = run.layers < run.all_layers ? `${run.layers} of ${count(run.all_layers, "layer")}` : count(run.layers, "layer");
  el(parent, "p", `${run.machine}, ${count(run.chips, "chip")}, ${layers}; ${run.tasks.toLocaleString("en")} tasks simulated` +
    (run.folded ? ", one chip for all that are alike" : ""), { className: "dim" });
  if (run.description) el(parent, "p", run.description);
  const cards = el(parent, "div", null, { className: "cards" });
  run.headline.forEach((row) => {
    const card = el(cards, "div", null, { className: "card" });
    el(card, "span", row.label, { className: "label" });
    el(card, "b", row.value).dataset.metric = row.label;
    el(card, "span", row.definition);
  });
  blocks(parent, run.overall);
  run.notes.forEach((note) => el(parent, "p", note, { className: "dim" }));
}

// Tables and lines, as the terminal prints them.
function blocks(parent, found) {
  found.flat().forEach((part) => {
    if (part.columns === undefined) { el(parent, "p", part.text, { className: part.warns ? "warn" : "" }); return; }
    const made = table(el(parent, "div", null, { className: "wide" }), part.columns, part.groups.flat());
    const lines = [...made.querySelectorAll("tbody tr")];
    let at = 0;
    part.groups.slice(0, -1).forEach((group) => { at += group.length; if (lines[at]) lines[at].className = "apart"; });
    if (part.warning) el(parent, "p", part.warning, { className: "warn" });
  });
}

// --- bars -------------------------------------------------------------------------------------------------------------

function stack(parent, parts, total, looks) {
  legend(parent, parts.map((part) => [part.name, ...looks[part.name]]));
  const target = el(parent, "div", null, { className: "plot" }), [unit, name] = unitOf(total);
  const traces = parts.map((part) => ({
    type: "bar", orientation: "h", y: [""], x: [part.time_s / unit], name: part.name,
    marker: { color: looks[part.name][0], line: { color: PAPER, width: 1 }, pattern: { shape: looks[part.name][1], bgcolor: looks[part.name][0], fgcolor: DATA.colours.palette.grey, size: 6, solidity: 0.3 } },
    text: [part.time_s / total * target.clientWidth > 56 ? percent(part.time_s / total) : ""], textposition: "inside", textangle: 0, insidetextanchor: "middle", textfont: { color: contrasting(looks[part.name][0]) },
    hovertemplate: `${part.name}: ${time(part.time_s)}, ${percent(part.time_s / total)} of it<extra></extra>`,
  }));
  Plotly.newPlot(target, traces, layout({
    barmode: "stack", height: 110, margin: { l: 10, r: 10, t: 4, b: 46 }, xaxis: { title: { text: `time, ${name}`, standoff: 4 }, range: [0, total / unit] },
    yaxis: { visible: false }, showlegend: false,
  }), { ...CONFIG, displayModeBar: false });
}

function waterfall(parent, phase) {
  const bars = phase.waterfall;
  if (!bars.length) {
    el(parent, "p", `No closed form covers ${phase.uncovered}.`, { className: "dim" });
    return;
  }
  const total = bars.reduce((sum, bar) => sum + bar.seconds, 0), [unit, unitName] = unitOf(total);
  const names = [...bars.map((bar) => bar.name), "simulated"];
  const y = [...bars.map((bar) => bar.seconds / unit), total / unit];
  const target = el(parent, "div", null, { className: "plot" }), narrow = target.clientWidth < 600;
  Plotly.newPlot(target, [{
    type: "waterfall", orientation: "h", y: names.map((_, i) => i), x: y,
    measure: names.map((_, i) => (i === names.length - 1 ? "total" : i ? "relative" : "absolute")),
    text: y.map((value, i) => (i && i < bars.length ? signed(Math.abs(value * unit) < 1e-7 * total ? 0 : value * unit) : time(value * unit))), textposition: "outside", cliponaxis: false,
    customdata: [...bars.map((bar) => (bar.group ? `${bar.group}<br>` : "") + wrap(bar.why)), ""],
    hovertemplate: "%{text}<br>%{customdata}<extra></extra>",
    increasing: { marker: { color: DATA.colours.changes.more } }, decreasing: { marker: { color: DATA.colours.changes.less } }, totals: { marker: { color: INK } },
    connector: { line: { color: "#bbb", width: 1 } },
  }], layout({
    height: 96 + 25 * names.length, margin: { l: narrow ? 130 : 250, r: 70, t: 32, b: 40 }, xaxis: { range: [0, 1.04 * Math.max(...running(bars), total) / unit], title: { text: `${phase.span}, ${unitName}`, standoff: 4 }, zeroline: true },
    yaxis: { tickvals: names.map((_, i) => i), ticktext: names.map((name) => wrap(name, narrow ? 20 : 70)), autorange: "reversed", automargin: true }, showlegend: false,
  }), CONFIG);
}

function running(bars) { // where each bar ends, s
  let sum = 0;
  return bars.map((bar) => { sum += bar.seconds; return sum; });
}

function stages(parent, found) { // batches on the stages of a pipeline
  el(parent, "h3", "Requests on the stages, by number");
  const colours = DATA.colours.requests, bars = found.bars, ms = (x) => time(x / 1e3);
  Plotly.newPlot(el(parent, "div", null, { className: "plot" }), [{
    type: "bar", orientation: "h", y: bars.map((bar) => bar[0]), base: bars.map((bar) => bar[1]), x: bars.map((bar) => bar[2]),
    text: bars.map((bar) => bar[3]), textposition: "inside", insidetextanchor: "middle", constraintext: "none", textangle: 0,
    hovertext: bars.map((bar) => `request ${bar[3]} on ${found.rows[bar[0]]}<br>${ms(bar[1])} to ${ms(bar[1] + bar[2])}: ${ms(bar[2])}`), hovertemplate: "%{hovertext}<extra></extra>",
    marker: { color: bars.map((bar) => colours[bar[4] % colours.length]), line: { color: PAPER, width: 1 } }, textfont: { color: "#fff" },
  }], layout({
    height: 90 + 34 * found.rows.length, margin: { l: 120, r: 12, t: 32, b: 46 }, showlegend: false, bargap: 0.15, barmode: "overlay",
    uniformtext: { mode: "hide", minsize: 8 }, xaxis: { title: { text: "time, ms", standoff: 6 }, rangemode: "tozero" },
    yaxis: { range: [found.rows.length - 0.5, -0.5], tickvals: found.rows.map((_, i) => i), ticktext: found.rows.map((row) => `${row} `), automargin: true, fixedrange: true, showgrid: false },
  }), CONFIG);
}

function wrap(text, most = 70) {
  const lines = [""];
  for (const word of (text || "").split(" ")) {
    if (lines[lines.length - 1].length + word.length > most) lines.push("");
    lines[lines.length - 1] += `${word} `;
  }
  return lines.join("<br>");
}

// --- timeline ---------------------------------------------------------------------------------------------------------

function summed(deltas) {
  const values = new Float64Array(deltas.length);
  let sum = 0;
  deltas.forEach((delta, i) => { sum += delta; values[i] = sum; });
  return values;
}

function lanesOf(timeline) {
  return timeline.lanes.map((lane) => {
    const start = summed(lane.start);
    const made = { ...lane, start, end: start.map((at, i) => at + lane.length[i]), layer: summed(lane.layer), bytes: summed(lane.bytes) };
    if (lane.exposed) {
      const from = summed(lane.exposed.start);
      made.exposed = { start: from, end: from.map((at, i) => at + lane.exposed.length[i]) };
    }
    return made;
  });
}

function firstAfter(ends, at) { // position of the first end beyond `at`; ends are in order
  let low = 0, high = ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > at) high = middle; else low = middle + 1;
  }
  return low;
}

// Spans of a lane from x0 to x1. Those narrower than two pixels are put together with their neighbours: such a group keeps
// how long it is busy with each kind, so that it can be drawn in shares of its height, and areas stay true at every zoom.
function visible(lane, x0, x1, pixel, kindOf) {
  const shown = [];
  let last = null;
  for (let i = firstAfter(lane.end, x0); i < lane.start.length && lane.start[i] < x1; i++) {
    const from = Math.max(lane.start[i], x0), to = Math.min(lane.end[i], x1), kind = kindOf(i);
    if (last && to - last.from < 2 * pixel && from - last.to < pixel) {
      last.count += 1; last.to = Math.max(last.to, to);
      last.kinds[kind] = (last.kinds[kind] || 0) + to - from;
    } else {
      last = { from, to, first: i, count: 1, kinds: { [kind]: to - from } };
      shown.push(last);
    }
  }
  return shown;
}

function about(lane, i, timeline) {
  const op = timeline.ops[lane.op[i]], group = timeline.classes[lane.op[i]];
  const rows = [`<b>${op}</b>`, group + (lane.layer[i] >= 0 ? `, layer ${lane.layer[i]}` : "")];
  rows.push(`${time(lane.start[i] / 1e12)} to ${time(lane.end[i] / 1e12)}: ${time((lane.end[i] - lane.start[i]) / 1e12)}`);
  if (lane.kind === "path") rows.push(lane.flies[i] ? (lane.kinds[i] === 2 ? "launch of the collective" : "in flight: started, and on the wire") : lane.kinds[i] === 1 ? "message on its link" : "on the chip");
  if (lane.kind === "compute") {
    rows.push(`${(lane.flops[i] / 1e9).toPrecision(4)} GFLOP, ${amount(lane.bytes[i])} of memory: ${lane.slow[i] ? "memory-bound" : "compute-bound"}`);
    const took = (lane.end[i] - lane.start[i]) / 1e12;
    rows.push(lane.slow[i] ? `${(lane.bytes[i] / took / 1e9).toPrecision(4)} GB/s reached, of ${timeline.sources.memory}` : `${(lane.flops[i] / took / 1e12).toPrecision(4)} TFLOP/s reached, of ${timeline.sources.flops}`);
  }
  if (lane.kind === "link") {
    rows.push(`${amount(lane.bytes[i])}` + (timeline.folded ? "" : ` to chip ${lane.to[i]}`) + `, ${(lane.bytes[i] / (lane.end[i] - lane.start[i]) * 1e3).toPrecision(4)} GB/s reached`);
    if (timeline.sources.link) rows.push(`of ${timeline.sources.link}`);
  }
  if (lane.kind === "collectives") rows.push(timeline.sources.collective);
  return rows.map((row) => wrap(row)).join("<br>");
}

const FLYING = " in flight";

function drawTimeline(parent, phase, key) {
  const timeline = phase.timeline, every = lanesOf(timeline), edges = timeline.edges, several = timeline.chips.length > 1;
  const first = timeline.chips.slice(0, timeline.chips.length > 4 ? 3 : 4);
  let lanes = every.filter((lane) => lane.kind === "path" || first.includes(lane.chip));
  const named = (lane) => (several && lane.chip ? `${lane.chip}: ${lane.label} ` : `${lane.label} `);
  const buttons = el(parent, "div", null, { className: "buttons" });
  const used = new Set(every.flatMap((lane) => [...new Set(lane.op)].map((op) => timeline.classes[op])));
  const order = Object.keys(timeline.colours), flying = (kind) => kind.endsWith(FLYING), classOf = (kind) => kind.replace(FLYING, "");
  legend(parent, [...order.filter((name) => used.has(name)).map((name) => [name, timeline.colours[name]]), ["line under a collective: exposed, no compute meanwhile", INK]]);
  const thinOf = (lane) => (lane.kind === "link" ? 0.55 : 0.8);
  const target = el(parent, "div", null, { className: "plot", id: `timeline${key}` });
  const [unit, unitName] = unitOf(timeline.end / 1e12), ps = unit * 1e12, us = unit * 1e6; // of the axis
  const whole = [0, timeline.end / ps];

  function traces(range) {
    const [x0, x1] = range.map((at) => at * ps), pixel = (x1 - x0) / 700;
    const bars = { x: [], base: [], y: [], width: [], colour: [], opacity: [], hover: [], label: [], edge: [] };
    const under = { x: [], y: [] };
    const inPixels = (length) => length / (x1 - x0) * target.clientWidth * 0.85;
    const bar = (row, from, to, bottom, height, kind, hover, label) => {
      bars.base.push(from / ps);
      bars.x.push((to - from) / ps);
      bars.y.push(row - bottom - height / 2);
      bars.width.push(height);
      bars.colour.push(timeline.colours[classOf(kind)]);
      bars.opacity.push(flying(kind) ? 0.45 : 1);
      bars.hover.push(hover);
      bars.label.push(label && inPixels(to - from) > 7 * label.length + 8 ? label : "");
      bars.edge.push(label && inPixels(to - from) > 4 ? 1 : 0); // pieces of a loop stay apart
    };
    const thin = lanes.map(thinOf);
    lanes.forEach((lane, row) => {
      const kindOf = (i) => timeline.classes[lane.op[i]] + (lane.kind === "path" && lane.flies[i] ? FLYING : "");
      for (const group of visible(lane, x0, x1, pixel, kindOf)) {
        if (group.count === 1) {
          bar(row, group.from, group.to, -thin[row] / 2, thin[row], kindOf(group.first), about(lane, group.first, timeline), timeline.ops[lane.op[group.first]]);
          continue;
        }
        const kinds = Object.entries(group.kinds).sort((a, b) => order.indexOf(classOf(a[0])) - order.indexOf(classOf(b[0])) || a[0].length - b[0].length);
        const busy = kinds.reduce((sum, [, length]) => sum + length, 0), all = Math.max(busy, group.to - group.from) || 1;
        const hover = `<b>${group.count} bars from ${time(group.from / 1e12)} to ${time(group.to / 1e12)}</b><br>${kinds.map(([kind, length]) => `${classOf(kind)}${flying(kind) ? ", in flight" : ""}: ${percent(length / all)}`).join("<br>")}<br>heights are shares of the time; zoom in to see each`;
        let bottom = -thin[row] / 2;
        for (const [kind, length] of kinds) {
          bar(row, group.from, group.to, bottom, thin[row] * length / all, kind, hover, "");
          bottom += thin[row] * length / all;
        }
      }
      if (lane.exposed) {
        let last = null;
        for (let i = firstAfter(lane.exposed.end, x0); i < lane.exposed.start.length && lane.exposed.start[i] < x1; i++) {
          const from = Math.max(lane.exposed.start[i], x0), to = Math.min(lane.exposed.end[i], x1);
          if (last !== null && from - last < pixel) { under.x[under.x.length - 2] = to / ps; }
          else { under.x.push(from / ps, to / ps, null); under.y.push(row + 0.44, row + 0.44, null); }
          last = to;
        }
      }
    });
    const layers = edges.length > 2 ? edges.slice(0, -1).map((_, k) => k).filter((k) => edges[k + 1] > x0 && edges[k] < x1) : [];
    return [{
      type: "bar", orientation: "h", x: bars.x, base: bars.base, y: bars.y, width: bars.width, hovertext: bars.hover,
      hovertemplate: "%{hovertext}<extra></extra>", text: bars.label, textposition: "inside", insidetextanchor: "middle", textangle: 0,
      constraintext: "none", textfont: { size: 11, color: bars.colour.map(contrasting) },
      marker: { color: bars.colour, opacity: bars.opacity, line: { width: bars.edge, color: PAPER } },
    }, { type: "scatter", mode: "lines", x: under.x, y: under.y, line: { color: INK, width: 2 }, hoverinfo: "skip" }, {
      type: "bar", orientation: "h", y: layers.map(() => -1), width: layers.map(() => 0.6), base: layers.map((k) => edges[k] / ps),
      x: layers.map((k) => (edges[k + 1] - edges[k]) / ps), marker: { color: layers.map((k) => (k % 2 ? FAINT : "#9aa0a6")) },
      text: layers.map((k) => (inPixels(edges[k + 1] - edges[k]) > 20 ? k : "")), textposition: "inside", insidetextanchor: "middle", textangle: 0,
      constraintext: "none", textfont: { color: layers.map((k) => (k % 2 ? INK : "#000")) },
      hovertext: layers.map((k) => `layer ${k}: ${time((edges[k + 1] - edges[k]) / 1e12)}`), hovertemplate: "%{hovertext}<extra></extra>",
    }];
  }

  function look(range) {
    return layout({
      height: 140 + lanes.reduce((sum, lane) => sum + (lane.kind === "link" ? 24 : 34), 0), bargap: 0, barmode: "overlay", showlegend: false, hovermode: "closest", dragmode: "zoom",
      margin: { l: 120, r: 12, t: 32, b: 46 }, xaxis: { range, title: { text: `time, ${unitName}`, standoff: 6 }, exponentformat: "none", separatethousands: true, showspikes: true, spikemode: "across", spikethickness: 1, spikecolor: "#bbb" },
      yaxis: { range: [lanes.length - 0.4, edges.length > 2 ? -1.5 : -0.6], tickvals: [-1, ...lanes.keys()].slice(edges.length > 2 ? 0 : 1), ticktext: ["layer ", ...lanes.map(named)].slice(edges.length > 2 ? 0 : 1), automargin: true, fixedrange: true, zeroline: false, showgrid: false },
    });
  }

  let current = whole;
  function show(range) {
    const width = Math.max(range[1] - range[0], 1 / ps);
    const from = Math.min(Math.max(range[0], 0), Math.max(whole[1] - width, 0));
    current = [from, Math.min(from + width, whole[1])];
    target.dataset.span = String((current[1] - current[0]) * us);
    Plotly.react(target, traces(current), look(current), CONFIG);
  }
  const layer = (k) => [edges[k] / ps, edges[k + 1] / ps];
  const middle = () => (current[0] + current[1]) / 2, width = () => current[1] - current[0];
  const actions = [["whole step", "whole", () => show(whole)]];
  if (edges.length > 1) actions.push(["one layer", "layer", () => show(layer((edges.length - 1) >> 1))]);
  actions.push(["zoom in", "in", () => show([middle() - width() / 4, middle() + width() / 4])],
    ["zoom out", "out", () => show([middle() - width(), middle() + width()])],
    ["earlier", "earlier", () => show([current[0] - width() / 2, current[1] - width() / 2])],
    ["later", "later", () => show([current[0] + width() / 2, current[1] + width() / 2])]);
  if (several) {
    const choice = el(buttons, "select", null, { id: `chips${key}`, title: "chips drawn" });
    [`first ${first.length} chips`, "all of these chips", ...timeline.chips].forEach((name) => el(choice, "option", name));
    choice.onchange = () => {
      const chosen = [first, timeline.chips][choice.selectedIndex] || [choice.value];
      lanes = every.filter((lane) => lane.kind === "path" || chosen.includes(lane.chip));
      show(current);
    };
  }
  actions.forEach(([text, id, click]) => el(buttons, "button", text, { id: `zoom-${id}${key}`, onclick: click }));
  let pointer = null; // share of the width at which the mouse is; W and S zoom there, A and D move
  target.addEventListener("mousemove", (event) => {
    const drag = target.querySelector(".nsewdrag").getBoundingClientRect();
    pointer = Math.min(Math.max((event.clientX - drag.left) / drag.width, 0), 1);
  });
  target.addEventListener("mouseleave", () => { pointer = null; });
  document.addEventListener("keydown", (event) => {
    if (pointer === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const scale = { w: 0.7, s: 1 / 0.7, a: 1, d: 1 }[event.key.toLowerCase()];
    if (!scale) return;
    const move = { a: -0.2, d: 0.2 }[event.key.toLowerCase()] || 0, at = current[0] + pointer * width();
    show([at - pointer * width() * scale + move * width(), at + (1 - pointer) * width() * scale + move * width()]);
  });
  Plotly.newPlot(target, traces(whole), look(whole), CONFIG).then(() => {
    target.dataset.span = String(whole[1] * us);
    target.on("plotly_relayout", (change) => {
      const from = change["xaxis.range[0]"], to = change["xaxis.range[1]"];
      if (from !== undefined) show([from, to]);
      else if (change["xaxis.autorange"]) show(whole);
    });
    if (edges.length > 6) show([edges[(edges.length - 1) >> 1] / ps, edges[Math.min(((edges.length - 1) >> 1) + 2, edges.length - 1)] / ps]);
  });
  const kept = timeline.messages_of_layers;
  if (kept) el(parent, "p", `Messages are shown individually for layers ${kept[0]} to ${kept[1]} only.`, { className: "dim" });
  if (timeline.not_drawn) el(parent, "p", `${timeline.not_drawn} chips with other activities are not drawn.`, { className: "dim" });
  el(parent, "p", "Drag over the plot or press W to zoom in, S to zoom out, A and D to move; double-click to see the whole step. A bar shows its operation, bytes, the rate that it reached and where the rate comes from. Where bars are narrower than a pixel, heights are shares of the time.", { className: "dim" });
}

// --- link map ---------------------------------------------------------------------------------------------------------


function linkMap(parent, links) {
  if (!links.lines.length) { el(parent, "p", "The machine has no links.", { className: "dim" }); return; }
  const most = Math.max(...links.lines.map((line) => line.busy), 1e-9), steps = DARK ? DATA.colours.load.slice().reverse() : DATA.colours.load, bins = steps.length; // the busiest link stands out from the paper
  const traces = [];
  for (const dashed of [true, false]) for (let bin = 0; bin < bins; bin++) {
    const own = links.lines.filter((line) => line.dashed === dashed && Math.min(bins - 1, Math.floor(line.busy / most * bins)) === bin);
    if (!own.length) continue;
    traces.push({ type: "scatter", mode: "lines", hoverinfo: "skip", line: { color: steps[bin], width: 3, dash: dashed ? "2px,2px" : "solid" },
      x: own.flatMap((line) => [...line.x, null]), y: own.flatMap((line) => [...line.y, null]) });
  }
  const spot = (values) => { const n = values.length, at = (n - 1) * 0.62, k = Math.min(Math.floor(at), n - 2); return values[k] + (values[k + 1] - values[k]) * (at - k); };
  traces.push({ type: "scatter", mode: "markers", x: links.lines.map((line) => spot(line.x)), y: links.lines.map((line) => spot(line.y)),
    marker: { size: 9, opacity: 0, color: links.lines.map((line) => 100 * line.busy), cmin: 0, cmax: 100 * most,
      colorscale: steps.map((colour, i) => [i / (bins - 1), colour]), showscale: links.lines.some((line) => line.busy > 0), colorbar: { title: { text: "busy, % of the time", side: "right" }, thickness: 12, outlinewidth: 0 } },
    text: links.lines.map((line) => `<b>${line.name}</b><br>${percent(line.busy)} busy<br>${amount(Math.round(line.bytes))}<br>${line.rate}`), hovertemplate: "%{text}<extra></extra>" });
  const boxes = links.nodes.filter((node) => node.box), chips = links.nodes.filter((node) => !node.box);
  const wide = (node) => (node.box ? node.box[0] : node.radius), high = (node) => (node.box ? node.box[1] : node.radius);
  const ends = (side, sizes, lines) => [Math.min(...links.nodes.map((node) => node[side] - sizes(node)), ...lines) - 0.15, Math.max(...links.nodes.map((node) => node[side] + sizes(node)), ...lines) + 0.15];
  const xs = ends("x", wide, links.lines.flatMap((line) => line.x)), ys = ends("y", high, links.lines.flatMap((line) => line.y));
  const target = el(parent, "div", null, { className: "plot" }), across = (target.clientWidth || 600) - 110;
  const tall = Math.max(150, Math.min(560, across * (ys[1] - ys[0]) / (xs[1] - xs[0])));
  const unit = Math.min(across / (xs[1] - xs[0]), tall / (ys[1] - ys[0])); // pixels
  const letters = (nodes) => { // what is written into nodes, and how large: names, else numbers; too small to read: nothing, the pointer shows names
    for (const field of ["name", "label"]) {
      const size = Math.min(11, ...nodes.map((node) => 1.8 * wide(node) * unit / (0.62 * Math.max(node[field].length, 1))));
      if (size >= 7) return [size, (node) => node[field]];
    }
    return [1, () => ""];
  };
  const [small, named] = letters(chips), [size, titled] = letters(boxes);
  traces.push({ type: "scatter", mode: "markers+text", x: chips.map((node) => node.x), y: chips.map((node) => node.y), text: chips.map(named), textfont: { size: small },
    hovertext: chips.map((node) => node.name), hovertemplate: "%{hovertext}<extra></extra>", marker: { size: chips.map((node) => 2 * node.radius * unit), opacity: 1, color: "#fff", line: { color: "#444", width: 1 } } });
  traces.push({ type: "scatter", mode: "markers", x: boxes.map((node) => node.x), y: boxes.map((node) => node.y), hovertext: boxes.map((node) => node.name), hovertemplate: "%{hovertext}<extra></extra>", marker: { size: 12, opacity: 0 } });
  Plotly.newPlot(target, traces, layout({
    height: tall + 38, margin: { l: 6, r: 6, t: 32, b: 6 }, showlegend: false, hovermode: "closest", dragmode: "pan",
    shapes: boxes.map((node) => ({ type: "rect", x0: node.x - node.box[0], x1: node.x + node.box[0], y0: node.y - node.box[1], y1: node.y + node.box[1], fillcolor: "#fff", line: { color: "#444", width: 1 } })),
    annotations: boxes.map((node) => ({ x: node.x, y: node.y, text: titled(node), showarrow: false, font: { size } })),
    xaxis: { visible: false, range: xs }, yaxis: { visible: false, range: ys, scaleanchor: "x" },
  }), { ...CONFIG, scrollZoom: true });
  el(parent, "p", ["Each direction of a link is a line, to the right of the direction; dashed: wraparound. Point at a line beyond its middle for its load.", ...links.notes].join(" "), { className: "dim" });
}

// --- memory, critical path --------------------------------------------------------------------------------------------

function memory(parent, found) {
  const used = found.parts.reduce((sum, part) => sum + part.gib, 0);
  const target = el(parent, "div", null, { className: "plot" });
  const grown = found.grows.length > 1;
  const steps = grown ? found.grows.map((point) => point[0]) : ["now"];
  const cache = found.parts.find((part) => part.name === "KV cache");
  const traces = found.parts.map((part) => ({
    name: part.name, x: steps, y: steps.map((_, i) => (grown && part === cache ? found.grows[i][1] - (used - part.gib) : part.gib)),
    ...(grown ? { type: "scatter", mode: "lines", stackgroup: "one", line: { width: 0.5, color: part.colour }, fillcolor: part.colour } : { type: "bar", width: 0.5, marker: { color: part.colour } }),
    hovertemplate: "%{y:.3f} GiB<extra>" + part.name + "</extra>",
  }));
  Plotly.newPlot(target, traces, layout({
    height: 260, barmode: "stack", margin: { l: 60, r: 10, t: 6, b: 44 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    xaxis: grown ? { title: { text: "decode steps done", standoff: 4 }, range: [0, steps[steps.length - 1]] } : { visible: false },
    yaxis: { title: { text: "GiB" }, range: [0, 1.08 * Math.max(used, found.capacity_gib)] },
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: found.capacity_gib, y1: found.capacity_gib, line: { color: INK, dash: "dash", width: 1 } }],
    annotations: [{ xref: "paper", x: 1, y: found.capacity_gib, text: "capacity", showarrow: false, xanchor: "right", yanchor: "bottom" }],
  }), { ...CONFIG, displayModeBar: false });
  if (found.devices.length) devices(parent, found);
}

function devices(parent, found) {
  el(parent, "h3", "Over time: layers are loaded and evicted");
  const target = el(parent, "div", null, { className: "plot" });
  Plotly.newPlot(target, found.devices.map((device) => ({
    type: "scatter", mode: "lines", name: device.name, x: device.x, y: device.y, line: { shape: "hv" }, hovertemplate: "%{x} ms: %{y} GiB<extra>" + device.name + "</extra>",
  })), layout({
    height: 260, margin: { l: 60, r: 10, t: 6, b: 44 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    colorway: DATA.colours.devices, xaxis: { title: { text: "time, ms", standoff: 4 } }, yaxis: { title: { text: "GiB" }, rangemode: "tozero" },
  }), CONFIG);
}

function shareRows(shares, about) {
  const most = Math.max(...shares.map((share) => share.of_step), 1e-9);
  return shares.map((share) => [share.name, time(share.time_s), { text: percent(share.of_step), share: share.of_step / most, title: (about || {})[share.name] || "" }, share.segments.toLocaleString("en")]);
}

function critical(parent, phase, key, run) {
  const found = phase.critical;
  el(parent, "p", `The chain of operations and messages, over dependencies and busy resources, that made it as long as it is (${phase.span}, ${time(phase.step_s)}). The parts add up to it to the picosecond.`);
  stack(parent, found.causes, found.step_s, run.looks);
  const columns = el(parent, "div", null, { className: "columns" });
  const left = el(columns, "div"), right = el(columns, "div");
  table(left, ["what the time is spent on", "time", "share", "segments"], shareRows(found.causes, found.about), `causes${key}`);
  if (found.links.length) { el(left, "h3", "by kind of link"); table(left, ["link", "time", "share", "segments"], shareRows(found.links)); }
  table(right, ["operation or collective", "time", "share", "segments"], shareRows(found.ops, found.about));
  if (phase.what_if) {
    const most = Math.max(...phase.what_if.map((row) => row.saved_s), 1e-12);
    el(parent, "h3", "What would shorten it: simulated again with one cost removed at a time");
    table(parent, ["simulated again with", "time", "saved", "share"], phase.what_if.map((row) => [row.name, time(row.step_s), time(row.saved_s), { text: percent(row.saved_s / found.step_s), share: row.saved_s / most }]), `whatif${key}`);
  } else el(parent, "p", "sim run --critical-path also simulates what would shorten it.", { className: "dim" });
}

// --- the page ---------------------------------------------------------------------------------------------------------

function section(page, id, title) {
  const made = el(page, "section", null, { id });
  el(made, "h2", title);
  return made;
}

function difference(page, comparison) {
  const box = section(page, "difference", "The difference");
  el(box, "p", comparison.summary);
  const phases = comparison.phases;
  phases.forEach((phase) => {
    el(box, "h3", `${phase.span}: ${time(phase.before_s)} and ${time(phase.after_s)}, ${signed(phase.after_s - phase.before_s)}`);
    const most = Math.max(...phase.causes.concat(phase.ops).map((row) => Math.abs(row.after_s - row.before_s)), 1e-12);
    const rows = (shares) => shares.map((row) => [row.name, time(row.before_s), time(row.after_s), { text: signed(row.after_s - row.before_s), share: -(row.after_s - row.before_s) / most }]);
    const columns = el(box, "div", null, { className: "columns" });
    table(el(columns, "div"), ["critical path, by cause", "A", "B", "B - A"], rows(phase.causes), `difference-${phase.phase}`);
    table(el(columns, "div"), ["by operation", "A", "B", "B - A"], rows(phase.ops));
  });
  el(box, "h3", "What differs between the scenarios");
  table(box, ["field", "A", "B"], comparison.fields.map((field) => [field.name, field.before, field.after]), "fields");
}

function build() {
  const top = document.getElementById("top"), page = document.getElementById("page");
  page.textContent = "";
  const two = DATA.runs.length > 1;
  const names = DATA.comparison ? [DATA.comparison.before, DATA.comparison.after] : DATA.runs.map((run) => run.name);
  el(top, "h1", two ? `A: ${names[0]}   B: ${names[1]}` : names[0], { id: "title" });
  if (!two && DATA.runs[0].settings) el(top, "p", DATA.runs[0].settings, { id: "settings" });
  const nav = el(top, "nav");
  if (DATA.comparison) difference(page, DATA.comparison);
  const part = (id, title, draw, beside) => { // beside: two runs fit next to each other
    const box = section(page, id, title);
    const around = two && beside ? el(box, "div", null, { className: "columns" }) : box;
    DATA.runs.forEach((run, r) => {
      const own = el(around, "div");
      if (two) el(own, "h3", `${"AB"[r]}: ${names[r]}`);
      draw(own, run, two ? `-${"ab"[r]}` : "");
    });
  };
  const phases = (draw) => (box, run, key) => run.phases.forEach((phase, i) => {
    if (run.phases.length > 1) el(box, "h3", phase.title);
    draw(box, phase, run.phases.length > 1 ? `${key}-${phase.phase}` : key, run);
  });
  part("headline", "Headline", headline, true);
  part("breakdown", "Where the time goes", phases((box, phase, key, run) => {
    stack(box, phase.breakdown, phase.step_s, run.looks);
    blocks(box, phase.step);
    if (phase.stages) stages(box, phase.stages);
  }));
  part("waterfall", "From the closed form to the simulation", phases(waterfall));
  part("time", "Timeline", phases(drawTimeline));
  part("critical", "Critical path", phases(critical));
  part("links", "Links", phases((box, phase) => linkMap(box, phase.links)), true);
  part("memory", "Memory", (box, run, key) => {
    blocks(box, run.memory);
    phases((own, phase) => memory(own, phase.memory))(box, run, key);
  }, true);
  part("scenario", "Resolved scenario", (box, run) => {
    const more = el(box, "details");
    el(more, "summary", "every value the run used, defaults and sources included");
    el(more, "pre", run.scenario);
  });
  [...page.querySelectorAll("section")].forEach((box) => el(nav, "a", box.querySelector("h2").textContent, { href: `#${box.id}` }));
  el(page, "p", `Written by collective-sim ${DATA.version}.`, { className: "dim" });
  document.body.dataset.ready = "yes";
}

(async () => {
  try {
    const code = document.createElement("script");
    code.textContent = await unpack("plotly-gz");
    document.head.appendChild(code);
    DATA = JSON.parse(await unpack("data-gz"));
    build();
  } catch (error) {
    document.getElementById("page").textContent = `This page needs a browser that can unpack gzip (Chromium 80, Firefox 113, Safari 16.4 or later): ${error}`;
    throw error;
  }
})();
