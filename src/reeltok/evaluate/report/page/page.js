"use strict";
/* Everything on the page but the player: tables, plots, choices. Data stands in the page itself. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8a5bd6", "#7f7f7f"];
const rows = DATA.models.filter((model) => model.role !== "curve");

/* A colour for each row, never one for two: behind the chosen ones, hues far from the last. */
function colourOf(model) {
  const i = rows.indexOf(model);
  return COLOURS[i] ?? `hsl(${Math.round((i * 137.5) % 360)} 65% 42%)`;
}

function make(tag, text, more = {}) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [key, value] of Object.entries(more)) node.setAttribute(key, value);
  return node;
}

function draw(tag, more = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(more)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function said(key, value) {
  if (value === undefined || value === null) return "–";
  const metric = DATA.metrics[key];
  if (metric && metric.definition) {
    const small = value && Math.abs(value) < 10 ** (1 - metric.digits); // two digits that count
    return small ? String(Number(value.toPrecision(2))) : value.toFixed(metric.digits);
  }
  return Math.abs(value) >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 0 })
    : String(Number(value.toPrecision(4)));
}

/* ---- numbers ---- */

const columns = Object.keys(DATA.metrics).sort((a, b) => b.endsWith("bits_per_pixel") - a.endsWith("bits_per_pixel"));
let order = { key: null, up: false };

function fillTable() {
  const table = el("table"), head = make("tr"), body = make("tbody");
  for (const key of [null, ...columns]) {
    const cell = make("th", null, { scope: "col" }), metric = DATA.metrics[key];
    const button = make("button", key === null ? "model" : key);
    if (metric) button.title = [metric.definition, metric.unit, metric.better && `${metric.better} is better`]
      .filter(Boolean).join("; ");
    button.addEventListener("click", () => sortBy(key));
    if (order.key === key && order.set) cell.setAttribute("aria-sort", order.up ? "ascending" : "descending");
    cell.append(button);
    head.append(cell);
  }
  for (const model of sorted()) body.append(rowOf(model));
  const caption = make("caption", DATA.judged);
  table.replaceChildren(caption, make("thead"), body);
  table.tHead.append(head);
  sayWhetherThereIsMore();
}

function sayWhetherThereIsMore() {
  const wide = el("table").parentElement;
  el("further").hidden = wide.scrollWidth <= wide.clientWidth + 1;
}

function rowOf(model) {
  const row = make("tr"), name = make("th", model.name, { scope: "row" });
  if (!model.trained) name.append(make("small", " (random weights)"));
  row.append(name);
  for (const key of columns) {
    const value = model.values[key], cell = make("td", value ? said(key, value.mean) : null);
    if (value && value.low !== null) cell.append(make("small", `${said(key, value.low)} – ${said(key, value.high)}`));
    if (!value) {
      cell.textContent = model.missing[key] ? "no weights" : "–";
      if (model.missing[key]) cell.title = model.missing[key];
    }
    if (value && rows.length > 1 && said(key, best(key)) === said(key, value.mean)) cell.className = "best";
    row.append(cell);
  }
  return row;
}

function best(key) {
  const better = DATA.metrics[key].better;
  const found = rows.filter((model) => model.values[key]).map((model) => model.values[key].mean);
  if (!better || !found.length) return null;
  return better === "higher" ? Math.max(...found) : Math.min(...found);
}

function sortBy(key) {
  const first = key === null || DATA.metrics[key].better === "lower";
  order = { key, up: order.set && order.key === key ? !order.up : first, set: true };
  fillTable();
  const place = key === null ? 0 : columns.indexOf(key) + 1;
  el("table").tHead.rows[0].cells[place].firstChild.focus();
}

