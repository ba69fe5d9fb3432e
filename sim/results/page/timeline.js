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

// The multiprocessors that collectives keep busy from x0 to x1, pieces below a pixel put together: [from, to, mean].
function heldOf(lane, x0, x1, pixel) {
  const pieces = [];
  for (let i = firstAfter(lane.end, x0); i < lane.start.length && lane.start[i] < x1; i++) {
    const from = Math.max(lane.start[i], x0), to = Math.min(lane.end[i], x1), last = pieces[pieces.length - 1];
    if (last && to - last[0] < pixel) {
      last[2] = (last[2] * (last[1] - last[0]) + lane.count[i] * (to - from)) / (to - last[0]);
      last[1] = to;
    } else pieces.push([from, to, lane.count[i]]);
  }
  return pieces;
}

function about(lane, i, timeline, letters) {
  const op = timeline.ops[lane.op[i]], group = timeline.classes[lane.op[i]];
  const rows = [`<b>${op}</b>`, group + (lane.layer[i] >= 0 ? `, layer ${lane.layer[i]}` : "")];
  rows.push(`${time(lane.start[i] / 1e12)} to ${time(lane.end[i] / 1e12)}: ${time((lane.end[i] - lane.start[i]) / 1e12)}`);
  if (lane.kind === "path") rows.push(`chip ${lane.on[i]}${timeline.roles[lane.on[i]] ? `, ${timeline.roles[lane.on[i]]}` : ""}: ` + (lane.flies[i] ? (lane.kinds[i] === 2 ? "launch of the collective" : "in flight: started, and on the wire") : lane.kinds[i] === 1 ? "message on its link" : "compute, or a wait"));
  if (lane.kind === "compute" && (lane.flops[i] || lane.bytes[i])) {
    rows.push(`${Number((lane.flops[i] / 1e9).toPrecision(4))} GFLOP, ${amount(lane.bytes[i])} of memory: ${lane.slow[i] ? "memory-bound" : "compute-bound"}`);
    const took = (lane.end[i] - lane.start[i]) / 1e12;
    rows.push(lane.slow[i] ? `${(lane.bytes[i] / took / 1e9).toPrecision(4)} GB/s reached, of ${timeline.sources.memory}` : `${(lane.flops[i] / took / 1e12).toPrecision(4)} TFLOP/s reached, of ${timeline.sources.flops}`);
  }
  if (lane.kind === "link") {
    rows.push(`${amount(lane.bytes[i])}` + (timeline.folded ? "" : ` to chip ${lane.to[i]}`) + `, ${(lane.bytes[i] / (lane.end[i] - lane.start[i]) * 1e3).toPrecision(4)} GB/s reached`);
    if (timeline.sources.link) rows.push(`of ${timeline.sources.link}`);
  }
  if (lane.kind === "collectives") rows.push(timeline.sources.collective);
  return rows.map((row) => wrap(row, letters)).join("<br>");
}

const FLYING = " in flight", MOST_ARROWS = 40;

// Arrows from the end of each message on its link to its arrival in the collective of a lane that is drawn, in picoseconds
// and rows: [x, row, x, row]. None where they are too many to be followed.
function arrowsOf(side, x0, x1) {
  const found = [];
  for (const [lane, own] of side.rows) if (lane.arrives) for (let i = firstAfter(lane.end, x0); i < lane.start.length && lane.start[i] < x1; i++) {
    const row = side.rows.get(side.every[lane.arrives[i]]), arrival = lane.end[i] + lane.later[i];
    if (row !== undefined && lane.end[i] < x1 && arrival < x1) found.push([lane.end[i] - side.shift, own, arrival - side.shift, row]);
    if (found.length > MOST_ARROWS) return [];
  }
  return found;
}

// A run on a timeline: its lanes, the chips whose lanes are drawn, and by how much its times are moved, picoseconds.
function sideOf(timeline, isAlone) {
  const every = lanesOf(timeline), chips = timeline.chips, count = isAlone ? (chips.length > 4 ? 3 : 4) : 1;
  const choices = Object.fromEntries(chips.map((chip) => [chip, [chip]]));
  if (count > 1) Object.assign(choices, { [`first ${Math.min(count, chips.length)} chips`]: chips.slice(0, count) });
  if (chips.length > 1) Object.assign(choices, { "all of these chips": chips });
  const made = { timeline, every, edges: timeline.edges, choices, several: chips.length > 1, shift: 0 };
  made.choose = (name) => { made.lanes = every.filter((lane) => lane.kind === "path" || choices[name].includes(lane.chip)); };
  made.choose(made.chosen = Object.keys(choices)[count > 1 ? chips.length : 0]);
  made.middle = (made.edges.length - 1) >> 1;
  return made;
}

