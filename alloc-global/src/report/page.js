"use strict";
// Draws a report (the JSON beside this script) into the page. Text goes in as text, never as markup.
const report = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");

// ---- small helpers

function add(parent, tag, attributes = {}, ...children) {
  const svg = parent.namespaceURI.endsWith("svg") || tag === "svg";
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  parent.append(element);
  return element;
}
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const sum = (items, of) => items.reduce((total, item) => total + of(item), 0);
/// At least 1. Not `Math.max(...values)`: a call has room for some 100,000 arguments, and lists may be longer.
const greatest = (items, of) => items.reduce((most, item) => Math.max(most, of(item)), 1);
const percent = (part, whole) => whole ? 100 * part / whole : 0;

function scaled(value, step, units, digits = 1) {
  let unit = 0;
  while (Math.abs(value) >= step * 0.9995 && unit < units.length - 1) { value /= step; unit += 1; }
  return `${unit && Math.abs(value) < 99.95 ? value.toFixed(digits) : Math.round(value)} ${units[unit]}`;
}
const bytes = value => scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
const time = ns => scaled(ns, 1000, ["ns", "µs", "ms", "s"]);
const count = value => Math.round(value).toLocaleString("en");
const share = (part, whole) => `${percent(part, whole).toFixed(1)} %`;

/// A section with its heading; `draw` fills it, and what it returns says how much it drew.
function section(id, title, explanation, data, missing, draw) {
  const element = add(main, "section", { id });
  add(element, "h2", {}, title);
  add(document.querySelector("nav"), "a", { href: `#${id}` }, title);
  if (!data || data.length === 0) {
    add(element, "p", {}, missing);
    element.dataset.items = "0";
    return;
  }
  add(element, "p", {}, explanation);
  element.dataset.items = draw(element, data);
}

/// Columns are [heading, cell of a row, kind]; a cell is a text or an element, and its kind true for a number, false for
/// what may break into lines.
function table(parent, columns, rows) {
  const element = add(add(parent, "div", { class: "scroll" }), "table");
  const head = add(add(element, "thead"), "tr");
  for (const [name, , number] of columns) add(head, "th", number ? { class: "n" } : {}, name);
  const body = add(element, "tbody");
  for (const row of rows) {
    const line = add(body, "tr");
    for (const [, cell, number] of columns) add(line, "td", { class: { true: "n", false: "wide" }[number] ?? "short" }, cell(row));
  }
}

/// The first rows, and the others behind a line to open.
function longTable(parent, columns, rows, first) {
  table(parent, columns, rows.slice(0, first));
  if (rows.length > first) {
    const more = add(parent, "details");
    add(more, "summary", {}, `${count(rows.length - first)} more`);
    table(more, columns, rows.slice(first));
  }
}

/// Buttons of which one is pressed.
function choice(parent, names, chosen) {
  const element = add(parent, "div", { class: "switch", role: "group" });
  const buttons = names.map((name, place) => {
    const button = add(element, "button", { type: "button" }, name);
    button.addEventListener("click", () => press(place));
    return button;
  });
  function press(place) {
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", other === place));
    chosen(place);
  }
  return press;
}

/// A colour for each part's name, the same wherever it comes up again.
const partColors = new Map();
function partColor(name) {
  if (!partColors.has(name)) {
    const place = partColors.size, color = `var(--c${place % 12 + 1})`;
    // The thirteenth and later are striped, so that no two look alike.
    partColors.set(name, place < 12 ? color : `repeating-linear-gradient(45deg, ${color} 0 3px, var(--card) 3px 5px)`);
  }
  return partColors.get(name);
}

/// A bar of parts [name, bytes, what changes it or why nothing does] and the key to it. The parts sum to `whole`.
function parts(parent, id, list, whole) {
  const bar = add(parent, "div", { class: "bar", id, "data-sum": sum(list, part => part[1]) });
  const key = add(parent, "ul", { class: "key" });
  for (const [name, size, setting] of list.filter(part => part[1] > 0)) {
    const color = partColor(name);
    const title = `${name}: ${count(size)} bytes, ${share(size, whole)}`;
    add(bar, "i", { title, style: { width: `${percent(size, whole)}%`, background: color } });
    const item = add(key, "li");
    add(item, "i", { style: { background: color } });
    item.append(`${name} ${bytes(size)} `);
    add(item, "small", {}, share(size, whole) + (setting ? `; ${setting}` : ""));
  }
}