function sorted() {
  if (!order.set) return rows;
  const of = (model) => (order.key === null ? model.name : model.values[order.key]?.mean);
  return [...rows].sort((a, b) => {
    const [x, y] = [of(a), of(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return (x < y ? -1 : x > y ? 1 : 0) * (order.up ? 1 : -1);
  });
}

function fillPaired() {
  const models = rows.filter((model) => Object.keys(DATA.paired[model.name] || {}).length);
  const keys = [...new Set(models.flatMap((model) => Object.keys(DATA.paired[model.name])))];
  const head = make("tr"), body = make("tbody");
  head.append(...["model", ...keys].map((key) => make("th", key, { scope: "col" })));
  for (const model of models) {
    const row = make("tr");
    row.append(make("th", model.name, { scope: "row" }));
    for (const key of keys) {
      const gap = DATA.paired[model.name][key], cell = make("td", gap ? `${gap.mean > 0 ? "+" : ""}${said(key, gap.mean)}` : "–");
      if (gap && gap.low !== null) cell.append(make("small", `${said(key, gap.low)} – ${said(key, gap.high)}`));
      row.append(cell);
    }
    body.append(row);
  }
  el("paired").replaceChildren(make("caption", `What is added to ${DATA.models[0].name}`), make("thead"), body);
  el("paired").tHead.append(head);
}

function fillPublished() {
  for (const table of DATA.published) {
    const box = make("details"), grid = make("table"), head = make("tr"), wide = make("div", null,
      { class: "wide", tabindex: 0, role: "region", "aria-label": table.title });
    box.append(make("summary", `${table.title} (${table.source})${table.same ? "; the same definition as here" : ""}`), wide);
    head.append(...["model", ...table.columns].map((name) => make("th", name, { scope: "col" })));
    grid.append(head);
    for (const line of table.rows) {
      const row = make("tr");
      row.append(make("th", line.model, { scope: "row" }),
        ...table.columns.map((name) => make("td", line.values[name] ?? "–")));
      grid.append(row);
    }
    wide.append(grid);
    el("published").append(box);
  }
}

/* ---- rate and distortion ---- */

function points(metric) {
  return DATA.models.filter((model) => model.values[metric] && model.values.bits_per_pixel && model.role !== "clip"
    || model.role === "clip" && model.values[metric])
    .map((model) => ({ model, x: (model.values[el("bits").value] ?? model.values.bits_per_pixel).mean, y: model.values[metric] }));
}

function fillRate() {
  const metric = el("metric").value, found = points(metric), svg = el("rate");
  const right = 20, [w, h, left, low] = [Math.min(900, Math.max(340, svg.parentElement.clientWidth)), 440, 48, 48];
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.replaceChildren();
  if (!found.length) return;
  const xs = found.map((p) => Math.log10(p.x)), ys = found.flatMap((p) => [p.y.low ?? p.y.mean, p.y.high ?? p.y.mean]);
  const span = (v) => { const a = Math.min(...v), b = Math.max(...v), d = (b - a || 1) * 0.08; return [a - d, b + d]; };
  const [x0, x1] = span(xs), [y0, y1] = span(ys);
  const X = (v) => left + ((Math.log10(v) - x0) / (x1 - x0)) * (w - left - right);
  const Y = (v) => h - low - ((v - y0) / (y1 - y0)) * (h - low - 34), labels = [];
  for (const v of ticks(y0, y1)) svg.append(draw("path", { d: `M${left} ${Y(v)}H${w - right}`, class: "axis" }),
    draw("text", { x: left - 6, y: Y(v) + 4, "text-anchor": "end" }, String(v)));
  for (const u of decades(x0, x1)) svg.append(draw("path", { d: `M${X(u)} ${h - low}v5`, class: "axis" }),
    draw("text", { x: X(u), y: h - low + 18, "text-anchor": "middle" }, String(u)));
  const { unit, better } = DATA.metrics[metric];
  svg.append(draw("text", { x: (left + w - right) / 2, y: h - 8, "text-anchor": "middle" }, "bits per pixel (logarithmic)"),
    draw("text", { x: 2, y: 14 }, `${metric}${unit ? ` (${unit})` : ""}${better ? `, ${better} is better` : ""}`));
  const families = {};
  for (const point of found) {
    if (["curve", "set"].includes(point.model.role)) (families[point.model.codec || point.model.name] ??= []).push(point);
  }
  for (const [name, line] of Object.entries(families)) {
    line.sort((a, b) => a.x - b.x);
    const twin = rows.find((m) => m.role === "clip" && m.codec === name) ?? rows.find((m) => m.codec === name);
    const colour = twin ? colourOf(twin) : "var(--quiet)", end = line[line.length - 1];
    svg.append(draw("path", { d: "M" + line.map((p) => `${X(p.x)} ${Y(p.y.mean)}`).join("L"), fill: "none", stroke: colour, "stroke-width": 2 }));
    line.forEach((p) => svg.append(dot(p, X, Y, colour, 2.5)));
    labels.push({ x: X(end.x), y: Y(end.y.mean), text: `${name} at fixed qualities`, colour });
  }
  for (const point of found.filter((p) => !["curve", "set"].includes(p.model.role))) {
    const colour = colourOf(point.model), [x, y] = [X(point.x), Y(point.y.mean)];
    if (point.y.low !== null) svg.append(draw("path", { d: `M${x} ${Y(point.y.low)}V${Y(point.y.high)}`, stroke: colour }));
    svg.append(dot(point, X, Y, colour, 5));
    labels.push({ x, y, text: point.model.name, colour });
  }
  place(svg, labels, { left, right: w - right, top: 20, low: h - low });
  el("rate-said").textContent = `${metric} at bits per pixel: ` + found.map((p) =>
    `${p.model.name} ${said(metric, p.y.mean)} at ${p.x.toFixed(4)}`).join("; ") + ".";
}

/* Put labels beside their points, apart from one another and inside the box; a line leads to those far off. */
function place(svg, labels, box) {
  const taken = labels.map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]), high = 14;
  const free = ([a, b, c, d]) => a >= box.left && c <= box.right && b >= box.top && d <= box.low &&
    taken.every(([p, q, r, s]) => c <= p || a >= r || d <= q || b >= s);
  for (const { x, y, text, colour } of labels.sort((a, b) => a.y - b.y)) {
    const node = svg.appendChild(draw("text", {}, text)), wide = node.getComputedTextLength();
    const most = box.right - box.left, spots = [];
    for (let far = 0; far < 24; far += 1) {
      for (const side of far ? [-1, 1] : [0]) {
        const top = y - high / 2 + side * far * (high / 2 + 1);
        for (const start of [x + 9, x - 9 - wide, x - wide / 2]) {
          const from = Math.min(Math.max(start, box.left), Math.max(box.left, box.left + most - wide));
          spots.push([from, top, from + wide, top + high]);
        }
      }
    }
    const spot = spots.find(free) ?? spots[0], [a, b, c, d] = spot;
    taken.push(spot);
    node.setAttribute("x", a);
    node.setAttribute("y", d - 3);
    const [px, py] = [Math.min(Math.max(x, a), c), Math.min(Math.max(y, b), d)];
    if (Math.hypot(px - x, py - y) > 14) svg.insertBefore(draw("path", { d: `M${x} ${y}L${px} ${py}`, stroke: colour, "stroke-opacity": 0.6 }), node);
  }
}