// Gives every lane its row. Layers are a row above the lanes; above each of two runs its name has one.
function placeRows(sides) {
  let row = sides.length > 1 ? 0 : -1;
  for (const side of sides) {
    side.first = row;
    if (sides.length > 1) row += 1;
    side.layersRow = row;
    side.rows = new Map(side.lanes.map((lane, i) => [lane, row + 1 + i]));
    row += 1 + side.lanes.length;
    side.last = row - 1;
  }
}

const middleOf = ({ timeline, middle }) => timeline.layers[middle];
const hasLayers = (side) => side.edges.length > 2;
const HATCHED = 0.45; // of the height of a bar, where it is exposed
const thinOf = (lane) => (lane.kind === "link" ? 0.55 : 0.8);

// The parts of a lane's exposed times that lie from x0 to x1.
function exposedOf(lane, x0, x1) {
  const found = [], { start, end } = lane.exposed;
  for (let i = firstAfter(end, x0); i < start.length && start[i] < x1; i++) found.push([Math.max(start[i], x0), Math.min(end[i], x1)]);
  return found;
}

// The lanes of the sides as plotly's bars, from x0 to x1 on an axis of so many picoseconds a unit and so many pixels; texts
// under the pointer have lines of so many letters.
function barsOf(sides, [x0, x1], ps, across, letters) {
  const pixel = (x1 - x0) / across, inPixels = (length) => length / pixel;
  const bars = { x: [], base: [], y: [], width: [], colour: [], opacity: [], hover: [], label: [], ink: [], edge: [] };
  const exposed = { x: [], base: [], y: [], width: [] }, layers = { x: [], base: [], y: [], colour: [], ink: [], label: [], hover: [] };
  const flying = (kind) => kind.endsWith(FLYING), classOf = (kind) => kind.replace(FLYING, "");
  const place = (list, side, row, from, to, bottom, height) => {
    list.base.push((from - side.shift) / ps);
    list.x.push((to - from) / ps);
    list.y.push(row - bottom - height / 2);
    list.width.push(height);
  };
  for (const side of sides) {
    const { timeline, edges } = side, order = Object.keys(timeline.colours), colours = { ...timeline.colours, held: timeline.held }, from = x0 + side.shift, to = x1 + side.shift;
    const bar = (row, start, end, bottom, height, kind, hover, { label = "", edge = 0 } = {}) => {
      const colour = colours[classOf(kind)], opacity = flying(kind) ? 0.45 : 1;
      place(bars, side, row, start, end, bottom, height);
      bars.colour.push(colour);
      bars.opacity.push(opacity);
      bars.hover.push(hover);
      bars.label.push(label && inPixels(end - start) > 7 * label.length + 8 ? label : "");
      bars.ink.push(contrasting(colour, opacity));
      bars.edge.push(edge);
    };
    for (const [lane, row] of side.rows) {
      if (lane.kind === "held") {
        for (const [start, end, count] of heldOf(lane, from, to, pixel).filter((piece) => piece[2])) {
          bar(row, start, end, -0.4, 0.8 * count / lane.total, lane.kind, `<b>${count.toPrecision(3)} of ${lane.total} multiprocessors</b><br>busy with collectives<br>${time(start / 1e12)} to ${time(end / 1e12)}`);
        }
        continue;
      }
      const thin = thinOf(lane), low = -thin / 2;
      const kindOf = (i) => timeline.classes[lane.op[i]] + (lane.kind === "path" && lane.flies[i] ? FLYING : "");
      for (const group of visible(lane, from, to, pixel, kindOf)) {
        const bare = lane.exposed ? exposedOf(lane, group.from, group.to) : [];
        if (group.count === 1) {
          const kind = kindOf(group.first), label = timeline.ops[lane.op[group.first]], hover = about(lane, group.first, timeline, letters), foot = bare.length ? HATCHED * thin : 0;
          bar(row, group.from, group.to, low, thin, kind, hover, { label: foot ? "" : label, edge: inPixels(group.to - group.from) > 4 ? 1 : 0 }); // pieces of a loop stay apart
          if (foot) bar(row, group.from, group.to, low + foot, thin - foot, kind, hover, { label }); // above the hatches
          bare.forEach(([start, end]) => place(exposed, side, row, start, end, low, HATCHED * thin));
          continue;
        }
        const kinds = Object.entries(group.kinds).sort((a, b) => order.indexOf(classOf(a[0])) - order.indexOf(classOf(b[0])) || a[0].length - b[0].length);
        const busy = kinds.reduce((sum, [, length]) => sum + length, 0), all = Math.max(busy, group.to - group.from) || 1;
        const shares = kinds.map(([kind, length]) => `${classOf(kind)}${flying(kind) ? ", in flight" : ""}: ${percent(length / all)}`);
        const alone = bare.reduce((sum, [start, end]) => sum + end - start, 0) / all;
        if (alone) { shares.push(`exposed: ${percent(alone)}`); place(exposed, side, row, group.from, group.to, low, thin * alone); }
        const hover = `<b>${group.count} bars from ${time(group.from / 1e12)} to ${time(group.to / 1e12)}</b><br>${shares.join("<br>")}<br>heights are shares of the time;<br>zoom in to see each`;
        let bottom = low;
        for (const [kind, length] of kinds) {
          bar(row, group.from, group.to, bottom, thin * length / all, kind, hover);
          bottom += thin * length / all;
        }
      }
    }
    if (hasLayers(side)) for (let k = 0; k < edges.length - 1; k++) if (edges[k + 1] > from && edges[k] < to) {
      const start = Math.max(edges[k], from), length = Math.min(edges[k + 1], to) - start; // what is seen of it, with its name in the middle
      const name = timeline.layers[k], long = `${name}: ${time((edges[k + 1] - edges[k]) / 1e12)}`;
      layers.base.push((start - side.shift) / ps);
      layers.x.push(length / ps);
      layers.y.push(side.layersRow);
      layers.colour.push(k % 2 ? FAINT : "#9aa0a6");
      layers.ink.push(k % 2 ? INK : "#000");
      layers.label.push([long, name].find((label) => inPixels(length) > 7 * label.length + 8) || "");
      layers.hover.push(`layer ${long}`);
    }
  }
  const look = { type: "bar", orientation: "h", hovertemplate: "%{hovertext}<extra></extra>", textposition: "inside", insidetextanchor: "middle", textangle: 0, constraintext: "none" };
  return [
    { ...look, x: bars.x, base: bars.base, y: bars.y, width: bars.width, hovertext: bars.hover, text: bars.label, textfont: { size: 11, color: bars.ink }, marker: { color: bars.colour, opacity: bars.opacity, line: { width: bars.edge, color: PAPER } } },
    { type: "bar", orientation: "h", ...exposed, hoverinfo: "skip", marker: { color: "rgba(0,0,0,0)", line: { width: 0 }, pattern: { shape: "/", fgcolor: "#222", size: 5, solidity: 0.35 } } },
    { ...look, x: layers.x, base: layers.base, y: layers.y, width: 0.6, hovertext: layers.hover, text: layers.label, textfont: { color: layers.ink }, marker: { color: layers.colour } },
  ];
}