// ---- sections

function summary(element, stats) {
  const tiles = add(element, "div", { class: "tiles" });
  for (const [value, name] of [
    [bytes(stats.live_bytes), "live"], [count(stats.live_blocks), "live blocks"],
    [bytes(stats.peak_live_bytes), "live at most"], [bytes(stats.mapped_bytes), "mapped in arenas"],
    [count(stats.allocs), "allocations"], [count(stats.deallocs), "frees"], [count(stats.reallocs), "reallocations"],
    [count(stats.reallocs_in_place), "of them in place"], [count(stats.reallocs_moved), "moved"],
    [bytes(stats.realloc_bytes_copied), "copied for that"], [count(stats.arenas), "arenas"],
    [count(stats.peak_arenas), "arenas at most"], [count(stats.pools), "pools"], [count(stats.peak_pools), "pools at most"],
    [bytes(stats.free_bytes), "of arenas not live"], [count(stats.fallback_live_blocks), "fallback blocks live"],
    [bytes(stats.fallback_live_bytes), "live in them"], [bytes(stats.fallback_cached_bytes), "cached fallback blocks"],
    [count(stats.fallback_allocs), "fallback allocations"], [count(stats.fallback_deallocs), "fallback frees"],
    [count(stats.orphan_allocs), "allocations without a cache"], [count(stats.threads), "threads with a cache"],
  ]) {
    const tile = add(tiles, "div");
    add(tile, "b", { class: "num" }, value);
    tile.append(name);
  }
  const memory = report.memory;
  const list = [
    ["live", memory.live], ["thread caches", memory.cached, "thread_flush()"], ["free blocks", memory.free_blocks],
    ["free pools", memory.free_pools, "POOLALLOC_PURGE_DELAY_MS, trim(): four in a row"], ["given back", memory.given_back],
    ["metadata", memory.metadata], ["rounding", memory.rounding],
  ];
  const total = sum(list, part => part[1]);
  add(element, "h2", {}, `Arenas: ${bytes(memory.mapped)}`);
  parts(element, "arenas-bar", list, memory.mapped);
  const agrees = total === memory.mapped ? "=" : "instead of";
  add(element, "p", { class: "note", id: "identity" },
    `The parts sum to ${count(total)} bytes ${agrees} ${count(memory.mapped)} mapped. Beside them, the fallback has ` +
    `${bytes(memory.fallback_live)} live and ${bytes(memory.fallback_cached)} cached.`);
  if (report.rss) {
    add(element, "h2", {}, `Resident: ${bytes(report.rss.resident)}`);
    parts(element, "rss-bar", report.rss.parts.map(part => [part.name, part.bytes, part.setting]), report.rss.resident);
  }
  return list.length;
}

/// Colour on the way through `stops`, for 0 to 1.
function between(stops, position) {
  const way = position * (stops.length - 1), first = Math.min(Math.floor(way), stops.length - 2);
  const channel = (stop, at) => parseInt(stops[stop].slice(at, at + 2), 16);
  const mix = at => Math.round(channel(first, at) + (channel(first + 1, at) - channel(first, at)) * (way - first));
  return `rgb(${mix(1)} ${mix(3)} ${mix(5)})`;
}