/* Round numbers between two ends, about five; and between two powers of ten. */
function ticks(from, to) {
  const raw = (to - from) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((n) => n * power >= raw) * power, found = [];
  for (let i = Math.ceil(from / step); i * step <= to; i += 1) found.push(Number((i * step).toPrecision(6)));
  return found;
}

function decades(from, to) {
  const found = [];
  for (let power = Math.floor(from); power <= to; power += 1) {
    for (const n of [1, 1.5, 2, 3, 5, 7]) found.push(Number((n * 10 ** power).toPrecision(3)));
  }
  return found.filter((v) => Math.log10(v) >= from && Math.log10(v) <= to);
}

function dot(point, X, Y, colour, radius) {
  const mark = draw("circle", { cx: X(point.x), cy: Y(point.y.mean), r: radius, fill: colour });
  mark.append(draw("title", {}, `${point.model.name}: ${point.y.mean.toFixed(4)} at ${point.x.toFixed(4)} bits per pixel`));
  return mark;
}

/* ---- radar charts ---- */

function fillRadars() {
  const groups = {};
  for (const model of rows) if (model.class && model.trained) (groups[model.class] ??= []).push(model);
  for (const [name, models] of Object.entries(groups)) el("radars").append(radar(name, models));
  if (!Object.keys(groups).length) el("radars").append(make("p", "No trained tokenizer is among these."));
}

