// --- experts ----------------------------------------------------------------------------------------------------------

// Bars with their mean, the highest marked.
function expertBars(parent, values, { title, axis, names, expected }) {
  el(parent, "h3", title);
  const target = el(parent, "div", null, { className: "plot" }), most = Math.max(...values), mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const { blue, vermilion } = DATA.colours.palette, even = most === Math.min(...values);
  const shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: mean, y1: mean, line: { color: INK, dash: "dash", width: 1 } }];
  const traces = [{
    type: "bar", x: values.map((_, i) => i), y: values, hovertext: values.map((value, i) => `${names(i)}: ${Math.round(value).toLocaleString("en")} rows, ${(value / mean).toFixed(2)} x the mean`), hovertemplate: "%{hovertext}<extra></extra>",
    marker: { color: values.map((value) => (value === most && !even ? vermilion : blue)), line: { width: 0 } },
  }];
  if (expected) {
    traces.push({ type: "scatter", mode: "markers", x: [0], y: [expected.rows], marker: { symbol: "diamond", size: 9, color: INK }, cliponaxis: false, hovertemplate: `${expected.text}<extra></extra>` });
  }
  Plotly.newPlot(target, traces, layout({
    height: 220, bargap: values.length > 128 ? 0 : 0.2, margin: { l: 64, r: 12, t: 6, b: 44 }, showlegend: false, shapes,
    xaxis: { title: { text: axis, standoff: 4 }, range: [-0.012 * values.length - 0.5, values.length - 0.5] }, yaxis: { ...APART, title: { text: "rows" }, rangemode: "tozero", tickformat: ",d" },
  }), { ...CONFIG, displayModeBar: false });
  el(parent, "p", `Dashed: the mean, ${Math.round(mean).toLocaleString("en")}${even ? ", the same on all" : `; most ${Math.round(most).toLocaleString("en")}`}.${expected ? ` ${expected.text}.` : ""}`, { className: "dim" });
}

// Bytes from each chip (rows) to each (columns).
function exchangeMatrix(parent, found) {
  el(parent, "h3", "Bytes from chip to chip in a dispatch");
  if (!found.matrix) { el(parent, "p", "Of so many chips the matrix is in exchange.png only.", { className: "dim" }); return; }
  const target = el(parent, "div", null, { className: "plot" }), steps = DARK ? DATA.colours.load.slice().reverse() : DATA.colours.load, count = found.matrix.length;
  const sent = found.matrix.map((row, from) => row.map((value, to) => (from === to ? null : value))), most = Math.max(1, ...sent.flat());
  const [unit, name] = most >= 2 ** 20 ? [2 ** 20, "MiB"] : [2 ** 10, "KiB"];
  Plotly.newPlot(target, [{
    type: "heatmap", z: sent.map((row) => row.map((value) => value === null ? null : value / unit)), zmin: 0, zmax: most / unit, hoverongaps: false,
    customdata: found.matrix.map((row) => row.map(amount)), hovertemplate: "chip %{y} to chip %{x}: %{customdata}<extra></extra>",
    colorscale: steps.map((colour, i) => [i / (steps.length - 1), colour]), colorbar: { title: { text: name, side: "right" }, thickness: 12, outlinewidth: 0 },
  }], layout({
    height: Math.min(646, 86 + Math.max(240, 0.72 * (target.clientWidth || 600))), margin: { l: 56, r: 6, t: 32, b: 46 },
    xaxis: { title: { text: "to chip", standoff: 4 }, showgrid: false, zeroline: false, range: [-0.5, count - 0.5] }, yaxis: { title: { text: "from chip" }, showgrid: false, zeroline: false, range: [count - 0.5, -0.5] },
  }), CONFIG);
}

function experts(parent, phase) {
  const found = phase.experts;
  if (!found) { el(parent, "p", "The model has no experts.", { className: "dim" }); return; }
  const columns = el(parent, "div", null, { className: "columns" }), left = el(columns, "div"), right = el(columns, "div");
  expertBars(left, found.chips, { title: "Rows that each chip multiplies in a layer", axis: "chip", names: (i) => `chip ${i}` });
  expertBars(left, found.experts, { title: "Rows of each expert, fullest first", axis: "expert, by its rows", names: (i) => `expert ${i + 1} by its rows`, expected: found.expected });
  if (!found.maps.length) return;
  exchangeMatrix(right, found);
  found.maps.forEach((map) => {
    el(parent, "h3", `Links under ${map.way}`);
    linkMap(parent, map);
  });
}
