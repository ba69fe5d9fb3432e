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

const filled = ([colour, hatch]) => ({ color: colour, pattern: { shape: hatch, bgcolor: colour, fgcolor: DATA.colours.palette.grey, size: 6, solidity: 0.3 } });

function stack(parent, parts, total, looks) {
  legend(parent, parts.map((part) => [part.name, ...looks[part.name]]));
  const target = el(parent, "div", null, { className: "plot" }), [unit, name] = unitOf(total);
  const traces = parts.map((part) => ({
    type: "bar", orientation: "h", y: [""], x: [part.time_s / unit], name: part.name,
    marker: { ...filled(looks[part.name]), line: { color: PAPER, width: 1 } },
    text: [part.time_s / total * target.clientWidth > 56 ? percent(part.time_s / total) : ""], textposition: "inside", textangle: 0, insidetextanchor: "middle", textfont: { color: contrasting(looks[part.name][0]) },
    hovertemplate: `${part.name}: ${time(part.time_s)}, ${percent(part.time_s / total)} of it<extra></extra>`,
  }));
  Plotly.newPlot(target, traces, layout({
    barmode: "stack", height: 110, margin: { l: 10, r: 10, t: 4, b: 46 }, xaxis: { title: { text: `time, ${name}`, standoff: 4 }, range: [0, total / unit] },
    yaxis: { visible: false }, showlegend: false,
  }), { ...CONFIG, displayModeBar: false });
}

// Rows as in waterfall.png: a bar from where the row before ends, what it adds, and why.
function waterfall(parent, phase) {
  const found = phase.waterfall;
  if (!found) {
    el(parent, "p", `No closed form covers ${phase.uncovered}.`, { className: "dim" });
    return;
  }
  el(parent, "p", `Time of ${phase.span}. Every row adds one effect to the model of the row above; its share depends on the order.`, { className: "dim" });
  const made = el(parent, "table", null, { className: "waterfall" }), head = el(el(made, "thead"), "tr"), body = el(made, "tbody");
  el(head, "th", "effect");
  const scale = el(head, "th", null, { className: "track" }), at = (share) => `${(100 * Math.min(share, 1)).toFixed(3)}%`;
  const [published, said] = found.published || [];
  if (said) {
    const name = el(scale, "b", `published ${said}${published > 1 ? " \u2192" : ""}`);
    name.style.left = at(published);
    name.style.transform = `translateX(-${at(published)})`; // never beyond the column
  }
  el(scale, "span", "0");
  el(scale, "span", found.end);
  ["adds", "so far", "share", "why"].forEach((title) => el(head, "th", title));
  found.rows.forEach((row) => {
    const line = el(body, "tr", null, { className: row.kind });
    el(line, "td", row.name);
    const track = el(line, "td", null, { className: "track" }), bar = el(track, "i");
    bar.style.left = at(Math.min(row.from, row.to));
    bar.style.width = at(Math.abs(row.to - row.from));
    if (said && published <= 1) el(track, "s").style.left = at(published);
    [row.adds, row.so_far, row.share, row.why].forEach((text) => el(line, "td", text));
  });
}