function radar(name, models) {
  const keys = ["psnr", "ssim", "ms-ssim", "lpips-alex", "flicker", "detail"].filter((key) => models.every((m) => m.values[key]));
  const figure = make("figure"), svg = draw("svg", { viewBox: "-160 -130 320 260", role: "img", width: 420 });
  const at = (i, r) => { const a = (2 * Math.PI * i) / keys.length - Math.PI / 2; return [r * Math.cos(a), r * Math.sin(a)]; };
  const ring = (r) => "M" + keys.map((_, i) => at(i, r).join(" ")).join("L") + "Z";
  for (const r of [33, 66, 100]) svg.append(draw("path", { d: ring(r), class: "axis" }));
  keys.forEach((key, i) => {
    const [x, y] = at(i, 112);
    svg.append(draw("text", { x, y: y + 4, "text-anchor": Math.abs(x) < 9 ? "middle" : x > 0 ? "start" : "end" }, key));
  });
  for (const model of models) {
    const shape = keys.map((key, i) => at(i, 100 * share(key, model, models)).join(" ")).join("L");
    svg.append(draw("path", { d: `M${shape}Z`, fill: colourOf(model), "fill-opacity": 0.12, stroke: colourOf(model), "stroke-width": 2 }));
  }
  const text = models.map((m) => `${m.name}: ${keys.map((k) => `${k} ${said(k, m.values[k].mean)}`).join(", ")}`).join("; ");
  svg.append(draw("title", {}, `${name}. ${text}`));
  const list = make("figcaption", `${name}: `);
  for (const m of models) {
    const mark = make("span", "● ", { "aria-hidden": true });
    mark.style.color = colourOf(m);
    list.append(mark, `${m.name} `);
  }
  list.append(make("div", "The outer ring is the best of this class, the inner the worst.", { class: "quiet" }));
  figure.append(make("h3", name), svg, list);
  return figure;
}

function share(key, model, models) {
  const all = models.map((m) => m.values[key].mean), [a, b] = [Math.min(...all), Math.max(...all)];
  if (a === b) return 1;
  const part = (model.values[key].mean - a) / (b - a);
  return 0.33 + 0.67 * (DATA.metrics[key].better === "lower" ? 1 - part : part);
}

/* ---- clips, tokens, choices ---- */

const shown = DATA.clips.filter((clip) => clip.slug && DATA.models.some((model) => model.videos.includes(clip.name)));
// What a pane can show: the original, a model's videos, its motion. Users choose names, so keys tell them apart.
const taken = DATA.models.some((model) => model.name === "original");
const choices = [{ key: "original", name: taken ? "original clip" : "original" },
  ...DATA.models.flatMap((model, i) => [
    { key: `videos-${i}`, name: model.name, model, clips: model.videos },
    { key: `motions-${i}`, name: `${model.name}: motion`, model, clips: model.motions, motion: true },
  ]).filter((choice) => choice.clips.length)];
const chosen = (id) => choices.find((choice) => choice.key === el(id).value);

function fillClips() {
  const model = DATA.models[el("of").value];
  const scored = Object.entries(model?.clips ?? {}).filter(([, clip]) => "psnr" in clip.values)
    .sort((a, b) => a[1].values.psnr - b[1].values.psnr);
  const put = (list, found) => el(list).replaceChildren(...found.map(([name, clip]) => {
    const item = make("li"), button = make("button", `${name}: ${said("psnr", clip.values.psnr)} dB`);
    button.addEventListener("click", () => {
      const videos = choices.find((choice) => choice.model === model && choice.clips.includes(name));
      if (!videos) {
        el("said").textContent = `${model.name} has no video of this clip.`;
        return;
      }
      el("clip").value = name;
      el("left").value = "original";
      el("right").value = videos.key;
      choose().then(() => el("stage").focus());
      el("player").scrollIntoView();
    });
    item.append(button);
    return item;
  }));
  put("worst", scored.slice(0, 5));
  put("best", scored.slice(-5).reverse());
}

