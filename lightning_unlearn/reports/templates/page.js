"use strict";
const find = (selector, within = document) => [...within.querySelectorAll(selector)];
const data = id => JSON.parse(document.getElementById(id).textContent);

// ---- tables
for (const table of find("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = table.querySelector("tbody.methods");
    const value = row => row.cells[column].dataset.value;
    // What was not measured stays at the end in either direction.
    const compare = (a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
      const order = column === 0 ? value(a).localeCompare(value(b)) : Number(value(a)) - Number(value(b));
      return ascending ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  }));
}
// A link to something that is folded away opens it.
const unfold = () => {
  const part = location.hash && document.getElementById(location.hash.slice(1));
  for (let one = part; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  if (part && part.tagName === "DETAILS") part.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
const hidden = document.head.appendChild(document.createElement("style"));
for (const box of find(".filter input")) box.addEventListener("change", () => {
  const off = find(".filter input:not(:checked)").map(other => `[data-${other.name}="${CSS.escape(other.value)}"]`);
  hidden.textContent = off.length ? `${off.join(",")}{display:none}` : "";
});

// ---- charts
const print = value => {
  const size = Math.abs(value);
  return size > 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(0) : String(+value.toPrecision(3));
};
const add = (parent, tag, attributes = {}, text = "") => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return parent.appendChild(node);
};
const shorten = (node, room) => {
  while (node.getComputedTextLength() > room && node.textContent.length > 3) node.textContent = `${node.textContent.slice(0, -2)}…`;
  return node.getComputedTextLength();
};
const ticks = ([one, other], log, most) => {
  const low = Math.min(one, other), high = Math.max(one, other), found = [];
  if (log) {
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1)
      for (const part of [1, 2, 5]) found.push(part * 10 ** power);
    const seen = found.filter(tick => tick >= low && tick <= high);
    const whole = seen.filter(tick => Number.isInteger(+Math.log10(tick).toFixed(9)));
    const kept = seen.length <= most || whole.length < 2 ? seen : whole;
    return kept.filter((_, place) => place % Math.ceil(kept.length / most) === 0);
  }
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = [1, 2, 5, 10].map(part => part * power).find(size => (high - low) / size <= most);
  for (let place = Math.ceil(low / step); place * step <= high; place += 1) found.push(place * step);
  return found;
};
const SHAPES = [
  "M5,0A5,5 0 1 1 -5,0A5,5 0 1 1 5,0", "M-4.5,-4.5h9v9h-9z", "M0,-6L6,5H-6z", "M0,-6.5L6,0L0,6.5L-6,0z",
  "M0,6L6,-5H-6z", "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z", "M-6,-3.5L-3.5,-6L0,-2.5L3.5,-6L6,-3.5L2.5,0L6,3.5L3.5,6L0,2.5L-3.5,6L-6,3.5L-2.5,0z",
];
const STAR = "M0,-8L2.2,-2.8L7.8,-2.4L3.5,1.2L4.9,6.6L0,3.6L-4.9,6.6L-3.5,1.2L-7.8,-2.4L-2.2,-2.8z";
const markOf = look => look ? SHAPES[look[3]] : STAR;
const dress = (node, looks, name) => {
  const look = looks[name];
  node.setAttribute("class", `series ${look ? "own" : name.startsWith("retraining") ? "floor" : name === "retrain" ? "retrain" : ""}`);
  if (look) ["--h", "--l", "--c"].forEach((key, place) => node.style.setProperty(key, look[place]));
  return node;
};