function heatmap(element, map) {
  const columns = Object.fromEntries(map.columns.map((name, place) => [name, place]));
  const cell = (pool, name) => pool[columns[name]];
  const sizes = [...new Set(map.arenas.flatMap(arena => arena.pools.map(pool => cell(pool, "class_size"))))]
    .filter(size => size > 0).sort((a, b) => a - b);
  const hue = size => `hsl(${Math.round(300 * sizes.indexOf(size) / Math.max(1, sizes.length - 1))} 60% 50%)`;
  const fullness = pool => cell(pool, "live") / Math.max(1, cell(pool, "capacity"));
  const colors = [
    pool => between(stops, fullness(pool)),
    pool => hue(cell(pool, "class_size")),
  ];
  let mode = 0, stops = [];
  const press = choice(element, ["occupancy", "size class"], place => { mode = place; draw(); });
  const key = add(element, "ul", { class: "key" });
  const canvas = add(element, "canvas", { tabindex: 0, role: "img", "aria-label": "pools of each arena" });
  const output = add(element, "output", {}, "Point at a pool.");
  const left = 118, across = greatest(map.arenas, arena => arena.pools.length);
  const high = map.arenas.length > 60 ? 6 : 16;
  const width = () => (canvas.clientWidth - left) / across;

  function draw() {
    const context = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${map.arenas.length * high}px`;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = map.arenas.length * high * ratio;
    context.scale(ratio, ratio);
    context.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    context.textBaseline = "middle";
    stops = [css("--low"), css("--middle"), css("--high")];
    const state = { metadata: css("--meta"), free: css("--free"), "given back": css("--gone") };
    const every = Math.ceil(14 / high);
    map.arenas.forEach((arena, row) => {
      context.fillStyle = css("--soft");
      if (row % every === 0) context.fillText(arena.start, 0, (row + 0.5) * high);
      arena.pools.forEach((pool, column) => {
        context.fillStyle = state[cell(pool, "state")] || colors[mode](pool);
        context.fillRect(left + column * width(), row * high, width() - 1, high - 1);
      });
    });
    describe();
  }
  function describe() {
    key.replaceChildren();
    const item = (color, name) => {
      const line = add(key, "li");
      add(line, "i", { style: { background: color } });
      line.append(name);
    };
    if (mode === 0) {
      const line = add(key, "li", {}, "blocks live: none");
      add(line, "span", { class: "grade" });
      line.append("all");
    } else {
      sizes.forEach(size => item(hue(size), `${size} bytes`));
    }
    item("var(--free)", "free");
    item("var(--gone)", "given back");
    item("var(--meta)", "metadata");
  }
  function say(row, column) {
    const arena = map.arenas[row], pool = arena && arena.pools[column];
    if (!pool) return;
    const state = cell(pool, "state");
    const where = `arena ${arena.start}, pool ${column}: `;
    output.textContent = where + (state !== "used" ? state :
      `class ${cell(pool, "class_size")}, owner heap ${cell(pool, "owner")}, ` +
      `${cell(pool, "live")} of ${cell(pool, "capacity")} blocks live (${share(fullness(pool), 1)}), ` +
      `${cell(pool, "cached")} cached, ${cell(pool, "capacity") - cell(pool, "live") - cell(pool, "cached")} free, age ${time(cell(pool, "age_ms") * 1e6)}`);
  }
  canvas.addEventListener("mousemove", event => {
    say(Math.floor(event.offsetY / high), Math.floor((event.offsetX - left) / width()));
  });
  let at = [0, 0];
  canvas.addEventListener("keydown", event => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const inside = (value, end) => Math.min(Math.max(value, 0), end - 1);
    at = [inside(at[0] + step[0], map.arenas.length), inside(at[1] + step[1], across)];
    say(...at);
  });
  press(0);
  window.addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return sum(map.arenas, arena => arena.pools.length);
}

/// Bytes asked for and bytes lost to rounding, as a meter.
function meter(asked, lost, most) {
  const element = document.createElement("div");
  element.className = "meter";
  add(element, "i", { title: `${bytes(asked)} requested`, style: { width: `${percent(asked, most)}%`, background: "var(--c1)" } });
  add(element, "i", { title: `${bytes(lost)} lost`, style: { width: `${percent(lost, most)}%`, background: "var(--c2)" } });
  return element;
}

function requested(element, rows) {
  const classes = new Map();
  for (const row of rows) {
    const sums = classes.get(row.class_size) || { size: row.class_size, blocks: 0, error: 0, asked: 0, taken: 0 };
    sums.blocks += row.blocks;
    sums.error = Math.hypot(sums.error, row.blocks_error);
    sums.asked += row.blocks * row.size;
    sums.taken += row.blocks * row.class_size;
    classes.set(row.class_size, sums);
  }
  const list = [...classes.values()].sort((a, b) => a.size - b.size);
  const most = greatest(list, row => row.taken);
  const key = add(element, "ul", { class: "key" });
  for (const [color, name] of [["--c1", "requested"], ["--c2", "lost to rounding"]]) {
    const item = add(key, "li");
    add(item, "i", { style: { background: `var(${color})` } });
    item.append(name);
  }
  longTable(element, [
    ["class", row => count(row.size), true], ["live blocks", row => count(row.blocks), true],
    ["±", row => row.error ? count(row.error) : "", true],
    ["requested", row => bytes(row.asked), true], ["lost", row => bytes(row.taken - row.asked), true],
    ["of the block", row => share(row.taken - row.asked, row.taken), true],
    ["", row => meter(row.asked, row.taken - row.asked, most), false],
  ], list, 24);
  if (report.rounding && report.rounding.length) rounding(element, report.rounding);
  return list.length;
}

/// Who loses most to rounding, and what another class would save.
function rounding(element, classes) {
  const sites = new Map(report.profile ? report.profile.sites.map(site => [site.stack.join(), site]) : []);
  const none = report.profile && report.profile.left_out ? "[left out]" : "[unknown]";
  const name = one => sites.has(one.stack.join()) ? siteName(report.profile, sites.get(one.stack.join())) : none;
  const within = (value, error) => error ? `${bytes(value)} ± ${bytes(error)}` : bytes(value);
  const better = one => one ? `${count(one.size)}: ${within(one.saved_bytes, one.saved_bytes_error)}` : "";
  const error = classes.reduce((all, row) => Math.hypot(all, row.lost_bytes_error), 0);
  add(element, "h2", {}, `Lost to rounding: ${within(sum(classes, row => row.lost_bytes), error)}`);
  add(element, "p", {}, "A class more, or another size for this one, would save so much. Up to 512 bytes there is a class for every " +
    "8 bytes, so there is nothing to be gained.");
  longTable(element, [
    ["class", row => count(row.class_size), true], ["lost", row => within(row.lost_bytes, row.lost_bytes_error), true],
    ["one more class", row => better(row.additional), true], ["in its place", row => better(row.other), true],
    ["most of it lost by", row => row.sites.map(one => `${name(one)}: ${within(one.lost_bytes, one.lost_bytes_error)}`).join("; "), false],
  ], classes, 8);
}

/// What is said where a page has not all call sites.
function leftOut(element, profile) {
  const rest = profile.left_out;
  if (!rest) return;
  add(element, "p", { class: "note" },
    `The largest ${count(profile.sites.length)} call sites are in this page. ${count(rest.sites)} more are left out: together ` +
    `${bytes(rest.live_bytes)} live in ${count(rest.live_blocks)} blocks, ${bytes(rest.alloc_bytes)} allocated in ` +
    `${count(rest.allocs)} blocks; nothing was freed of ${count(rest.never_freed)} of them. The report as JSON has all.`);
}

/// The same by call site, where only the profile knows what was requested.
function requestedBySite(element, profile) {
  leftOut(element, profile);
  const lost = site => site.live_lost_bytes;
  const rows = profile.sites.filter(site => site.live_blocks > 0).sort((a, b) => lost(b) - lost(a));
  const most = greatest(rows, site => site.live_bytes);
  longTable(element, [
    ["call site", site => siteName(profile, site), false], ["live blocks", site => count(site.live_blocks), true],
    ["mean request", site => bytes(site.live_requested_bytes / site.live_blocks), true],
    ["mean block", site => bytes(site.live_bytes / site.live_blocks), true], ["lost", site => bytes(lost(site)), true],
    ["of the block", site => share(lost(site), site.live_bytes), true],
    ["", site => meter(site.live_requested_bytes, lost(site), most), false],
  ], rows, 20);
  return rows.length;
}

/// An empty chart: lines across at `ys`, marks below at `xs`, each [position from 0 to 1, label].
function chart(parent, height, xs, ys) {
  const size = { width: 1100, height, left: 78, right: 14, top: 10, bottom: 26 };
  const svg = add(add(parent, "div", { class: "scroll" }), "svg", { viewBox: `0 0 ${size.width} ${height}`, role: "img" });
  const x = position => size.left + position * (size.width - size.left - size.right);
  const y = position => height - size.bottom - position * (height - size.top - size.bottom);
  for (const [position, label] of ys) {
    add(svg, "line", { class: "axis", x1: x(0), x2: x(1), y1: y(position), y2: y(position) });
    add(svg, "text", { x: size.left - 8, y: y(position) + 4, "text-anchor": "end" }, label);
  }
  for (const [position, label] of xs) {
    add(svg, "line", { class: "axis", x1: x(position), x2: x(position), y1: y(0), y2: y(0) + 5 });
    const anchor = position > 0.97 ? "end" : "middle";
    add(svg, "text", { x: x(position), y: height - 6, "text-anchor": anchor }, label);
  }
  const line = (points, color) => add(svg, "polyline", {
    points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "),
    fill: "none", stroke: color, "stroke-width": 2, "stroke-linejoin": "round",
  });
  return { svg, x, y, line };
}

function colorKey(parent, names) {
  const key = add(parent, "ul", { class: "key" });
  names.forEach((name, place) => {
    const item = add(key, "li");
    add(item, "i", { style: { background: `var(--c${place % 8 + 1})` } });
    item.append(name);
  });
}

function latency(element, paths) {
  const tails = [0, 0.9, 0.99, 0.999, 0.9999, 0.99999];
  const end = tails.length - 1, across = quantile => Math.min(1, -Math.log10(1 - quantile) / end);
  const longest = greatest(paths, path => path.max_ns);
  const decades = Math.max(1, Math.ceil(Math.log10(longest)));
  const up = ns => Math.log10(Math.max(1, ns)) / decades;
  colorKey(element, paths.map(path => path.path));
  const xs = [[0, "0 %"], [across(0.5), "50 %"], ...tails.slice(1).map(tail => [across(tail), `${+(tail * 100).toFixed(3)} %`])];
  const ys = Array.from({ length: decades + 1 }, (_, decade) => [decade / decades, time(10 ** decade)]);
  const drawn = chart(element, 300, xs, ys);
  paths.forEach((path, place) => {
    let below = 0;
    const points = [];
    for (const [ns, blocks] of path.recorded_ns) {
      points.push([across(below / path.count), up(ns)]);
      below += blocks;
      points.push([across(Math.min(below, path.count - 0.5) / path.count), up(ns)]);
    }
    drawn.line(points, `var(--c${place % 8 + 1})`);
  });
  const quantile = which => path => time(path.quantiles_ns[which]);
  table(element, [
    ["path", path => path.path], ["calls seen", path => count(path.count), true],
    ["mean", path => time(path.mean_ns), true], ["50 %", quantile("0.5"), true], ["90 %", quantile("0.9"), true],
    ["99 %", quantile("0.99"), true], ["99.9 %", quantile("0.999"), true], ["99.99 %", quantile("0.9999"), true],
    ["longest", path => time(path.max_ns), true],
  ], paths);
  return paths.length;
}

const METRICS = [
  ["live bytes", "live_bytes", bytes], ["live blocks", "live_blocks", count],
  ["allocated bytes", "alloc_bytes", bytes], ["allocated blocks", "allocs", count],
];

function frameName(profile, place) {
  const frame = profile.frames[place];
  return frame.function || frame.address;
}

/// Where a frame is; of an absolute path the end, which tells files of one program apart.
function framePlace(profile, place) {
  const { file, line } = profile.frames[place];
  if (!file) return "";
  const end = file.startsWith("/") ? file.split("/").slice(-2).join("/") : file;
  return ` (${line ? `${end}:${line}` : end})`;
}

/// The tree of functions, the outermost first, with one value per metric at each node. Lines are in the table below it.
function tree(profile) {
  const root = { name: "all", title: "all", values: METRICS.map(() => 0), children: new Map() };
  for (const site of profile.sites) {
    let node = root;
    const path = [...site.frames].reverse();
    for (const place of [null, ...path]) {
      if (place !== null) {
        const name = frameName(profile, place), file = profile.frames[place].file;
        if (!node.children.has(name)) {
          const title = file ? `${name} (${file})` : name;
          node.children.set(name, { name, title, values: METRICS.map(() => 0), children: new Map() });
        }
        node = node.children.get(name);
      }
      METRICS.forEach(([, field], metric) => { node.values[metric] += site[field]; });
    }
  }
  if (profile.left_out) {
    const values = METRICS.map(([, field]) => profile.left_out[field]);
    const name = "[left out]", title = `[${count(profile.left_out.sites)} call sites that are left out]`;
    root.children.set(name, { name, title, values, children: new Map() });
    values.forEach((value, metric) => { root.values[metric] += value; });
  }
  return root;
}

function flame(element, profile) {
  leftOut(element, profile);
  const root = tree(profile);
  let metric = 0, top = root;
  const press = choice(element, METRICS.map(([name]) => name), place => { metric = place; draw(); });
  const output = add(element, "output");
  const graph = add(element, "div", { class: "flame" });
  const back = add(element, "button", { type: "button" }, "whole graph");
  const step = 22;
  const value = node => METRICS[metric][2](node.values[metric]);
  const describe = node => `${node.title}: ${value(node)}, ${share(node.values[metric], root.values[metric])} of ${METRICS[metric][0]}`;
  const crate = name => name.replace(/^[<&\[(]+/, "").split("::")[0];
  const hash = text => [...text].reduce((number, letter) => (number * 31 + letter.codePointAt(0)) % 9973, 7);
  // Functions of one crate are of one family of colours.
  const hue = name => (hash(crate(name)) + hash(name) % 50) % 360;

  function place(node, depth, left, width) {
    const span = add(graph, "span", {
      title: describe(node), tabindex: 0, class: width < 0.03 ? "thin" : "",
      style: {
        left: `${100 * left}%`, width: `${100 * width}%`, top: `${depth * step}px`,
        background: node === root ? "var(--track)" : `hsl(${hue(node.name)} var(--hue-s) var(--hue-l))`,
      },
    }, width < 0.03 ? "" : `${node.name} ${value(node)}`);
    const zoom = () => { top = node; draw(); };
    span.addEventListener("click", zoom);
    span.addEventListener("keydown", event => { if (event.key === "Enter") zoom(); });
    for (const event of ["mouseenter", "focus"]) span.addEventListener(event, () => { output.textContent = describe(node); });
    let deepest = depth, from = left;
    const children = [...node.children.values()].sort((a, b) => b.values[metric] - a.values[metric]);
    for (const child of children) {
      const part = width * child.values[metric] / (node.values[metric] || 1);
      if (part > 0.0005) deepest = Math.max(deepest, place(child, depth + 1, from, part));
      from += part;
    }
    return deepest;
  }
  function draw() {
    graph.replaceChildren();
    const deepest = place(top, 0, 0, 1);
    graph.style.height = `${(deepest + 1) * step}px`;
    graph.dataset.metric = METRICS[metric][1];
    graph.dataset.total = root.values[metric];
    output.textContent = describe(top);
    back.hidden = top === root;
  }
  back.addEventListener("click", () => { top = root; draw(); });
  press(0);
  sites(element, profile);
  return graph.childElementCount;
}

/// The first function of a site that is not the standard library's, and where it is.
function siteName(profile, site) {
  const standard = /^[<&\[(]*([^:]* as )?(alloc|core|std|hashbrown|alloc_global|__rust\w*)::/;
  const place = site.frames.find(frame => !standard.test(frameName(profile, frame))) ?? site.frames[0];
  return frameName(profile, place) + framePlace(profile, place);
}

function sites(element, profile) {
  const median = site => {
    const counts = site.lifetimes_log2_us, half = sum(counts, n => n) / 2;
    let below = 0;
    const place = counts.findIndex(n => (below += n) >= half && half > 0);
    return place < 0 ? "" : `${time(1000 * 2 ** place)} to ${time(1000 * 2 ** (place + 1))}`;
  };
  const more = add(element, "details");
  add(more, "summary", {}, `Call sites as a table (${count(profile.sites.length)})`);
  longTable(more, [
    ["call site", site => siteName(profile, site), false], ["live", site => bytes(site.live_bytes), true],
    ["±", site => site.live_bytes_error ? bytes(site.live_bytes_error) : "", true],
    ["blocks", site => count(site.live_blocks), true], ["allocated", site => bytes(site.alloc_bytes), true],
    ["temporary", site => share(site.temporary, site.allocs), true], ["median life of freed", median, true],
    ["thread", site => site.thread], ["region", site => site.region],
  ], profile.sites, 30);
}

function neverFreed(element, profile) {
  leftOut(element, profile);
  const rows = profile.never_freed.map(place => profile.sites[place]).sort((a, b) => b.live_bytes - a.live_bytes);
  const most = greatest(rows, site => site.live_bytes);
  longTable(element, [
    ["call site", site => siteName(profile, site), false], ["live", site => bytes(site.live_bytes), true],
    ["±", site => site.live_bytes_error ? bytes(site.live_bytes_error) : "", true],
    ["blocks", site => count(site.live_blocks), true], ["on record", site => count(site.live_samples), true],
    ["thread", site => site.thread], ["region", site => site.region],
    ["", site => meter(site.live_bytes, 0, most), false],
  ], rows, 20);
  return rows.length;
}

function timeLine(element, points) {
  const lines = [["live", "live_bytes"], ["mapped", "mapped_bytes"], ["resident", "resident_bytes"]];
  const first = points[0].ms, span = Math.max(1, points[points.length - 1].ms - first);
  const most = greatest(points, point => greatest(lines, ([, field]) => point[field]));
  // A round step that gives four to eight lines.
  let step = 1024;
  while (most / step > 8) step *= 2;
  const end = Math.ceil(most / step) * step;
  colorKey(element, lines.map(([name]) => name));
  const ys = Array.from({ length: end / step + 1 }, (_, line) => [line * step / end, bytes(line * step)]);
  const xs = [0, 0.25, 0.5, 0.75, 1].map(part => [part, time((first + part * span) * 1e6).replace(/^0 ns/, "0 s")]);
  const drawn = chart(element, 260, xs, ys);
  const across = point => (point.ms - first) / span;
  lines.forEach(([, field], place) => {
    drawn.line(points.map(point => [across(point), point[field] / end]), `var(--c${place + 1})`);
  });
  const output = add(element, "output", {}, "Point at a moment.");
  const mark = add(drawn.svg, "line", { class: "mark", y1: drawn.y(0), y2: drawn.y(1), visibility: "hidden" });
  drawn.svg.addEventListener("mousemove", event => {
    const box = drawn.svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) * 1100 / box.width - drawn.x(0)) / (drawn.x(1) - drawn.x(0));
    const near = points.reduce((best, point) => Math.abs(across(point) - at) < Math.abs(across(best) - at) ? point : best);
    for (const end of ["x1", "x2"]) mark.setAttribute(end, drawn.x(across(near)));
    mark.setAttribute("visibility", "visible");
    output.textContent = `after ${time(near.ms * 1e6)}: ` + lines.map(([name, field]) => `${name} ${bytes(near[field])}`).join(", ");
  });
  return points.length;
}

function pins(element, list) {
  const rows = [...list].sort((a, b) => b.would_return_bytes - a.would_return_bytes);
  const most = greatest(rows, pin => pin.would_return_bytes);
  longTable(element, [
    ["call site", pin => pin.site, false], ["arenas", pin => count(pin.arenas), true],
    ["its blocks", pin => count(pin.blocks), true], ["their bytes", pin => bytes(pin.bytes), true],
    ["would go back", pin => bytes(pin.would_return_bytes), true],
    ["", pin => meter(pin.would_return_bytes, 0, most), false],
  ], rows, 20);
  return rows.length;
}

/// The middle and the tail of pauses on one logarithmic scale: a bar from the median to 99 %, a mark at the longest.
function pauses(generation, longest) {
  const at = ns => percent(Math.log10(Math.max(1, ns)), Math.log10(Math.max(10, longest)));
  const element = document.createElement("div");
  element.className = "range";
  const [from, to] = [at(generation.pause_p50_ns), at(generation.pause_p99_ns)];
  add(element, "i", { style: { left: `${from}%`, width: `${Math.max(0.6, to - from)}%` } });
  add(element, "b", { style: { left: `calc(${at(generation.pause_max_ns)}% - 3px)` } });
  return element;
}

function gc(element, data) {
  const longest = greatest(data.generations, generation => generation.pause_max_ns);
  const numbered = data.generations.map((generation, number) => ({ number, ...generation }));
  table(element, [
    ["generation", row => `${row.number}`, true], ["collections", row => count(row.collections), true],
    ["median pause", row => time(row.pause_p50_ns), true], ["99 %", row => time(row.pause_p99_ns), true],
    ["longest", row => time(row.pause_max_ns), true], ["1 ns to the longest, by tens", row => pauses(row, longest), false],
    ["looked at", row => count(row.candidates), true], ["freed", row => count(row.freed), true],
    ["retained", row => count(row.retained), true],
  ], numbered);
  add(element, "p", { class: "note" }, "Blue: from the median pause to that which 1 in 100 exceeds. Red: the longest.");
  const types = [...data.types].sort((a, b) => b.bytes - a.bytes);
  longTable(element, [
    ["type", type => type.name, false], ["live objects", type => count(type.objects), true],
    ["bytes", type => bytes(type.bytes), true],
  ], types, 12);
  return data.generations.length + types.length;
}

function cost(element, profile) {
  const { stats, estimated, dropped } = profile;
  const live = sum(profile.sites, site => site.live_samples) + (profile.left_out ? profile.left_out.live_samples : 0);
  const off = (estimate, exact) => exact ? `${(100 * (estimate / exact - 1)).toFixed(2)} %` : "";
  table(element, [
    ["", row => row[0]], ["by the sites", row => row[3](row[1]), true],
    ["standard error", row => row[4] ? `± ${row[3](row[4])}` : "none", true],
    ["exact counter", row => row[3](row[2]), true], ["off by", row => off(row[1], row[2]), true],
  ], [
    ["live bytes", estimated.live_bytes, stats.live_bytes, bytes, estimated.live_bytes_error],
    ["live blocks", estimated.live_blocks, stats.live_blocks, count, estimated.live_blocks_error],
  ]);
  const rows = [
    ["memory of the profile", bytes(profile.tool_bytes)],
    ["time to put this report together", report.tool_ns ? time(report.tool_ns) : "not measured"],
    ["sampling", profile.rate > 1 ? `one in ${bytes(profile.rate)}` : profile.rate === 1 ? "every block" : "nothing watched"],
    ["samples behind what is live", count(live)],
    ["stacks without room", count(dropped.stacks)], ["blocks without room", count(dropped.blocks)],
    ["walks cut by the bound", count(dropped.truncated)], ["walks that met corrupt frames", count(dropped.corrupt)],
  ];
  table(element, [["", row => row[0], false], ["", row => row[1], true]], rows);
  return rows.length + 2;
}

// ---- the page

document.querySelector("h1").textContent = `${report.program.split("/").pop() || "program"}, process ${report.pid}`;
document.querySelector("header p").textContent =
  `${new Date(report.taken_ms).toISOString().replace("T", " ").slice(0, 19)} UTC, ` +
  `${time((report.taken_ms - report.started_ms) * 1e6)} after its start`;

const profiled = report.profile && report.profile.sites.length ? report.profile : null;
const sections = [
  ["summary", "Memory", "What is live, and where every byte of the arenas is.", report.stats, "", summary],
  ["heatmap", "Arenas and pools", "A row is an arena of 1 MiB, a cell a pool of 16 KiB.",
    report.heatmap && report.heatmap.arenas.length ? report.heatmap : null, "No arena is in use, or no heat map was taken.", heatmap],
  ["requested", "Requested sizes and size classes", "What live blocks were asked for, and what rounding up to their class costs.",
    report.requested || profiled, "Requested sizes were not recorded.", report.requested ? requested : requestedBySite],
  ["latency", "Latency", "How long calls took, by path; the further right, the rarer.", report.latency, "Latency was not recorded.", latency],
  ["flame", "Call sites", "The outermost call on top; width is the chosen metric. Click to zoom.", profiled,
    "No profile was on, or it saw nothing.", flame],
  ["leaks", "Never freed", "Call sites of which nothing on record was ever freed: leaks, and what the program needs to its end.",
    profiled && profiled.never_freed.length ? profiled : null,
    profiled && profiled.left_out ? "Every call site in this page freed something; others are left out." :
      "Every call site freed something, or no profile was on.", neverFreed],
  ["timeline", "Memory over time", "Live bytes, arenas, and what is resident.", report.time_line, "No time line was recorded.", timeLine],
  ["pins", "What keeps arenas", "Call sites whose few blocks keep nearly empty arenas from going back to the system.",
    report.pins, "No nearly empty arena is held.", pins],
  ["gc", "Cycle collector", "Collections by generation, and live objects by type.",
    report.gc && report.gc.generations.length + report.gc.types.length ? report.gc : null, "Nothing to show: the cycle collector was not used, not registered (rc_gc::register_report), or only by other threads that still run.", gc],
  ["cost", "The cost of looking", "What the instrumentation itself took, and how far its estimates are from the exact counters.",
    report.profile, "No profile was on: only the counters, which are always kept.", cost],
];
for (const one of sections) section(...one);
document.body.dataset.ready = "yes";