function address({ model, clips, motion }, clip) {
  if (!model) return `media/${DATA.original}/${clip.slug}.mp4`;
  return clips.includes(clip.name) ? `media/${model.slug}/${clip.slug}${motion ? "-motion" : ""}.mp4` : null;
}

async function choose() {
  const clip = shown.find((c) => c.name === el("clip").value), sides = [chosen("left"), chosen("right")];
  const found = sides.map((side) => address(side, clip)), names = sides.map((side) => side.name);
  if (found.includes(null)) {
    el("said").textContent = `${names[found.indexOf(null)]} has no video of this clip.`;
    return;
  }
  const colours = sides.some((side) => side.motion)
    ? ["motion: hue is its direction (red to the right), full at 16 pixels; dim cells were skipped"] : [];
  el("said").textContent = [...sides.map((side) => scoreOf(side, clip)), ...colours].filter(Boolean).join("; ");
  await Player.load(clip, found, names);
  fillHistogram();
}

function scoreOf({ name, model, motion }, clip) {
  const of = motion ? null : model?.clips[clip.name];
  if (!of) return "";
  const pixels = clip.frames * clip.width * clip.height, stored = of.stored_bits ?? of.bits;
  const also = stored === of.bits ? "" : ` (${(stored / pixels).toFixed(4)} stored)`;
  const bits = of.bits === null ? "" : `, ${(of.bits / pixels).toFixed(4)} bits per pixel${also}`;
  return `${name}: ${"psnr" in of.values ? `${said("psnr", of.values.psnr)} dB` : "no score"}${bits}`;
}

/* How many steps of ids some frames have, and which one a frame has: null where it has none. */
function stepsOf(frames, timing) {
  const { first_frames, first_steps, frames_per_group, steps_per_group, window } = timing;
  if (window && frames > window) {
    const whole = Math.floor(frames / window), left = frames - whole * window;
    return whole * stepsOf(window, timing) + (left && stepsOf(left, timing));
  }
  return first_steps + Math.ceil(Math.max(0, frames - first_frames) / frames_per_group) * steps_per_group;
}

function stepOf(frame, timing) {
  const { first_frames, first_steps, frames_per_group, steps_per_group, window } = timing;
  if (window && frame >= window) {
    const before = Math.floor(frame / window), step = stepOf(frame % window, timing);
    return step === null ? null : before * stepsOf(window, timing) + step;
  }
  if (frame < first_frames) return first_steps ? Math.floor((frame * first_steps) / first_frames) : null;
  return first_steps + Math.floor(((frame - first_frames) * steps_per_group) / frames_per_group);
}

const strips = { held: {}, wanted: null };
function showTokens(state) {
  const model = [chosen("right").model, chosen("left").model]
    .find((m) => m && m.maps.includes(state.clip.name)), canvas = el("tokens");
  strips.wanted = null;
  canvas.hidden = !model;
  el("tokens-said").textContent = model ? "" : "Neither of the two has a map of ids.";
  if (!model) return;
  const file = `media/${model.slug}/${state.clip.slug}.png`;
  const strip = (strips.held[file] ??= Object.assign(new Image(), { src: file }));
  strips.wanted = file;
  const put = () => {
    if (file !== strips.wanted) return; // another clip or model was chosen while it loaded
    const high = strip.naturalHeight, wide = Math.ceil(state.clip.width / model.settings.factors[2]);
    const steps = stepsOf(state.clip.frames, model.timing), now = stepOf(state.shown, model.timing);
    canvas.hidden = now === null || strip.naturalWidth !== wide * steps;
    if (canvas.hidden) {
      el("tokens-said").textContent = now === null ? `Frame ${state.shown + 1} has no ids of ${model.name}.`
        : `The result of ${model.name} does not say which frames its ids are of: judge it again to see them.`;
      return;
    }
    Object.assign(canvas, { width: wide, height: high });
    canvas.getContext("2d").drawImage(strip, now * wide, 0, wide, high, 0, 0, wide, high);
    el("tokens-said").textContent = `Ids of ${model.name}, step ${now + 1} of ${steps}, ${wide} by ${high}; a colour is an id.`;
  };
  if (strip.complete && strip.naturalWidth) put(); else strip.onload = put;
}