// Batches on the stages of a pipeline, and below them what the stages' chips do, on one axis of time.
function stages(parent, found, looks) {
  el(parent, "h3", "Stages over time: requests by number, and shares of the time");
  const names = Object.keys(looks).filter((name) => found.shares.some((shares) => shares[name]));
  legend(parent, names.map((name) => [name, ...looks[name]]));
  const colours = DATA.colours.requests, bars = found.bars, ms = (x) => time(x / 1e3), edges = found.edges, high = 0.8;
  const target = el(parent, "div", null, { className: "plot" }), whole = [0, edges[edges.length - 1]];
  const numbers = ([from, to]) => bars.map((bar) => (bar[2] / (to - from) * (target.clientWidth - 140) > 7 * bar[3].length + 5 ? bar[3] : ""));
  const traces = [{
    type: "bar", orientation: "h", y: bars.map((bar) => bar[0]), base: bars.map((bar) => bar[1]), x: bars.map((bar) => bar[2]), width: high,
    text: numbers(whole), textposition: "inside", insidetextanchor: "middle", constraintext: "none", textangle: 0,
    hovertext: bars.map((bar) => `request ${bar[3]} on ${found.rows[bar[0]]}<br>${ms(bar[1])} to ${ms(bar[1] + bar[2])}: ${ms(bar[2])}`), hovertemplate: "%{hovertext}<extra></extra>",
    marker: { color: bars.map((bar) => colours[bar[4] % colours.length]), line: { color: PAPER, width: 1 } }, textfont: { color: "#fff" },
  }];
  const feet = found.shares.map((_, stage) => edges.slice(1).map(() => stage + high / 2));
  for (const name of names) {
    const part = { x: [], base: [], y: [], width: [], hover: [] };
    found.shares.forEach((shares, stage) => (shares[name] || []).forEach((share, i) => {
      if (!share) return;
      feet[stage][i] -= high * share;
      part.x.push(edges[i + 1] - edges[i]);
      part.base.push(edges[i]);
      part.y.push(feet[stage][i] + high * share / 2);
      part.width.push(high * share);
      part.hover.push(`<b>${found.rows[stage]}</b><br>${ms(edges[i])} to ${ms(edges[i + 1])}<br>` + Object.entries(shares).filter(([, all]) => all[i]).map(([each, all]) => `${each}: ${percent(all[i])}`).join("<br>"));
    }));
    traces.push({ type: "bar", orientation: "h", yaxis: "y2", ...part, hovertext: part.hover, hovertemplate: "%{hovertext}<extra></extra>", marker: { ...filled(looks[name]), line: { width: 0 } } });
  }
  const rows = { range: [found.rows.length - 0.5, -0.5], tickvals: found.rows.map((_, i) => i), ticktext: found.rows.map((row) => `${row} `), automargin: true, fixedrange: true, showgrid: false, zeroline: false };
  Plotly.newPlot(target, traces, layout({
    height: 100 + 76 * found.rows.length, margin: { l: 120, r: 12, t: 32, b: 46 }, showlegend: false, bargap: 0, barmode: "overlay", hovermode: "closest",
    xaxis: { title: { text: "time, ms", standoff: 6 }, range: whole, anchor: "y2" }, yaxis: { ...rows, domain: [0.52, 1] }, yaxis2: { ...rows, domain: [0, 0.48] },
  }), CONFIG).then(() => target.on("plotly_relayout", () => Plotly.restyle(target, { text: [numbers(target.layout.xaxis.range)] }, [0])));
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
    xaxis: grown ? { title: { text: "decode steps done", standoff: 4 }, range: [0, steps[steps.length - 1]], ...(steps[steps.length - 1] < 8 && { dtick: 1 }) } : { visible: false },
    yaxis: { ...APART, title: { text: "GiB" }, range: [0, 1.08 * Math.max(used, found.capacity_gib)] },
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
    colorway: DATA.colours.devices, xaxis: { title: { text: "time, ms", standoff: 4 } }, yaxis: { ...APART, title: { text: "GiB" }, rangemode: "tozero" },
  }), CONFIG);
}

const CHIPS_LISTED = 12;

function shareTable(parent, title, shares, { about = {}, several = false, id } = {}) {
  const most = Math.max(...shares.map((share) => share.of_step), 1e-9);
  const chips = ({ chips: [first, ...others] }) => (others.length > 1 ? `${first} and ${others.length} more` : [first, ...others].join(", "));
  const rows = shares.map((share) => [share.name, time(share.time_s), { text: percent(share.of_step), share: share.of_step / most, title: about[share.name] || "" }, share.segments.toLocaleString("en"), ...(several ? [chips(share)] : [])]);
  table(el(parent, "div", null, { className: "wide" }), [title, "time", "share", "segments", ...(several ? ["chips"] : [])], rows, id);
}