let clips = 0;
function draw(panel, looks, host, width) {
  const rows = panel.rows.length, longest = Math.max(0, ...panel.rows.map(name => name.length));
  const left = rows ? Math.min(12 + 6.6 * longest, 0.45 * width) : 46, right = width - 14, top = 20;
  const bottom = top + (rows ? 24 * rows : Math.min(Math.max(0.62 * width, 210), 330));
  host.querySelector("svg")?.remove();
  const svg = add(host, "svg", {viewBox: `0 0 ${width} ${bottom + 40}`, role: "img", "aria-label": panel.title || panel.y});
  const scale = (limits, log, from, to) => {
    const [low, high] = log ? limits.map(Math.log10) : limits;
    return value => from + (((log ? Math.log10(value) : value) - low) / (high - low)) * (to - from);
  };
  const x = scale(panel.limits[0], panel.log.includes("x"), left, right);
  const y = scale(panel.limits[1], panel.log.includes("y"), bottom, top);
  const inside = value => Math.min(Math.max(value, top), bottom), across = value => Math.min(Math.max(value, left), right);
  const axis = add(svg, "g", {class: "axis"});
  for (const tick of ticks(panel.limits[0], panel.log.includes("x"), Math.max(2, (right - left) / 60))) {
    add(axis, "line", {class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: bottom});
    add(axis, "text", {x: x(tick), y: bottom + 15, "text-anchor": "middle"}, print(tick));
  }
  add(axis, "text", {x: right, y: bottom + 33, "text-anchor": "end"}, panel.x);
  if (rows) panel.rows.forEach((name, row) => {
    shorten(add(svg, "text", {x: 0, y: y(row) + 4, "data-model": name}, name), left - 6);
  });
  else {
    for (const tick of ticks(panel.limits[1], panel.log.includes("y"), (bottom - top) / 40)) {
      add(axis, "line", {class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick)});
      add(axis, "text", {x: left - 6, y: y(tick) + 4, "text-anchor": "end"}, print(tick));
    }
    add(axis, "text", {x: 0, y: 11}, panel.y);
  }
  for (const [name, along, at, ends] of panel.lines) {
    const low = along === "x" ? left : top, high = along === "x" ? right : bottom, to = along === "x" ? x : y;
    const within = value => Math.min(Math.max(to(value), low), high);
    const box = ([a, b]) => along === "x" ? {x: Math.min(a, b), width: Math.abs(b - a), y: top, height: bottom - top} : {y: Math.min(a, b), height: Math.abs(b - a), x: left, width: right - left};
    if (ends) add(svg, "rect", {class: "band", ...box(ends.map(within))});
    const place = along === "x" ? `M${to(at)},${top}V${bottom}` : `M${left},${to(at)}H${right}`;
    add(svg, "path", {class: "goal", d: place, "data-tip": `${name}: ${print(at)}`});
  }
  const clip = add(add(svg, "clipPath", {id: `clip-${clips += 1}`}), "rect", {x: left - 6, y: top - 6, width: right - left + 12, height: bottom - top + 12});
  const taken = [], named = [];
  for (const one of panel.series) {
    const group = dress(add(svg, "g", {"data-model": one.name}), looks, one.look || one.name);
    const points = one.x.map((at, place) => [x(at), y(one.y[place])]);
    if (!rows) group.setAttribute("clip-path", `url(#${clip.parentNode.id})`);
    const told = place => [one.name, `${panel.x}: ${print(one.x[place])}`, rows ? "" : `${panel.y}: ${print(one.y[place])}`,
      one.ends[place] ? `95% interval: ${one.ends[place].map(print).join(" to ")}` : ""].filter(Boolean).join("\n");
    if (one.kind === "points") {
      const mark = markOf(looks[one.look || one.name]);
      points.forEach(([px, py], place) => {
        const ends = one.ends[place];
        if (ends) add(group, "path", {stroke: "currentcolor", "stroke-width": 1.6, d: rows
          ? `M${across(x(ends[0]))},${y(one.y[place])}H${across(x(ends[1]))}` : `M${px},${inside(y(ends[0]))}V${inside(y(ends[1]))}`});
        const height = rows ? y(one.y[place]) : py;
        add(group, "path", {d: mark, fill: "currentcolor", stroke: "var(--page)", transform: `translate(${px},${height})`, "data-tip": told(place)});
        if (!rows) {
          taken.push({x: px - 6, y: py - 6, w: 12, h: 12});
          named.push([one.name, px, py, group]);
        }
      });
      continue;
    }
    if (one.kind === "steps") {
      const steps = one.y.map((value, place) => `${place ? "L" : "M"}${x(one.x[place])},${y(value)}H${x(one.x[place + 1])}`);
      add(group, "path", {d: steps.join(""), fill: "none", stroke: "currentcolor", "stroke-width": 2, "data-tip": one.name});
      continue;
    }
    const line = points.map(point => point.join(",")).join("L");
    const thin = {fill: "none", stroke: "currentcolor", "stroke-width": one.faint ? 1 : 2, opacity: one.faint ? 0.45 : 1, "data-tip": one.name};
    if (one.ends.length && one.ends.every(Boolean) && !one.faint) {
      const low = points.map(([px], place) => `${px},${inside(y(one.ends[place][0]))}`);
      const high = points.map(([px], place) => `${px},${inside(y(one.ends[place][1]))}`).reverse();
      add(group, "path", {d: `M${[...low, ...high].join("L")}z`, fill: "currentcolor", opacity: 0.12});
    }
    add(group, "path", {d: `M${line}`, ...thin});
    if (points.length <= 60 && !one.faint) points.forEach(([px, py], place) => add(group, "circle", {cx: px, cy: py, r: points.length > 15 ? 2.5 : 4, fill: "currentcolor", "data-tip": told(place)}));
  }
  // A name goes to the nearest place around its point that is free.
  for (const [name, px, py, group] of named) {
    const text = add(group, "text", {class: "name"}, name), w = shorten(text, 0.4 * width) + 4, h = 13;
    const free = box => box.x >= left && box.x + box.w <= right + 6 && box.y >= top - 6 && box.y + box.h <= bottom
      && !taken.some(other => box.x < other.x + other.w && other.x < box.x + box.w && box.y < other.y + other.h && other.y < box.y + box.h);
    let box = null;
    for (let far = 9; far < 200 && !box; far += 6) for (let turn = 0; turn < 16 && !box; turn += 1) {
      const angle = (turn * Math.PI) / 8, cx = px + far * Math.cos(angle), cy = py + far * Math.sin(angle);
      const tried = {x: Math.cos(angle) > 0.3 ? cx : Math.cos(angle) < -0.3 ? cx - w : cx - w / 2, y: cy - h / 2, w, h};
      if (free(tried)) box = {...tried, far};
    }
    if (!box) { text.remove(); continue; }
    taken.push(box);
    text.setAttribute("x", box.x + 2);
    text.setAttribute("y", box.y + 10);
    if (box.far > 20) add(group, "path", {stroke: "currentcolor", "stroke-width": 0.7, d: `M${px},${py}L${Math.min(Math.max(px, box.x), box.x + w)},${box.y + h / 2}`});
  }
}