// Names of two runs above their lanes, and behind those of the shorter one by how much it is shorter: [shapes, annotations].
function differenceOf(sides, x0, x1, ps, across) {
  if (sides.length < 2) return [[], []];
  const [a, b] = sides.map((side) => side.timeline.end), [left, right] = [Math.min(a, b), Math.max(a, b)];
  const texts = sides.map((side) => ({ xref: "paper", x: 0, y: side.first, xanchor: "left", text: `<b>${side.names.find((name) => 8 * name.length < across) || side.names[side.names.length - 1]}</b>`, showarrow: false, font: { size: 13 } }));
  if (left === right) return [[], texts];
  const side = sides[a < b ? 0 : 1], from = Math.max(left - side.shift, x0), to = Math.min(right - side.shift, x1);
  if (to <= from) return [[], texts];
  const shape = { type: "rect", x0: from / ps, x1: to / ps, y0: side.first + 0.6, y1: side.last + 0.5, fillcolor: FAINT, opacity: 0.6, line: { width: 1, dash: "dot", color: INK }, layer: "below" };
  if ((to - from) / (x1 - x0) * across > 60) texts.push({ x: (from + to) / 2 / ps, y: (side.first + side.last) / 2, text: `B ${b > a ? "+" : "-"}${percent(Math.abs(b / a - 1))}`, showarrow: false });
  return [[shape], texts];
}

