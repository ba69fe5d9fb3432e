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
  if (lane.kind === "path") rows.push(`chip ${lane.on[i]}${timeline.roles[lane.on[i]] ? `, ${timeline.roles[lane.on[i]]}` : ""}: ` + (lane.flies[i] ? (lane.kinds[i] === 2 ? "launch of the collective" : "in flight: started, and on the wire") : lane.kinds[i] === 1 ? "message on its link" : "compute, or a wait"));
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

const FLYING = " in flight", MOST_ARROWS = 40;

// Arrows from the end of each message on its link to its arrival in the collective of a lane that is drawn, in picoseconds
// and rows: [x, row, x, row]. None where they are too many to be followed.
function arrowsOf(lanes, every, x0, x1) {
  const rows = new Map(lanes.map((lane, row) => [lane, row])), found = [];
  for (const lane of lanes) if (lane.arrives) for (let i = firstAfter(lane.end, x0); i < lane.start.length && lane.start[i] < x1; i++) {
    const row = rows.get(every[lane.arrives[i]]), arrival = lane.end[i] + lane.later[i];
    if (row !== undefined && lane.end[i] < x1 && arrival < x1) found.push([lane.end[i], rows.get(lane), arrival, row]);
    if (found.length > MOST_ARROWS) return [];
  }
  return found;
}

function drawTimeline(parent, phase, key) {
  const timeline = phase.timeline, every = lanesOf(timeline), edges = timeline.edges, several = timeline.chips.length > 1;
  const first = timeline.chips.slice(0, timeline.chips.length > 4 ? 3 : 4);
  let lanes = every.filter((lane) => lane.kind === "path" || first.includes(lane.chip));
  const named = (lane) => (several && lane.chip ? `${target.clientWidth < 600 ? lane.chip.split(",")[0] : lane.chip}: ${lane.label} ` : `${lane.label} `);
  const buttons = el(parent, "div", null, { className: "buttons" });
  const used = new Set(every.flatMap((lane) => [...new Set(lane.op)].map((op) => timeline.classes[op])));
  const order = Object.keys(timeline.colours), flying = (kind) => kind.endsWith(FLYING), classOf = (kind) => kind.replace(FLYING, "");
  legend(parent, [...order.filter((name) => used.has(name)).map((name) => [name, timeline.colours[name]]), ["line under a collective: exposed, no compute meanwhile", INK]]);
  const thinOf = (lane) => (lane.kind === "link" ? 0.55 : 0.8);
  const target = el(parent, "div", null, { className: "plot", id: `timeline${key}` });
  const [unit, unitName] = unitOf(timeline.end / 1e12), ps = unit * 1e12, us = unit * 1e6; // of the axis
  const whole = [0, timeline.end / ps];

  const across = () => target._fullLayout?._size?.w || 0.8 * target.clientWidth; // pixels of the plot, beside its labels

  function traces(range) {
    const [x0, x1] = range.map((at) => at * ps), pixel = (x1 - x0) / across();
    const bars = { x: [], base: [], y: [], width: [], colour: [], opacity: [], hover: [], label: [], edge: [] };
    const under = { x: [], y: [] };
    const inPixels = (length) => length / (x1 - x0) * across();
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
    const isWhole = range[1] - range[0] > 0.999 * whole[1], arrows = isWhole ? [] : arrowsOf(lanes, every, range[0] * ps, range[1] * ps);
    return layout({
      annotations: arrows.map(([x, row, to, end]) => ({ x: to / ps, y: end + (row > end ? 0.4 : -0.4), ax: x / ps, ay: row, xref: "x", yref: "y", axref: "x", ayref: "y", text: "", showarrow: true, arrowhead: 2, arrowsize: 0.9, arrowwidth: 1.2, arrowcolor: INK, opacity: 0.75 })),
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
    show(edges.length <= 6 ? whole : [edges[(edges.length - 1) >> 1] / ps, edges[Math.min(((edges.length - 1) >> 1) + 2, edges.length - 1)] / ps]);
  });
  const kept = timeline.messages_of_layers;
  if (kept) el(parent, "p", `Messages are shown individually for layers ${kept[0]} to ${kept[1]} only.`, { className: "dim" });
  if (timeline.not_drawn) el(parent, "p", `${timeline.not_drawn} more ${timeline.not_drawn === 1 ? "chip differs and is" : "chips differ and are"} not drawn.`, { className: "dim" });
  el(parent, "p", "Drag over the plot or press W to zoom in, S to zoom out, A and D to move; double-click to see the whole step. A bar shows its operation, bytes, the rate that it reached and where the rate comes from. Where bars are narrower than a pixel, heights are shares of the time. Zoomed in, arrows lead from messages to their arrival in a collective" + (timeline.folded ? "; one chip stands for all that are alike, so it receives what it sends." : "."), { className: "dim" });
}