function fillHistogram() {
  const model = [chosen("right").model, chosen("left").model].find((m) => m && m.counts);
  const svg = el("histogram");
  svg.replaceChildren();
  el("histogram-said").textContent = "";
  if (!model) return;
  const most = Math.max(...model.counts), total = model.counts.reduce((a, b) => a + b, 0);
  svg.setAttribute("viewBox", "0 0 320 120");
  svg.setAttribute("aria-label", `Histogram of the codebook of ${model.name}`);
  model.counts.forEach((n, i) => svg.append(draw("rect",
    { x: i * 5, y: 118 - (110 * n) / most, width: 4, height: Math.max(0.5, (110 * n) / most), fill: colourOf(model) })));
  const used = model.values.utilization, spread = model.values.perplexity;
  el("histogram-said").textContent = `${total.toLocaleString("en")} ids of ${model.name} over its codebook of ` +
    `${model.settings.vocabulary.toLocaleString("en")}` + (used ? `; ${(100 * used.mean).toFixed(1)} % used, perplexity ${said("perplexity", spread.mean)}` : "");
}

function fillLeftOut() {
  const left = Object.entries(DATA.left_out);
  el("left-out").hidden = !left.length;
  if (!left.length) return;
  el("left-out").replaceChildren(make("summary", `${left.length} more left out by the protocol`), make("ul"));
  el("left-out").lastChild.append(...left.map(([clip, why]) => make("li", `${clip}: ${why}`)));
}

function options(id, found) {
  el(id).replaceChildren(...found.map(({ key, name }) => make("option", name, { value: key })));
}

// A line for each clip that could not be judged: once, whatever number of models it failed for.
function brokenClips() {
  const failed = new Map();
  DATA.models.forEach((m) => Object.entries(m.broken).forEach(([clip, why]) => {
    const key = JSON.stringify([clip, why]);
    failed.set(key, [...(failed.get(key) || []), m.name]);
  }));
  return [...failed].map(([key, names]) => {
    const [clip, why] = JSON.parse(key);
    return `${clip} is left out ${names.length === DATA.models.length ? "for all" : `for ${names.join(", ")}`}: ${why}`;
  });
}

function begin() {
  const { name, version, data } = DATA.protocol;
  el("title").textContent = DATA.title;
  el("protocol").textContent = `Judged on ${DATA.judged}. Protocol ${name}, version ${version}, made for: ${data}. ${DATA.made}`;
  fillLeftOut();
  el("machine").textContent = Object.entries(DATA.machine).map(([key, value]) => `${key} ${value}`).join(", ");
  el("notes").replaceChildren(...DATA.notes.map((note) => make("li", note)),
    ...brokenClips().map((line) => make("li", line)));
  fillTable();
  fillPaired();
  fillPublished();
  const metrics = ["psnr-uint8", "psnr", "lpips-alex", "ssim", "ms-ssim"].filter((key) => points(key).length);
  options("metric", metrics.map((key) => ({ key, name: key })));
  el("metric").addEventListener("change", fillRate);
  el("bits").addEventListener("change", fillRate);
  if (metrics.length) fillRate();
  window.addEventListener("resize", () => {
    sayWhetherThereIsMore();
    if (metrics.length) fillRate();
  });
  fillRadars();
  options("of", rows.filter((model) => Object.values(model.clips).some((clip) => "psnr" in clip.values))
    .map((model) => ({ key: DATA.models.indexOf(model), name: model.name })));
  el("of").addEventListener("change", fillClips);
  fillClips();
  el("player").hidden = !shown.length;
  if (!shown.length) return;
  options("clip", shown.map(({ name }) => ({ key: name, name })));
  options("left", choices);
  options("right", choices);
  el("right").value = choices[1].key;
  ["clip", "left", "right"].forEach((id) => el(id).addEventListener("change", choose));
  Player.state.choose = (i) => { if (choices[i]) { el("right").value = choices[i].key; choose(); } };
  Player.state.listeners.push(showTokens);
  choose();
}

begin();