// The timeline of a run, or of two on one axis of time, A above B: each with its data and its `names`, the longest first.
function drawTimeline(parent, runs, key) {
  const sides = runs.map((run) => Object.assign(sideOf(run.timeline, runs.length === 1), { names: run.names })), two = sides.length > 1;
  const letter = (i) => (two ? `${"AB"[i]}: ` : "");
  const named = (side, i) => (lane) => letter(i).replace(":", "") + (side.several && lane.chip ? `${target.clientWidth < 600 ? lane.chip.split(",")[0] : lane.chip}: ${lane.label} ` : `${lane.label} `);
  const buttons = el(parent, "div", null, { className: "buttons" });
  const used = new Set(sides.flatMap(({ every, timeline }) => every.flatMap((lane) => [...new Set(lane.op)].map((op) => timeline.classes[op]))));
  const colours = sides[0].timeline.colours;
  const held = sides.flatMap(({ every, timeline }) => every.filter((lane) => lane.kind === "held").map((lane) => [`busy with collectives, full height: all ${lane.total} multiprocessors`, timeline.held])).slice(0, 1);
  legend(parent, [...Object.keys(colours).filter((name) => used.has(name)).map((name) => [name, colours[name]]), ["exposed: no compute meanwhile", PAPER, true], ...held]);
  const target = el(parent, "div", null, { className: "plot", id: `timeline${key}` });
  const note = el(parent, "p");
  const longest = Math.max(...sides.map((side) => side.timeline.end)), [unit, unitName] = unitOf(longest / 1e12), ps = unit * 1e12, us = unit * 1e6; // of the axis
  const across = () => target._fullLayout?._size?.w || 0.8 * target.clientWidth; // pixels of the plot, beside its labels
  const ends = () => [Math.min(...sides.map((side) => -side.shift)) / ps, Math.max(...sides.map((side) => side.timeline.end - side.shift)) / ps];
  const inPs = (range) => range.map((at) => at * ps);

  function look(range) {
    const [x0, x1] = inPs(range), whole = ends(), isWhole = range[1] - range[0] > 0.999 * (whole[1] - whole[0]);
    const arrows = isWhole ? [] : sides.flatMap((side) => arrowsOf(side, x0 + side.shift, x1 + side.shift));
    const [shapes, texts] = differenceOf(sides, x0, x1, ps, across());
    const labels = sides.flatMap((side, i) => [...(hasLayers(side) ? [[side.layersRow, `${letter(i).replace(":", "")}layer `]] : []), ...side.lanes.map((lane) => [side.rows.get(lane), named(side, i)(lane)])]);
    const lanes = sides.flatMap((side) => side.lanes), top = two ? -0.6 : hasLayers(sides[0]) ? -1.5 : -0.6;
    return layout({
      shapes, annotations: [...texts, ...arrows.map(([x, row, to, end]) => ({ x: to / ps, y: end + (row > end ? 0.4 : -0.4), ax: x / ps, ay: row, xref: "x", yref: "y", axref: "x", ayref: "y", text: "", showarrow: true, arrowhead: 2, arrowsize: 0.9, arrowwidth: 1.2, arrowcolor: INK, opacity: 0.75 }))],
      height: 140 + (two ? 120 : 0) + lanes.reduce((sum, lane) => sum + (lane.kind === "link" ? 24 : 34), 0), bargap: 0, barmode: "overlay", showlegend: false, hovermode: "closest", dragmode: "zoom",
      margin: { l: 120, r: 12, t: 32, b: 46 }, xaxis: { range, title: { text: `time, ${unitName}`, standoff: 6 }, exponentformat: "none", separatethousands: true, showspikes: true, spikemode: "across", spikethickness: 1, spikecolor: "#bbb" },
      yaxis: { range: [sides[sides.length - 1].last + 0.6, top], tickvals: labels.map(([row]) => row), ticktext: labels.map(([, text]) => text), automargin: true, fixedrange: true, zeroline: false, showgrid: false },
    });
  }

  let current = ends();
  const draw = (plot, range) => plot(target, barsOf(sides, inPs(range), ps, across(), Math.min(70, Math.floor(target.clientWidth / 8))), look(range), CONFIG);
  function show(range) {
    const whole = ends(), width = Math.max(range[1] - range[0], 1 / ps), from = Math.min(Math.max(range[0], whole[0]), Math.max(whole[1] - width, whole[0]));
    current = [from, Math.min(from + width, whole[1])];
    target.dataset.span = String((current[1] - current[0]) * us);
    const moved = sides[sides.length - 1].shift;
    note.textContent = moved ? `B is moved by ${time(Math.abs(moved) / 1e12)}, so that layer ${middleOf(sides[0])} of A and layer ${middleOf(sides[1])} of B begin together.` : "";
    draw(Plotly.react, current);
  }
  function showWhole() {
    sides.forEach((side) => { side.shift = 0; });
    show(ends());
  }
  function showLayers(count) { // from the middle one on; those of two runs begin at once
    const [first] = sides, last = (side) => side.edges[Math.min(side.middle + count, side.edges.length - 1)];
    sides.forEach((side) => { side.shift = side.edges[side.middle] - first.edges[first.middle]; });
    show([first.edges[first.middle] / ps, Math.max(...sides.map((side) => last(side) - side.shift)) / ps]);
  }
  const middle = () => (current[0] + current[1]) / 2, width = () => current[1] - current[0];
  const actions = [["whole step", "whole", showWhole]];
  if (sides.every((side) => side.edges.length > 1)) actions.push(["one layer", "layer", () => showLayers(1)]);
  actions.push(["zoom in", "in", () => show([middle() - width() / 4, middle() + width() / 4])],
    ["zoom out", "out", () => show([middle() - width(), middle() + width()])],
    ["earlier", "earlier", () => show([current[0] - width() / 2, current[1] - width() / 2])],
    ["later", "later", () => show([current[0] + width() / 2, current[1] + width() / 2])]);
  sides.filter((side) => side.several).forEach((side) => {
    const choice = el(buttons, "select", null, { id: `chips${key}${two ? `-${"ab"[sides.indexOf(side)]}` : ""}`, title: "chips drawn" });
    Object.keys(side.choices).forEach((name) => el(choice, "option", letter(sides.indexOf(side)) + name, { value: name }));
    choice.value = side.chosen;
    choice.onchange = () => { side.choose(choice.value); placeRows(sides); show(current); };
  });
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
  placeRows(sides);
  draw(Plotly.newPlot, current).then(() => {
    target.dataset.span = String(width() * us);
    target.on("plotly_relayout", (change) => {
      const from = change["xaxis.range[0]"], to = change["xaxis.range[1]"];
      if (from !== undefined) show([from, to]);
      else if (change["xaxis.autorange"]) showWhole();
    });
    if (two || sides[0].edges.length <= 6) showWhole();
    else showLayers(2);
  });
  sides.forEach(({ timeline }, i) => {
    const kept = timeline.messages_of_layers;
    if (kept) el(parent, "p", `${letter(i)}Messages are shown individually for layers ${kept.map((k) => sides[i].timeline.layers[k]).join(" to ")} only.`, { className: "dim" });
    if (timeline.not_drawn) el(parent, "p", `${letter(i)}${timeline.not_drawn} more ${timeline.not_drawn === 1 ? "chip differs and is" : "chips differ and are"} not drawn.`, { className: "dim" });
  });
  el(parent, "p", "Drag over the plot or press W to zoom in, S to zoom out, A and D to move; double-click to see the whole step. A bar shows its operation, bytes, the rate that it reached and where the rate comes from. Where bars are narrower than a pixel, heights are shares of the time. Zoomed in, arrows lead from messages to their arrival in a collective" + (sides.some((side) => side.timeline.folded) ? "; one chip stands for all that are alike, so it receives what it sends." : "."), { className: "dim" });
}