for (const chart of data("drawn")) for (const figure of find(`[data-chart="${CSS.escape(chart.id)}"]`)) {
  const panels = figure.appendChild(document.createElement("div"));
  panels.className = "panels";
  const unnamed = panel => panel.series.filter(one => one.kind !== "points" || (panel.rows.length && !panel.rows.includes(one.name)));
  const shown = [...new Set(chart.panels.flatMap(panel => unnamed(panel).map(one => one.name)))];
  const points = new Set(chart.panels.flatMap(panel => panel.series.filter(one => one.kind === "points").map(one => one.name)));
  if (shown.length > 1) {
    const keys = figure.appendChild(document.createElement("ul"));
    keys.className = "keys";
    for (const name of shown) {
      const item = keys.appendChild(document.createElement("li"));
      dress(item, chart.looks, name).dataset.model = name;
      if (points.has(name)) {
        item.classList.add("mark");
        add(add(item, "svg", {viewBox: "-8 -8 16 16"}), "path", {d: markOf(chart.looks[name]), fill: "currentcolor"});
      }
      item.appendChild(document.createElement("span")).textContent = name;
    }
  }
  for (const panel of chart.panels) {
    const host = panels.appendChild(document.createElement("div"));
    host.className = "panel";
    if (panel.metric) host.dataset.metric = panel.metric;
    if (panel.title) host.appendChild(document.createElement("p")).textContent = panel.title;
    let known = 0;
    // Drawn anew for every width, and first when what it is folded into opens.
    new ResizeObserver(([{contentRect: {width}}]) => {
      if (width && Math.abs(width - known) > 1) requestAnimationFrame(() => draw(panel, chart.looks, host, (known = width)));
    }).observe(host);
  }
}
const tip = document.getElementById("tip");
addEventListener("pointerover", event => {
  const told = event.target.closest?.("[data-tip]")?.dataset.tip;
  tip.hidden = !told;
  tip.textContent = told ?? "";
  tip.style.left = `${Math.min(event.pageX + 12, scrollX + document.documentElement.clientWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${event.pageY + 14}px`;
});

// ---- samples
const chosen = document.getElementById("chosen");
if (chosen) {
  const {dataset: {side, across, pictured}} = document.getElementById("confidences");
  const sure = data("confidences"), {source: before, retrain} = sure, body = document.getElementById("one-by-one");
  const looks = Object.assign({}, ...data("drawn").map(chart => chart.looks));
  const show = () => {
    const after = sure[chosen.value], all = after.map((value, place) => [value - retrain[place], place]);
    const left = all.filter(([more, place]) => before[place] - retrain[place] > 0.1 && more > (before[place] - retrain[place]) / 2);
    const known = before.filter((value, place) => value - retrain[place] > 0.1).length;
    document.getElementById("remembered").textContent = `${chosen.value} still remembers ${left.length} of the ${known} samples that the source was surer of than the retrained model is.`;
    body.replaceChildren();
    for (const [, place] of all.sort((a, b) => b[0] - a[0]).slice(0, 20)) {
      const row = body.insertRow();
      row.insertCell().textContent = `no. ${place + 1}`;
      if (pictured !== undefined) {
        const image = row.insertCell().appendChild(new Image());
        Object.assign(image, {src: "samples.png", className: "thumb", alt: `forgotten sample no. ${place + 1}`});
        image.style.objectPosition = `${-side * (place % across)}px ${-side * Math.floor(place / across)}px`;
      }
      const strip = add(row.insertCell(), "svg", {viewBox: "0 0 160 16", class: "sure", "aria-hidden": "true"});
      add(strip, "line", {x1: 6, x2: 154, y1: 8, y2: 8, stroke: "var(--line)"});
      const at = value => 6 + 148 * value;
      add(strip, "circle", {cx: at(before[place]), cy: 8, r: 4, class: "series"});
      add(dress(add(strip, "g"), looks, chosen.value), "circle", {cx: at(after[place]), cy: 8, r: 5});
      add(strip, "circle", {cx: at(retrain[place]), cy: 8, r: 4.5, style: "fill:none", stroke: "var(--text)", "stroke-width": 1.5});
      for (const value of [before, after, retrain]) row.insertCell().textContent = `${(100 * value[place]).toFixed(1)} %`;
    }
  };
  chosen.addEventListener("change", show);
  show();
}
