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
    table(el(columns, "div", null, { className: "wide" }), ["critical path, by cause", "A", "B", "B - A"], rows(phase.causes), `difference-${phase.phase}`);
    table(el(columns, "div", null, { className: "wide" }), ["by operation", "A", "B", "B - A"], rows(phase.ops));
  });
  el(box, "h3", "What differs between the scenarios");
  table(el(box, "div", null, { className: "wide" }), ["field", "A", "B"], comparison.fields.map((field) => [field.name, field.before, field.after]), "fields");
}

// A timeline per phase; those of two runs are on one axis of time.
function timelines(page, names) {
  const box = section(page, "time", DATA.runs.length > 1 ? "Timeline, A above B" : "Timeline");
  const kinds = [...new Set(DATA.runs.flatMap((run) => run.phases.map((phase) => phase.phase)))];
  kinds.forEach((kind) => {
    const found = DATA.runs.flatMap((run, r) => run.phases.filter((phase) => phase.phase === kind).map((phase) => {
      const end = time(phase.step_s), whole = `${phase.span}: ${end}`;
      return { ...phase, names: [`${names[r]}, ${whole}`, whole, end].map((name) => `${"AB"[r]}: ${name}`) };
    }));
    if (kinds.length > 1) el(box, "h3", found[0].title);
    const compared = DATA.comparison?.phases.find((phase) => phase.phase === kind);
    if (compared) el(box, "p", compared.summary);
    drawTimeline(box, found, kinds.length > 1 ? `-${kind}` : "");
  });
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
  if (two) timelines(page, names);
  const part = (id, title, draw, beside) => { // beside: two runs fit next to each other
    const box = section(page, id, title);
    const around = two && beside ? el(box, "div", null, { className: "columns" }) : box;
    const columns = DATA.runs.map(() => el(around, "div")); // all there before a plot takes the width of its own
    DATA.runs.forEach((run, r) => {
      const own = columns[r];
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
    if (phase.stages) stages(box, phase.stages, run.looks);
  }));
  part("waterfall", "From the closed form to the simulation", phases(waterfall));
  if (!two) timelines(page, names);
  part("critical", "Critical path", phases(critical));
  if (DATA.runs.some((run) => run.phases.some((phase) => phase.experts))) part("experts", "Experts", phases(experts));
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