function critical(parent, phase, key, run) {
  const found = phase.critical, several = found.chips.length > 1, about = found.about;
  el(parent, "p", `The chain of operations and messages, over dependencies and busy resources, that determines the time: ${found.title}, ${time(phase.step_s)}. Its parts add up to that time to the picosecond.`);
  stack(parent, found.causes, found.step_s, run.looks);
  const columns = el(parent, "div", null, { className: "columns" });
  const left = el(columns, "div"), right = el(columns, "div");
  shareTable(left, "what the time is spent on", found.causes, { about, several, id: `causes${key}` });
  if (found.links.length) { el(left, "h3", "by kind of link"); shareTable(left, "link", found.links, { several }); }
  if (several) { el(left, "h3", "by chip; a message counts for its sender"); shareTable(left, "chip", found.chips.slice(0, CHIPS_LISTED), { id: `chips-of-path${key}` }); }
  if (found.chips.length > CHIPS_LISTED) el(left, "p", `and ${found.chips.length - CHIPS_LISTED} chips with less`, { className: "dim" });
  shareTable(right, "operation or collective", found.ops, { about, several });
  if (phase.what_if) {
    const most = Math.max(...phase.what_if.map((row) => row.saved_s), 1e-12);
    el(parent, "h3", "What would shorten it: simulated again with one cost removed at a time");
    table(el(parent, "div", null, { className: "wide" }), ["simulated again with", "time", "saved", "share"], phase.what_if.map((row) => [row.name, time(row.step_s), time(row.saved_s), { text: percent(row.saved_s / found.step_s), share: row.saved_s / most }]), `whatif${key}`);
  } else el(parent, "p", "sim run --critical-path also simulates what would shorten it.", { className: "dim" });
}

// --- link map ---------------------------------------------------------------------------------------------------------


function linkMap(parent, links) {
  if (!links.lines.length) { el(parent, "p", "The machine has no links.", { className: "dim" }); return; }
  const columns = el(parent, "div", null, { className: "columns" }), map = el(columns, "div"), beside = el(columns, "div", null, { className: "loose" });
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
  const target = el(map, "div", null, { className: "plot" }), across = (target.clientWidth || 600) - 110;
  const tall = Math.max(150, Math.min(560, across * (ys[1] - ys[0]) / (xs[1] - xs[0])));
  const unit = Math.min(across / (xs[1] - xs[0]), tall / (ys[1] - ys[0])); // pixels
  const letters = (nodes) => { // what is written into nodes, and how large: names, else numbers; too small to read: nothing, the pointer shows names
    for (const field of ["name", "label"]) {
      const size = Math.min(11, ...nodes.map((node) => Math.min(1.8 * wide(node) / (0.62 * Math.max(node[field].length, 1)), 1.8 * high(node)) * unit));
      if (size >= 7) return [size, (node) => node[field]];
    }
    return [1, () => ""];
  };
  const [small, named] = letters(chips), [size, titled] = letters(boxes);
  traces.push({ type: "scatter", mode: "markers+text", x: chips.map((node) => node.x), y: chips.map((node) => node.y), text: chips.map(named), textfont: { size: small },
    hovertext: chips.map((node) => node.name), hovertemplate: "%{hovertext}<extra></extra>", marker: { size: chips.map((node) => 2 * node.radius * unit), opacity: 1, color: PAPER, line: { color: INK, width: 1 } } });
  traces.push({ type: "scatter", mode: "markers", x: boxes.map((node) => node.x), y: boxes.map((node) => node.y), hovertext: boxes.map((node) => node.name), hovertemplate: "%{hovertext}<extra></extra>", marker: { size: 12, opacity: 0 } });
  Plotly.newPlot(target, traces, layout({
    height: tall + 38, margin: { l: 6, r: 6, t: 32, b: 6 }, showlegend: false, hovermode: "closest", dragmode: "pan",
    shapes: boxes.map((node) => ({ type: "rect", x0: node.x - node.box[0], x1: node.x + node.box[0], y0: node.y - node.box[1], y1: node.y + node.box[1], fillcolor: PAPER, line: { color: INK, width: 1 } })),
    annotations: boxes.map((node) => ({ x: node.x, y: node.y, text: titled(node), showarrow: false, font: { size } })),
    xaxis: { visible: false, range: xs }, yaxis: { visible: false, range: ys, scaleanchor: "x" },
  }), { ...CONFIG, scrollZoom: true });
  blocks(beside, [links.kinds]);
  el(beside, "p", "Busy: share of the time, mean of the links. GB/s: bytes by busy time, of what a link reaches in a long transfer (its efficiency applied).", { className: "dim" });
  el(map, "p", [`Each direction of a link is a line, to the right of the direction${links.lines.some((line) => line.dashed) ? "; dashed: wraparound" : ""}. Point at a line beyond its middle for its load.`, ...links.notes].join(" "), { className: "dim" });
}
